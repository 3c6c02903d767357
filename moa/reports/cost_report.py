"""A run → what it cost, where its queries went, and what else it could have cost.

One pass over the outcomes, one over the decisions, one over the dead letters; besides sums, at most
`matched.LIMIT` queries are held, for the comparisons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple, TypeVar

from moa.intervals import Interval
from moa.reports.calibration import Calibration, calibrations
from moa.reports.comparisons import Compared, Comparison, compare
from moa.reports.detours import DeadTally, Detour, DetourTally, Outage
from moa.reports.drift import Drift, drift
from moa.reports.exploration import Explored, explored
from moa.reports.inputs import (
    ForecastFacts,
    PolicyFacts,
    PriceFacts,
    Replay,
    ReportInputs,
    RouterFacts,
    RunFacts,
    ShadowFacts,
)
from moa.reports.matched import LIMIT, ExpectedSample, Keys, Matched, OutcomeSample, match
from moa.reports.planned import Planned, planned
from moa.reports.shadow import Shadow, ShadowTally, shadow_of
from moa.reports.tally import (
    DeadLetterTally,
    DecisionTally,
    Doubt,
    OutcomeTally,
    Sums,
    percentiles_s,
)
from moa.reports.throughput import Moment, moment_ms, throughput_of

T = TypeVar("T", bound=Hashable)

LATENCY_SHARES = (0.5, 0.9, 0.99)
MOST_TAGS = 24
"""That are shown."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What one model did in one lane; `None` and `None` for queries without an answer."""

    model: str | None
    lane: str | None
    sums: Sums


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one model's successful calls, in seconds."""

    model: str
    calls: int
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Dead letters of one kind."""

    reason: str
    queries: int
    errors: tuple[tuple[str, int], ...]
    """Error class and attempts that ended in it."""
    example: str
    """A query id."""
    detail: str


@dataclass(frozen=True, slots=True)
class CostReport:
    """All that a report says."""

    run_id: str
    pool: tuple[str, ...]
    made_at: datetime
    replayed: bool
    """No vendor was called: a server on localhost answered from recordings."""
    replay: Replay | None
    backlog: int
    """Queries to be asked or buried, the equal twins of others not counted."""
    ended: int
    """Of these, the ones that have an outcome; fewer in a run that is not finished."""
    queries: int
    """Outcomes: one per query, the twins too."""
    answered: int
    refused: int
    dead_letters: int
    shared: int
    """Answered by an equal query's call."""
    calls: int
    unknown_calls: int
    lost_answers: int
    cost_usd: Decimal
    router_cost_usd: Decimal
    decision_usd: Decimal | None
    """Of the router's machines while they were held, per query that has ended, if any has."""
    spend: tuple[Spend, ...]
    comparisons: tuple[Comparison, ...]
    """One per model of the pool."""
    best_constant: str | None
    """As chosen on the router's training data, before the run."""
    best_in_hindsight: str | None
    """The model whose mean grade is furthest above this run's, or least below: each is compared on
    the queries that both have a grade on, which differ from model to model."""
    grade: Interval | None
    """Mean measured grade of this run's answers; refusals are not graded."""
    graded_queries: int
    looked_at: int
    """Answered queries that comparisons and calibration are made from: a sample of long runs."""
    routes: tuple[tuple[str | None, str, int], ...]
    """Model, rule, queries."""
    detours: tuple[Detour, ...]
    outage: Outage | None
    """What the detours cost together, and what is left dead; `None` without either."""
    explored: Explored | None
    """What exploration cost; `None` of a run without."""
    drift: Drift | None
    """Beside the training data; `None` when nothing was answered."""
    shadow: Shadow | None
    """What another router would have done; `None` of a run without."""
    doubts: tuple[Doubt, ...]
    """The first queries of the backlog with calls that are perhaps paid and have no answer."""
    doubtful: int
    """Queries that have such calls."""
    tags: tuple[tuple[str, tuple[tuple[str | None, int], ...]], ...]
    """Tag → queries by model; the commonest."""
    tags_left_out: bool
    """There are more tags than these."""
    latencies: tuple[Latency, ...]
    throughput: tuple[Moment, ...]
    reasons: tuple[Reason, ...]
    calibration: tuple[Calibration, ...]
    """In pool order."""
    novelty: tuple[int, ...]
    """Queries by novelty, in equal bins from 0 to 1."""
    forecast: ForecastFacts
    answers_forecast_usd: Decimal
    """Of the forecast, the part of the queries that are not dead: what the bill can be held
    against."""
    prices: PriceFacts
    policy: PolicyFacts
    router: RouterFacts
    run: RunFacts
    planned: Planned | None
    """Forecast and fact of a run that was planned."""

    @property
    def pauses(self) -> tuple[int, ...]:
        """The places in `throughput` of moments that come after a pause."""
        return tuple(
            n
            for n, (one, after) in enumerate(pairwise(self.throughput), 1)
            if (after.starts_at - one.starts_at).total_seconds() > 1.5 * one.length_s
        )

    @property
    def best(self) -> Comparison | None:
        """The comparison with the best constant."""
        return self.comparison(self.best_constant)

    def comparison(self, model: str | None) -> Comparison | None:
        """The comparison with one model."""
        return next((one for one in self.comparisons if one.model == model), None)


