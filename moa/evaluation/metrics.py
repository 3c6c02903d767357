"""The figures of a router on one set of queries, with paired bootstrap intervals.

Each set that is drawn has its own frontier, hull, oracle and single models. Money is USD per 1,000
queries. What is chosen by looking at the grades (a point of the frontier, the best model in
hindsight) is chosen on the same queries that it is measured on, and flatters; the configured policy
and the best constant were fixed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation import hull
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.frontier import Sweep, value
from moa.evaluation.judged import Bools, Floats, Judged, at, bold
from moa.evaluation.strong_weak import StrongWeak, strong_weak
from moa.intervals import Interval

THOUSAND = 1000
ARENA_BETA, ARENA_LEAST_USD, ARENA_MOST_USD = 0.1, 0.0044, 200.0
"""RouterArena's constants: the weight of cost, and what 1,000 queries cost at least and at most."""
SLACK = 0.01
"""A saving is also told for a grade so far below the best constant's."""

Rows = Mapping[str, Floats]
"""Means by column; the first row is the sample, the others are drawn sets."""


@dataclass(frozen=True, slots=True)
class Point:
    """One way of answering all queries."""

    name: str
    cost_usd: Interval
    """Per 1,000 queries."""
    grade: Interval
    arena: Interval
    """RouterArena's score, arXiv:2510.00202: (1 + β) A C / (β A + C) of the mean grade A and of
    C = log(most / cost) / log(most / least), β = 0.1, from $0.0044 to $200 per 1,000 queries."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What the cheapest point of the frontier that reaches a grade saves against one model."""

    value: Interval
    """1 - cost / cost of that model; 0 where no point reaches the grade for less than it."""
    reached: bool
    """On the sample itself."""
    willingness_to_pay: float | None
    """Of that point on the sample; chosen in hindsight."""


@dataclass(frozen=True, slots=True)
class Against:
    """The router against one model that is used for every query."""

    model: str
    gap_captured: Interval
    """(quality alone - it) / (oracle - it), in mean grades; 0 is this model, 1 the oracle."""
    saving: Saving
    """At its mean grade."""
    saving_with_slack: Saving
    """At `SLACK` less than its mean grade."""
    grade_difference: Interval
    """Of the configured policy, minus its own."""
    cost_saving: Interval
    """Of the configured policy: 1 - cost / its cost."""
    worth_usd: Interval | None
    """Of the configured policy: what better or worse answers are worth plus what is saved, per
    1,000 queries; `None` when the policy has no willingness to pay."""


@dataclass(frozen=True, slots=True)
class Regret:
    """What is lost against an oracle at one willingness to pay, in USD per 1,000 queries."""

    willingness_to_pay: float
    router: Interval
    best_constant: Interval


@dataclass(frozen=True, slots=True)
class Caution:
    """How often the configured policy paid for more than was needed, or for less."""

    over: Interval
    """Share of queries where a cheaper model's answer was as good or better."""
    over_usd: Interval
    """What that cost, per 1,000 queries of all: chosen less the cheapest as good as it."""
    over_hopeless: Interval
    """Share of queries, part of `over`, that no model of the pool got any grade on."""
    under: Interval
    """Share of queries where a dearer model's answer was better."""
    under_grade: Interval
    """What that cost: mean grade over all queries, against the best of the dearer ones."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """All figures of one set of queries."""

    queries: int
    best_constant: str
    best_in_hindsight: str
    cheapest: str
    configured: Point
    quality_alone: Point
    oracle: Point
    """For quality alone; of equal grades the cheapest."""
    models: tuple[Point, ...]
    """Each used for every query, in pool order."""
    share: tuple[float, ...]
    """Of queries that the configured policy sends to each model, in pool order."""
    aiq: Interval
    """Mean height of the frontier's hull between the costs of the cheapest and dearest model."""
    aiq_oracle: Interval
    aiq_random_mix: Interval
    """Of the single models' hull: what sending queries at random to one or another can reach."""
    aiq_gain: Interval
    """The router's less the random mix's."""
    against: tuple[Against, ...]
    """Each single model, in pool order."""
    strong_weak: StrongWeak | None
    """RouteLLM's figures; `None` where the best constant is the cheapest model."""
    regret: tuple[Regret, ...]
    caution: Caution
    abstained: Interval
    """Share of queries that were too novel to judge."""

    @property
    def against_best_constant(self) -> Against:
        """The comparison that counts."""
        return next(one for one in self.against if one.model == self.best_constant)

    @property
    def of_best_constant(self) -> Point:
        """The best constant itself."""
        return next(one for one in self.models if one.name == self.best_constant)


