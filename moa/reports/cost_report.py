"""A run → what it cost, where its queries went, and what else it could have cost.

One pass over the outcomes, one over the decisions, one over the dead letters; besides sums, at most
`matched.LIMIT` queries are held, for the comparisons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moa.bootstrap import Interval, difference, mean, saving
from moa.reports.inputs import ForecastFacts, PriceFacts, ReportInputs, RouterFacts, RunFacts
from moa.reports.matched import (
    PICO,
    SEED,
    ExpectedSample,
    Matched,
    OutcomeSample,
    match,
    usd,
)
from moa.reports.tally import (
    DeadLetterTally,
    DecisionTally,
    OutcomeTally,
    Sums,
    percentiles_s,
)

T = TypeVar("T", bound=Hashable)

LATENCY_SHARES = (0.5, 0.9, 0.99)
MOST_BINS = 120
"""Of the throughput over time."""
CALIBRATION_BINS = 8
FEWEST_GRADED = 30
"""Below so many graded queries, no figure is made of them."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What one model did in one lane; `None` and `None` for queries without an answer."""

    model: str | None
    lane: str | None
    sums: Sums


@dataclass(frozen=True, slots=True)
class Comparison:
    """A single model used for every query that it could take, beside this run on those queries."""

    model: str
    queries: int
    """Compared: answered in this run, and within the model's reach."""
    of_queries: int
    """Answered in this run, and held for comparison."""
    measured_share: float
    """Of the queries, how many of its costs come from billed or recorded tokens; the rest is what
    the router expects."""
    cost_usd: Decimal
    our_cost_usd: Decimal
    saving: Interval | None
    """Of this run against it: 1 - ours / its; `None` without queries."""
    graded_queries: int
    grade: Interval | None
    """Its mean grade; `None` when too few queries are graded."""
    our_grade: Interval | None
    """Of this run, on the same queries."""
    grade_difference: Interval | None
    """Ours minus its."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one model's successful calls, in seconds."""

    model: str
    calls: int
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of the run."""

    starts_at: datetime
    length_s: int
    queries: int
    cost_usd: Decimal


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
class CalibrationPoint:
    """Queries of about the same expected grade."""

    queries: int
    expected: float
    measured: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """All that a report says."""

    run_id: str
    pool: tuple[str, ...]
    made_at: datetime
    queries: int
    """Outcomes: one per query."""
    answered: int
    refused: int
    dead_letters: int
    shared: int
    """Answered by an equal query's call."""
    calls: int
    unknown_calls: int
    cost_usd: Decimal
    router_cost_usd: Decimal
    spend: tuple[Spend, ...]
    comparisons: tuple[Comparison, ...]
    """One per model of the pool."""
    best_constant: str | None
    """As chosen on the router's training data, before the run."""
    best_in_hindsight: str | None
    """The model with the highest mean grade on this run's own queries, within reach of all."""
    grade: Interval | None
    """Mean measured grade of this run's answers."""
    graded_queries: int
    net_saving: Interval | None
    """Against the best constant, the router's own machine paid for."""
    routes: tuple[tuple[str | None, str, int], ...]
    """Model, rule, queries."""
    fallbacks: tuple[tuple[str, str, int], ...]
    """Decided on, answered by, queries."""
    tags: tuple[tuple[str, tuple[tuple[str | None, int], ...]], ...]
    """Tag → queries by model; the commonest."""
    latencies: tuple[Latency, ...]
    throughput: tuple[Moment, ...]
    reasons: tuple[Reason, ...]
    calibration: tuple[tuple[str, tuple[CalibrationPoint, ...]], ...]
    """By model."""
    novelty: tuple[int, ...]
    """Queries by novelty, in equal bins from 0 to 1."""
    forecast: ForecastFacts
    prices: PriceFacts
    router: RouterFacts
    run: RunFacts

    def comparison(self, model: str | None) -> Comparison | None:
        """The comparison with one model."""
        return next((one for one in self.comparisons if one.model == model), None)


def build(inputs: ReportInputs) -> CostReport:
    """Read a run's tables and make its report."""
    outcomes, sample = OutcomeTally(), OutcomeSample()
    for table in inputs.outcomes():
        outcomes.add(table)
        sample.add(table)
    keys, rows = sample.finish()
    decisions, expected = DecisionTally(inputs.pool), ExpectedSample(keys, inputs.pool)
    for table in inputs.decisions():
        decisions.add(table)
        expected.add(table)
    letters = DeadLetterTally()
    for table in inputs.dead_letters():
        letters.add(table)
    matched = match(
        sample, rows, expected, inputs.graded, pool=inputs.pool, cost_usd=inputs.cost_usd
    )
    return _report(inputs, outcomes, decisions, letters, matched)