def build(inputs: ReportInputs, *, limit: int = LIMIT) -> CostReport:
    """Read a run's tables and make its report, with comparisons on at most `limit` queries."""
    begins_ms = tuple(moment_ms(begin) for begin, _ in inputs.run.starts) or (0,)
    outcomes, sample = OutcomeTally(begins_ms=begins_ms), OutcomeSample(limit=limit)
    detours, dead = DetourTally(inputs.pool), DeadTally(inputs.pool)
    for table in inputs.outcomes():
        outcomes.add(table)
        detours.add(table, inputs.expected)
        dead.add(table, inputs.expected)
        sample.add(table)
    keys, rows = sample.finish()
    decisions, expected = DecisionTally(), ExpectedSample(keys, inputs.pool)
    for table in inputs.decisions():
        decisions.add(table)
        expected.add(table)
    letters = DeadLetterTally()
    for table in inputs.dead_letters():
        letters.add(table)
    matched = match(
        sample, rows, expected, inputs.graded, pool=inputs.pool, cost_usd=inputs.cost_usd
    )
    shadow = _shadow(inputs.shadow, keys, matched)
    return _report(inputs, _Tallies(outcomes, detours, dead, decisions, letters), matched, shadow)


class _Tallies(NamedTuple):
    """What one pass over each table has counted."""

    outcomes: OutcomeTally
    detours: DetourTally
    dead: DeadTally
    decisions: DecisionTally
    letters: DeadLetterTally


def _shadow(facts: ShadowFacts | None, keys: Keys, matched: Matched) -> Shadow | None:
    if facts is None:
        return None
    tally = ShadowTally(matched.pool, keys)
    for one in facts.parts():
        tally.add(one)
    return shadow_of(facts, tally, matched)


def _report(
    inputs: ReportInputs, tallies: _Tallies, matched: Matched, shadow: Shadow | None
) -> CostReport:
    outcomes, detours, dead, decisions, letters = tallies
    sums = list(outcomes.spend.values())
    compared = _compared(inputs, matched)
    return CostReport(
        run_id=inputs.run_id,
        pool=inputs.pool,
        made_at=datetime.now(UTC),
        replayed=inputs.replay is not None,
        replay=inputs.replay,
        backlog=inputs.backlog,
        ended=outcomes.asked,
        queries=sum(s.queries for s in sums),
        answered=sum(s.answered for s in sums),
        refused=sum(s.refused for s in sums),
        dead_letters=sum(outcomes.reasons.values()),
        shared=sum(s.shared for s in sums),
        calls=sum(s.attempts for s in sums),
        unknown_calls=sum(s.unknown_calls for s in sums),
        lost_answers=sum(s.lost_answers for s in sums),
        cost_usd=sum((s.cost_usd for s in sums), Decimal(0)),
        router_cost_usd=inputs.router.cost_usd,
        decision_usd=inputs.router.cost_usd / outcomes.asked if outcomes.asked else None,
        spend=_spend(outcomes, inputs.pool),
        comparisons=compared.comparisons,
        best_constant=inputs.router.best_constant,
        best_in_hindsight=_best_in_hindsight(compared.comparisons),
        grade=compared.grade,
        graded_queries=compared.graded_queries,
        looked_at=len(matched),
        routes=tuple((*route, queries) for route, queries in _commonest(decisions.routes)),
        detours=detours.detours(inputs.policy.willingness_to_pay),
        outage=detours.outage(outcomes.reasons, inputs.policy.willingness_to_pay),
        explored=explored(decisions, matched, value_usd=inputs.policy.willingness_to_pay),
        drift=_drift(inputs, matched),
        shadow=shadow,
        doubts=tuple(outcomes.doubts),
        doubtful=outcomes.doubtful,
        tags=_tags(outcomes),
        tags_left_out=outcomes.tags_dropped or len({t for t, _ in outcomes.tags}) > MOST_TAGS,
        latencies=_latencies(outcomes, inputs.pool),
        throughput=throughput_of(outcomes, inputs.run.starts),
        reasons=_reasons(outcomes, letters),
        calibration=calibrations(matched),
        novelty=tuple(int(n) for n in decisions.novelty),
        forecast=inputs.forecast,
        answers_forecast_usd=max(Decimal(0), inputs.forecast.cost_usd - dead.expected_usd),
        prices=inputs.prices,
        policy=inputs.policy,
        router=inputs.router,
        run=inputs.run,
        planned=_planned(inputs, outcomes, decisions, compared),
    )