def metrics(
    judged: Judged,
    swept: Sweep,
    policy: PolicyConfig,
    *,
    regret_at: tuple[float, ...] = (),
    seed: int = 0,
    replicates: int = 1000,
) -> Metrics:
    """Measure a router.

    Args:
        judged: the queries, at least one.
        swept: what was decided on them.
        policy: as it is configured.
        regret_at: values of `willingness_to_pay` for the regret.
        seed: of the draws.
        replicates: sets that are drawn.
    """
    rows = drawn_means(_columns(judged, swept), seed=seed, replicates=replicates)
    best, cheapest = judged.best_constant, int(rows["cost"][0].argmin())
    hindsight = min(range(len(judged.pool)), key=lambda n: (-rows["grade"][0, n], n))
    low, high = rows["cost"].min(axis=1), rows["cost"].max(axis=1)
    aiq = hull.area(rows["swept_cost"], rows["swept_grade"], low, high)
    mix = hull.area(rows["cost"], rows["grade"], low, high)
    return Metrics(
        queries=judged.queries,
        best_constant=judged.pool[best],
        best_in_hindsight=judged.pool[hindsight],
        cheapest=judged.pool[cheapest],
        configured=_point("configured policy", rows["our_cost"], rows["our_grade"]),
        quality_alone=_point(
            "quality alone", rows["swept_cost"][:, -1], rows["swept_grade"][:, -1]
        ),
        oracle=_point("oracle", rows["oracle_cost"][:, -1], rows["oracle_grade"][:, -1]),
        models=tuple(
            _point(model, rows["cost"][:, n], rows["grade"][:, n])
            for n, model in enumerate(judged.pool)
        ),
        share=tuple(float((swept.configured == n).mean()) for n in range(len(judged.pool))),
        aiq=interval(aiq),
        aiq_oracle=interval(hull.area(rows["oracle_cost"], rows["oracle_grade"], low, high)),
        aiq_random_mix=interval(mix),
        aiq_gain=interval(aiq - mix),
        against=tuple(
            _against(judged.pool[n], rows, n, swept, policy) for n in range(len(judged.pool))
        ),
        strong_weak=strong_weak(
            judged, bold(policy), weak=cheapest, points=len(swept.routed) - 2,
            seed=seed, replicates=replicates,
        ),
        regret=_regret(judged, policy, regret_at, seed=seed, replicates=replicates),
        caution=_caution(rows),
        abstained=interval(rows["abstained"]),
    )  # fmt: skip


def _columns(judged: Judged, swept: Sweep) -> dict[str, Floats]:
    ours = judged.of_chosen(judged.grade, swept.configured)
    paid = judged.of_chosen(judged.cost_usd, swept.configured)
    return {
        "grade": judged.grade,
        "cost": judged.cost_usd,
        "swept_grade": judged.of_chosen(judged.grade, swept.routed).T,
        "swept_cost": judged.of_chosen(judged.cost_usd, swept.routed).T,
        "oracle_grade": judged.of_chosen(judged.grade, swept.oracle).T,
        "oracle_cost": judged.of_chosen(judged.cost_usd, swept.oracle).T,
        "our_grade": ours,
        "our_cost": paid,
        "abstained": swept.abstained.astype(np.float64),
        **_caution_columns(judged, ours, paid),
    }


def _point(name: str, cost: Floats, grade: Floats) -> Point:
    return Point(name, interval(cost * THOUSAND), interval(grade), interval(arena(cost, grade)))


def arena(cost_usd: Floats, grade: Floats) -> Floats:
    """RouterArena's score of mean costs per query and mean grades; see `Point.arena`.

    Costs beyond its range count as its ends, as in its own code.
    """
    per_1000 = np.clip(cost_usd * THOUSAND, ARENA_LEAST_USD, ARENA_MOST_USD)
    thrift = np.log(ARENA_MOST_USD / per_1000) / np.log(ARENA_MOST_USD / ARENA_LEAST_USD)
    both = ratio((1 + ARENA_BETA) * grade * thrift, ARENA_BETA * grade + thrift)
    return np.asarray(np.nan_to_num(both))


def _against(model: str, rows: Rows, n: int, swept: Sweep, policy: PolicyConfig) -> Against:
    grade, cost = rows["grade"][:, n], rows["cost"][:, n]
    better = rows["our_grade"] - grade
    worth = None
    if policy.willingness_to_pay is not None:
        gained = float(policy.willingness_to_pay) * better + cost - rows["our_cost"]
        worth = interval(gained * THOUSAND)
    return Against(
        model=model,
        gap_captured=interval(
            ratio(rows["swept_grade"][:, -1] - grade, rows["oracle_grade"][:, -1] - grade)
        ),
        saving=_saving(rows, grade, cost, swept),
        saving_with_slack=_saving(rows, grade - SLACK, cost, swept),
        grade_difference=interval(better),
        cost_saving=interval(1 - ratio(rows["our_cost"], cost)),
        worth_usd=worth,
    )