def _report(
    inputs: ReportInputs,
    outcomes: OutcomeTally,
    decisions: DecisionTally,
    letters: DeadLetterTally,
    matched: Matched,
) -> CostReport:
    sums = list(outcomes.spend.values())
    comparisons = tuple(_comparison(matched, n) for n in range(len(inputs.pool)))
    router = inputs.router
    router_usd = router.usd_per_hour * Decimal(str(router.worked_s)) / 3600
    ours = matched.our_grade
    graded = np.isfinite(ours)
    return CostReport(
        run_id=inputs.run_id,
        pool=inputs.pool,
        made_at=datetime.now(UTC),
        queries=sum(s.queries for s in sums),
        answered=sum(s.answered for s in sums),
        refused=sum(s.refused for s in sums),
        dead_letters=sum(outcomes.reasons.values()),
        shared=sum(s.shared for s in sums),
        calls=sum(s.attempts for s in sums),
        unknown_calls=sum(s.unknown_calls for s in sums),
        cost_usd=sum((s.cost_usd for s in sums), Decimal(0)),
        router_cost_usd=router_usd,
        spend=_spend(outcomes, inputs.pool),
        comparisons=comparisons,
        best_constant=router.best_constant,
        best_in_hindsight=_best_in_hindsight(comparisons),
        grade=mean(ours[graded], seed=SEED) if graded.sum() >= FEWEST_GRADED else None,
        graded_queries=int(graded.sum()),
        net_saving=_net_saving(matched, router.best_constant, router_usd),
        routes=tuple((*route, queries) for route, queries in _commonest(decisions.routes)),
        fallbacks=tuple((*way, queries) for way, queries in _commonest(outcomes.fallbacks)),
        tags=_tags(outcomes),
        latencies=_latencies(outcomes, inputs.pool),
        throughput=_throughput(outcomes),
        reasons=_reasons(outcomes, letters),
        calibration=tuple((m, _calibration(matched, n)) for n, m in enumerate(inputs.pool)),
        novelty=tuple(int(n) for n in decisions.novelty),
        forecast=inputs.forecast,
        prices=inputs.prices,
        router=router,
        run=inputs.run,
    )


def _comparison(matched: Matched, column: int) -> Comparison:
    both = matched.could_answer[:, column]
    theirs, ours = matched.cost[both, column], matched.our_cost[both]
    their_grade, our_grade = matched.grade[both, column], matched.our_grade[both]
    graded = np.isfinite(their_grade) & np.isfinite(our_grade)
    enough = graded.sum() >= FEWEST_GRADED
    pair = our_grade[graded], their_grade[graded]
    queries = int(both.sum())
    return Comparison(
        model=matched.pool[column],
        queries=queries,
        of_queries=len(matched),
        measured_share=float(matched.recorded[both, column].mean()) if queries else 0.0,
        cost_usd=usd(theirs.sum()) * matched.scale,
        our_cost_usd=usd(ours.sum()) * matched.scale,
        saving=saving(ours, theirs, seed=SEED) if queries and theirs.sum() else None,
        graded_queries=int(graded.sum()),
        grade=mean(pair[1], seed=SEED) if enough else None,
        our_grade=mean(pair[0], seed=SEED) if enough else None,
        grade_difference=difference(*pair, seed=SEED) if enough else None,
    )


def _best_in_hindsight(comparisons: Sequence[Comparison]) -> str | None:
    """By how far each is from this run on common queries, so that unlike sets can be compared."""
    known = [c for c in comparisons if c.grade_difference is not None]
    if not known:
        return None
    return min(known, key=lambda c: (c.grade_difference.value, c.model)).model  # type: ignore[union-attr]


def _net_saving(matched: Matched, model: str | None, router_usd: Decimal) -> Interval | None:
    """The router's machine is spread evenly over the queries that are compared."""
    if model not in matched.pool or not len(matched):
        return None
    column = matched.pool.index(model)
    both = matched.could_answer[:, column]
    if not both.any() or not matched.cost[both, column].sum():
        return None
    per_query = float(router_usd.scaleb(PICO)) / (matched.answered or 1)
    return saving(matched.our_cost[both] + per_query, matched.cost[both, column], seed=SEED)


def _spend(outcomes: OutcomeTally, pool: Sequence[str]) -> tuple[Spend, ...]:
    order = {model: n for n, model in enumerate(pool)}
    keys = sorted(
        outcomes.spend,
        key=lambda k: (k[0] is None, order.get(k[0] or "", 99), k[0] or "", k[1] or ""),
    )
    return tuple(Spend(model, lane, outcomes.spend[model, lane]) for model, lane in keys)


def _tags(
    outcomes: OutcomeTally, most: int = 12
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
    models = [m for m in pool if m in outcomes.latency]
    return tuple(
        Latency(
            m, int(outcomes.latency[m].sum()), *percentiles_s(outcomes.latency[m], LATENCY_SHARES)
        )
        for m in models
    )


def _throughput(outcomes: OutcomeTally) -> tuple[Moment, ...]:
    """Bins of equal length, at most `MOST_BINS`, from the first finished query to the last."""
    if not outcomes.seconds:
        return ()
    first, last = min(outcomes.seconds), max(outcomes.seconds)
    length = max(1, -(-(last - first + 1) // MOST_BINS))
    bins: dict[int, tuple[int, Decimal]] = {}
    for second, (queries, cost) in outcomes.seconds.items():
        number = (second - first) // length
        before = bins.get(number, (0, Decimal(0)))
        bins[number] = before[0] + queries, before[1] + cost
    return tuple(
        Moment(
            datetime.fromtimestamp(first + n * length, UTC), length, *bins.get(n, (0, Decimal(0)))
        )
        for n in range((last - first) // length + 1)
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


def _calibration(matched: Matched, column: int) -> tuple[CalibrationPoint, ...]:
    """Bins of equally many queries, by expected grade."""
    expected, measured = matched.expected_grade[:, column], matched.grade[:, column]
    known = np.flatnonzero(np.isfinite(expected) & np.isfinite(measured))
    if len(known) < FEWEST_GRADED:
        return ()
    order = known[np.argsort(expected[known], kind="stable")]
    bins: Iterable[NDArray[np.intp]] = np.array_split(order, CALIBRATION_BINS)
    return tuple(
        CalibrationPoint(len(part), float(expected[part].mean()), float(measured[part].mean()))
        for part in bins
        if len(part)
    )
