"""How long a backlog takes from its first row to its report, and what that costs: for so many
queries, shared out among models and lanes, on machines of so many replicas. Pure: nothing is
looked up and nobody asked.

Vendors' part of it is what the planner forecasts of a plan (`ending`, `forecast`); what is added is
the router, the dispatchers' own CPUs, the driver and the files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from moa.catalog import Lane, Model
from moa.plan_config import PlanConfig
from moa.planning.capacities import HOUR_S, USED_OF_TIME, Situation
from moa.planning.ending import Interval, Work, ends_in_s
from moa.planning.forecast import cost_interval, work_of
from moa.planning.pace import MINUTE_S, answer_s
from moa.planning.totals import Totals

MOST_REPLICAS = 1_000_000
"""More are not looked for."""
BESIDE_CALLS = 0.25
"""Of what calls take, that scoring before them may where it is not the deadline that says it."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What a run is given, and what that does in a second."""

    router_replicas: int
    router_per_s: float
    """Queries that one of them scores."""
    router_usd_per_hour: float
    """Of one."""
    task_cpus: float
    """For reading and deciding, beside the actors."""
    tasks_per_s: float
    """Queries that one of these reads, and decides on."""
    dispatch_replicas: int
    dispatch_cpus: float
    """Of one."""
    calls_per_s: float
    """That one has CPU for; rows of batches are counted like calls."""
    max_in_flight: float
    """Calls at once of an account, of one replica."""
    usd_per_cpu_hour: float

    @property
    def cpus(self) -> float:
        """Of all but the router, with one for the driver."""
        return self.dispatch_replicas * self.dispatch_cpus + self.task_cpus + 1


@dataclass(frozen=True, slots=True)
class Driver:
    """What is done once for all queries, and what of them is held or written."""

    start_s: float
    """Until the first row is read: Ray, the router's weights."""
    plan_s: float
    """A query's share of planning."""
    report_s: float
    """A query's share of the report."""
    part_rows: int
    partition_rows: int
    """Of a row group, or of a JSONL file."""
    scan_bytes: float
    """Held of each row."""
    plan_bytes: float
    """Held of each query that a plan is made from."""
    most_planned: int
    """Queries that a plan is made from, at most."""


@dataclass(frozen=True, slots=True)
class Case:
    """A backlog, who answers it, and with what machines."""

    queries: int
    models: tuple[Model, ...]
    lanes: tuple[Lane, ...]
    totals: Totals
    """Of all queries, shape (models, lanes)."""
    plan: PlanConfig
    """What is reckoned of batches and of flex."""
    planned: bool
    """The first is sent when all are scored."""
    machines: Machines
    driver: Driver
    usd: float | None = None
    """The budget of calls; with a plan, of the router's machines too."""
    seconds: float | None = None
    """The deadline, from the start."""


class Spans(NamedTuple):
    """How long the parts of a run take, in seconds."""

    start: float
    score: float
    """With reading and deciding."""
    plan: float
    calls: Interval
    report: float


class Costs(NamedTuple):
    """In USD."""

    calls: Interval
    router: float
    cpus: float

    @property
    def all(self) -> float:
        """What is expected."""
        return self.calls.expected + self.router + self.cpus


def spans(case: Case) -> Spans:
    """How long each part takes by itself."""
    machines, driver = case.machines, case.driver
    score_s = max(
        case.queries / (machines.router_replicas * machines.router_per_s),
        case.queries / (machines.task_cpus * machines.tasks_per_s),
    )
    return Spans(
        start=driver.start_s,
        score=score_s,
        plan=driver.plan_s * case.queries if case.planned else 0.0,
        calls=_calls_span(case),
        report=driver.report_s * case.queries,
    )


def end(case: Case) -> Interval:
    """When the report is there, from the start: with a plan one part after the other, without one
    calls are made while queries are scored.
    """
    one = spans(case)
    return Interval(
        *(_end(case, one, s) for s in (one.calls.low, one.calls.expected, one.calls.high))
    )


def _end(case: Case, one: Spans, calls_s: float) -> float:
    both_s = one.score + one.plan + calls_s if case.planned else max(one.score, calls_s)
    return one.start + both_s + one.report


def _calls_span(case: Case) -> Interval:
    machines = case.machines
    now = Situation(
        case.queries, in_flight=ceil(machines.dispatch_replicas * machines.max_in_flight)
    )
    span = ends_in_s(case.models, _works(case), now, case.plan)
    own_s = float(case.totals.queries.sum()) / (machines.dispatch_replicas * machines.calls_per_s)
    return Interval(*(max(s, own_s) for s in (span.low, span.expected, span.high)))


def _works(case: Case) -> list[Work]:
    """What each model is given, pool order."""
    return [work_of(case.totals, number, case.lanes) for number in range(len(case.models))]


def costs(case: Case) -> Costs:
    """What a run costs: its calls, the router while it scores, all other CPUs from start to end."""
    machines, one = case.machines, spans(case)
    router_s = machines.router_replicas * (one.start + one.score)
    return Costs(
        calls=cost_interval(case.totals, case.lanes),
        router=router_s / HOUR_S * machines.router_usd_per_hour,
        cpus=machines.cpus * end(case).expected / HOUR_S * machines.usd_per_cpu_hour,
    )