def _saving(rows: Rows, target: Floats, cost: Floats, swept: Sweep) -> Saving:
    reaches = rows["swept_grade"] >= target[:, None] - 1e-12
    least = np.where(reaches, rows["swept_cost"], np.inf).min(axis=1)
    saved = np.maximum(0, np.nan_to_num(1 - ratio(least, cost), neginf=0))
    place = int(np.where(reaches[0], rows["swept_cost"][0], np.inf).argmin())
    found = bool(reaches[0].any())
    return Saving(
        value=interval(saved),
        reached=found,
        willingness_to_pay=float(swept.willingness_to_pay[place]) if found else None,
    )


def _regret(
    judged: Judged, policy: PolicyConfig, prices: tuple[float, ...], *, seed: int, replicates: int
) -> tuple[Regret, ...]:
    found = []
    for price in prices:
        exact = Decimal(str(price))
        worth = value(judged, exact)
        ours = judged.of_chosen(worth, judged.decide(at(policy, exact)).chosen)
        best = worth.max(axis=1)
        lost = {"router": best - ours, "constant": best - worth[:, judged.best_constant]}
        rows = drawn_means(lost, seed=seed, replicates=replicates)
        router, constant = (interval(rows[name] * THOUSAND) for name in lost)
        found.append(Regret(price, router, constant))
    return tuple(found)


def _caution_columns(judged: Judged, ours: Floats, paid: Floats) -> dict[str, Floats]:
    grade, cost = judged.grade, judged.cost_usd
    as_good = grade >= ours[:, None] - 1e-9
    least = np.where(as_good, cost, np.inf).min(axis=1)
    over = least < paid
    best_of_dearer = np.where(cost > paid[:, None], grade, -np.inf).max(axis=1)
    lost = np.maximum(0, best_of_dearer - ours)
    hopeless = over & (grade.max(axis=1) <= 0)
    return {
        "over": over.astype(np.float64),
        "over_usd": np.where(over, paid - least, 0),
        "hopeless": hopeless.astype(np.float64),
        "under": (lost > 1e-9).astype(np.float64),
        "under_grade": lost,
    }


def _caution(rows: Rows) -> Caution:
    return Caution(
        over=interval(rows["over"]),
        over_usd=interval(rows["over_usd"] * THOUSAND),
        over_hopeless=interval(rows["hopeless"]),
        under=interval(rows["under"]),
        under_grade=interval(rows["under_grade"]),
    )


@dataclass(frozen=True, slots=True)
class Curves:
    """What a frontier chart is drawn from; costs in USD per 1,000 queries."""

    willingness_to_pay: tuple[float, ...]
    cost_usd: tuple[float, ...]
    """Of the router at each willingness to pay."""
    grade: tuple[float, ...]
    corners: tuple[int, ...]
    """Those of these points that are corners of the hull, cheapest first."""
    at_cost_usd: tuple[float, ...]
    """Where the hulls below are told."""
    begins_usd: float
    """Where all but a fortieth of the drawn hulls have begun: left of it the band is no news."""
    hull: tuple[Interval, ...]
    """The router's."""
    oracle: tuple[float, ...]
    random_mix: tuple[float, ...]


def curves(judged: Judged, swept: Sweep, *, seed: int = 0, replicates: int = 1000) -> Curves:
    """The frontier, its band, the oracle's and the random mix's."""
    rows = drawn_means(_columns(judged, swept), seed=seed, replicates=replicates)
    cost, grade = rows["swept_cost"], rows["swept_grade"]
    everything = np.concatenate([rows["cost"][0], cost[0]])
    places = np.geomspace(max(everything.min(), 1e-12), max(everything.max(), 1e-12), 60)
    heights = hull.height(cost, grade, places)
    first = slice(0, 1)
    return Curves(
        willingness_to_pay=tuple(float(price) for price in swept.willingness_to_pay),
        cost_usd=_floats(cost[0] * THOUSAND),
        grade=_floats(grade[0]),
        corners=tuple(hull.corners(cost[0], grade[0])),
        at_cost_usd=_floats(places * THOUSAND),
        begins_usd=float(np.quantile(cost.min(axis=1), 0.975) * THOUSAND),
        hull=tuple(interval(heights[:, n]) for n in range(len(places))),
        oracle=_floats(
            hull.height(rows["oracle_cost"][first], rows["oracle_grade"][first], places)[0]
        ),
        random_mix=_floats(hull.height(rows["cost"][first], rows["grade"][first], places)[0]),
    )


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(float(one) for one in values)


def masks(names: tuple[str, ...]) -> dict[str, Bools]:
    """Name → the queries that bear it, in alphabetical order."""
    column = np.array(names)
    return {name: column == name for name in sorted(set(names))}