def _planned(
    inputs: ReportInputs, outcomes: OutcomeTally, decisions: DecisionTally, compared: Compared
) -> Planned | None:
    """The plan beside what came of it."""
    grade = None if compared.grade is None else compared.grade.value
    return planned(
        inputs.plans, outcomes.spend, decisions.lanes, ended_at=outcomes.last_at, grade=grade
    )


def _drift(inputs: ReportInputs, matched: Matched) -> Drift | None:
    return drift(
        matched,
        best_constant=inputs.router.best_constant,
        value_usd=inputs.policy.willingness_to_pay,
        domains=inputs.domains,
        taught=inputs.taught,
    )


def _compared(inputs: ReportInputs, matched: Matched) -> Compared:
    value_usd = inputs.policy.willingness_to_pay
    return compare(matched, router_usd=inputs.router.cost_usd, value_usd=value_usd)


def _best_in_hindsight(comparisons: Sequence[Comparison]) -> str | None:
    """By how far each is from this run on common queries, so that unlike sets can be compared."""
    leads = [
        (c.grade_difference.value, c.model) for c in comparisons if c.grade_difference is not None
    ]
    return min(leads)[1] if leads else None


def _spend(outcomes: OutcomeTally, pool: Sequence[str]) -> tuple[Spend, ...]:
    keys = sorted(
        outcomes.spend,
        key=lambda k: (k[0] is None, _place(pool, k[0] or ""), k[0] or "", k[1] or ""),
    )
    return tuple(Spend(model, lane, outcomes.spend[model, lane]) for model, lane in keys)


def _place(pool: Sequence[str], model: str) -> int:
    """In the pool; what a redrive has asked outside of it comes last."""
    return pool.index(model) if model in pool else len(pool)


def _tags(
    outcomes: OutcomeTally, most: int = MOST_TAGS
) -> tuple[tuple[str, tuple[tuple[str | None, int], ...]], ...]:
    by_tag: dict[str, dict[str | None, int]] = {}
    for (tag, model), queries in outcomes.tags.items():
        by_tag.setdefault(tag, {})[model] = queries
    commonest = sorted(by_tag, key=lambda t: (-sum(by_tag[t].values()), t))[:most]
    return tuple(
        (tag, tuple(sorted(by_tag[tag].items(), key=lambda i: (-i[1], i[0] or ""))))
        for tag in commonest
    )


def _latencies(outcomes: OutcomeTally, pool: Sequence[str]) -> tuple[Latency, ...]:
    models = sorted(outcomes.latency, key=lambda m: (_place(pool, m), m))
    return tuple(
        Latency(
            m, int(outcomes.latency[m].sum()), *percentiles_s(outcomes.latency[m], LATENCY_SHARES)
        )
        for m in models
    )


def _commonest(counts: Counter[T]) -> list[tuple[T, int]]:
    """By count, then by name: the order in which tables came shall not be seen."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


def _reasons(outcomes: OutcomeTally, letters: DeadLetterTally) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            reason,
            queries,
            tuple(_commonest(letters.errors[reason])),
            *letters.example.get(reason, ("", "")),
        )
        for reason, queries in _commonest(outcomes.reasons)
    )
