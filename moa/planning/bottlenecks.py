"""What keeps a run from ending sooner, and what twice as much of it would save.

Each limit is tried by itself: what binds is whatever would alone take as long as all together, and
what helps is found by reckoning with twice as much. So nothing is said here that the reckoning of
time (`sizing`) does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import NamedTuple

from moa.catalog import Limits
from moa.planning.sizing import Case, budget_used, end

TWICE = 2.0
LIFTED = 1e9
"""So many times a limit are none."""
AS_LONG = 0.999
"""A limit that alone takes this share of what the slowest takes binds with it."""
UNMOVED = 1e-6
"""A share of the time by which it changes without a reason."""
WORTH_TELLING = 0.005
"""Of the time to the end."""
BUDGET, DEADLINE = "budget", "deadline"
_MACHINES = {
    "router": "router_per_s",
    "CPUs for reading": "tasks_per_s",
    "dispatch CPUs": "calls_per_s",
    "calls at once": "max_in_flight",
}
"""Limits of machines: as twice the replicas, each for its own part."""
_WAITS = {"batch turnaround": "batch_hours", "flex answers": "flex_minutes"}
"""Waits that no limit of ours shortens."""
_DRIVER = {"planning": "plan_s", "report": "report_s"}
"""What one process does alone."""


class Limit(NamedTuple):
    """Something that a run could be given more of."""

    name: str
    """`openai/gpt-6-luna rpm`, `router`, `calls at once`."""
    times: Callable[[Case, float], Case]
    """The case with so many times as much."""
    can_be_raised: bool = True
    in_turns: bool = False
    """Queries wait for it as often as batches have to end first."""


class Bound(NamedTuple):
    """How long a limit takes by itself, in seconds, with no other in its way."""

    name: str
    seconds: float
    binds: bool


class Help(NamedTuple):
    """What twice as much of a limit would save."""

    name: str
    saves_s: float


def limits(case: Case) -> Iterator[Limit]:
    """All that could slow a case down."""
    for name, key in _MACHINES.items():
        yield Limit(name, partial(_machine, key))
    for number, model in enumerate(case.models):
        for field in fields(Limits):
            if getattr(model.limits, field.name) is not None:
                of_one = partial(_limit, number, field.name)
                in_turns = field.name == "batch_queue_tokens"
                yield Limit(f"{model.id} {field.name}", of_one, in_turns=in_turns)
    for name, key in _WAITS.items():
        yield Limit(name, partial(_wait, key), can_be_raised=False)
    for name, key in _DRIVER.items():
        yield Limit(name, partial(_driver, key), can_be_raised=False)


def bounds(case: Case) -> list[Bound]:
    """Limits that take time, slowest first."""
    every = list(limits(case))
    waits = [one for one in every if one.name in _WAITS]
    free_s = _lifted_s(case, every, [])
    waiting_s = _lifted_s(case, every, waits)
    found = {}
    for one in every:
        alone_s = _lifted_s(case, every, [one, *waits] if one.in_turns else [one])
        least_s = waiting_s if one.in_turns else free_s
        if alone_s > least_s * (1 + UNMOVED):
            found[one.name] = alone_s - free_s
    slowest_s = max(found.values(), default=0.0)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Bound(name, s, s >= AS_LONG * slowest_s) for name, s in ordered]


def _lifted_s(case: Case, every: Sequence[Limit], but: Sequence[Limit]) -> float:
    """The time to the end with no limits but some."""
    names = {one.name for one in but}
    lifted = [one for one in every if one.name not in names]
    return end(_times(case, lifted, LIFTED)).expected


def binding(case: Case, limiting: Sequence[Bound]) -> list[str]:
    """What binds: the slowest limits; the budget and the deadline where they cannot be kept.

    Args:
        case: as it is.
        limiting: its `bounds`.
    """
    found = [one.name for one in limiting if one.binds]
    if case.usd is not None and budget_used(case) > case.usd:
        found.append(BUDGET)
    if case.seconds is not None and end(case).expected > case.seconds:
        found.append(DEADLINE)
    return found


def helps(case: Case, limiting: Sequence[Bound]) -> list[Help]:
    """What is worth having twice, greatest saving first; and of limits that bind together, all of
    them at once, for none of them would help alone.

    Args:
        case: as it is.
        limiting: its `bounds`.
    """
    now_s = end(case).expected
    slowest = {one.name for one in limiting if one.binds}
    every = [one for one in limits(case) if one.can_be_raised]
    tried = [[one] for one in every]
    if len(slowest) > 1:
        tried.append([one for one in every if one.name in slowest])
    found = [
        Help(
            " and ".join(one.name for one in some), now_s - end(_times(case, some, TWICE)).expected
        )
        for some in tried
    ]
    worth = [one for one in found if one.saves_s > WORTH_TELLING * now_s]
    return sorted(worth, key=lambda one: (-one.saves_s, one.name))


def _times(case: Case, some: Sequence[Limit], factor: float) -> Case:
    for one in some:
        case = one.times(case, factor)
    return case


def _machine(key: str, case: Case, factor: float) -> Case:
    more = {key: getattr(case.machines, key) * factor}
    return replace(case, machines=replace(case.machines, **more))


def _limit(number: int, name: str, case: Case, factor: float) -> Case:
    model = case.models[number]
    amount = getattr(model.limits, name) * factor
    whole = round(amount) if name == "max_in_flight" else amount
    more = replace(model, limits=replace(model.limits, **{name: whole}))
    return replace(case, models=(*case.models[:number], more, *case.models[number + 1 :]))


def _wait(key: str, case: Case, factor: float) -> Case:
    shorter = case.plan.model_copy(update={key: getattr(case.plan, key) / factor})
    return replace(case, plan=shorter)


def _driver(key: str, case: Case, factor: float) -> Case:
    return replace(case, driver=replace(case.driver, **{key: getattr(case.driver, key) / factor}))