def budget_used(case: Case) -> float:
    """Of the budget, what is expected to be spent, in USD: see `Case.usd`."""
    spent = costs(case)
    return spent.calls.expected + (spent.router if case.planned else 0.0)


class AccountLoad(NamedTuple):
    """What one account has to bear."""

    account: str
    calls_per_minute: float
    calls_at_once: float
    """By Little's law: calls a second times how long one takes."""


def loads(case: Case) -> list[AccountLoad]:
    """Live and flex calls of each account, spread over the time that calls take."""
    seconds = max(spans(case).calls.expected, 1e-9)
    calls: dict[str, float] = {}
    busy_s: dict[str, float] = {}
    for model, work in zip(case.models, _works(case), strict=True):
        if work.calls:
            one_s = answer_s(work.output_tokens / work.calls)
            calls[model.provider] = calls.get(model.provider, 0.0) + work.calls
            busy_s[model.provider] = busy_s.get(model.provider, 0.0) + work.calls * one_s
    return [
        AccountLoad(name, calls[name] / seconds * MINUTE_S, busy_s[name] / seconds)
        for name in sorted(calls)
    ]


def with_enough(case: Case) -> Case:
    """The same with as few replicas as the deadline allows.

    Without a deadline, or where the vendors' limits let none be kept, with as many as keep the
    router and the dispatchers from being what is waited for. Where neither vendors nor a deadline
    limit anything, dispatchers stay as they are.
    """
    case = _with_dispatchers(case)
    score_s = _score_s(case)
    machines = replace(
        case.machines,
        router_replicas=max(1, _up(case.queries / case.machines.router_per_s / score_s)),
        task_cpus=max(1, _up(case.queries / case.machines.tasks_per_s / score_s)),
    )
    return replace(case, machines=machines)


def _score_s(case: Case) -> float:
    """How long scoring may take."""
    calls_s = spans(case).calls.expected
    if case.seconds:
        room_s = _room_s(case, calls_s if case.planned else 0.0)
        if room_s >= (BESIDE_CALLS * calls_s if case.planned else calls_s):
            return room_s
    return BESIDE_CALLS * calls_s if case.planned else calls_s


def _with_dispatchers(case: Case) -> Case:
    vendors_s = spans(_dispatching(case, MOST_REPLICAS)).calls.expected
    target_s = vendors_s
    if case.seconds:  # with a plan, scoring has half of what is left
        target_s = max(vendors_s, _room_s(case, 0.0) / (2 if case.planned else 1))
    elif vendors_s <= 2 * _last_answers_s(case):
        return case
    least, most = 1, MOST_REPLICAS
    while least < most:
        middle = (least + most) // 2
        if spans(_dispatching(case, middle)).calls.expected <= target_s * (1 + 1e-9):
            most = middle
        else:
            least = middle + 1
    return _dispatching(case, least)


def _dispatching(case: Case, replicas: int) -> Case:
    return replace(case, machines=replace(case.machines, dispatch_replicas=replicas))


def _room_s(case: Case, calls_s: float) -> float:
    """What the deadline leaves beside the driver's own work, and a reserve for what comes late."""
    one = spans(case)
    assert case.seconds is not None
    return case.seconds * USED_OF_TIME - one.start - one.plan - one.report - calls_s


def _last_answers_s(case: Case) -> float:
    """What no limit can shorten: one answer after another."""
    answers = [answer_s(one.output_tokens / one.calls) for one in _works(case) if one.calls]
    return 2 * max(answers, default=0.0)


def _up(number: float) -> int:
    return ceil(number * (1 - 1e-9))


class Held(NamedTuple):
    """What a run leaves and what its driver holds."""

    parts: int
    files: int
    """Of a run in which each part has something for each provider and lane, and no dead letters."""
    driver_bytes: float


def held(case: Case) -> Held:
    """Files of the run folder, and the driver's memory for the backlog."""
    driver = case.driver
    whole, rest = divmod(case.queries, driver.partition_rows)
    per_partition = ceil(driver.partition_rows / driver.part_rows)
    parts = whole * per_partition + ceil(rest / driver.part_rows)
    planned = min(case.queries, driver.most_planned) if case.planned else 0
    return Held(
        parts=parts,
        files=parts * (2 + len(_pieces(case))) + OTHER_FILES + case.planned,
        driver_bytes=case.queries * driver.scan_bytes + planned * driver.plan_bytes,
    )


OTHER_FILES = 8
"""The lock, `config.json`, one of `starts`, two of the scan, three of the report. The manifest,
which lists them, and journals, which are removed, are not counted."""


def _pieces(case: Case) -> set[tuple[str, bool]]:
    """Account, and whether in batches: what a part is cut into."""
    return {
        (model.provider, lane == "batch")
        for number, model in enumerate(case.models)
        for column, lane in enumerate(case.lanes)
        if case.totals.queries[number, column]
    }
