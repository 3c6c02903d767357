"""What a router would have earned on logged traffic, where mostly one model was asked a query.

Of each query and model a *score* is made (doubly robust): what models like it got on queries like
it, put right where the answer is known by how far that was off, over the probability with which it
came to be known. A score is right on average, though never of one query; so the mean over the
models that a router would have chosen is an estimate of what it would have earned, and without
bias, however wrong the first guess was, as long as every model had a chance. Where each model has
answered each query (probability 1), scores are the grades themselves.

A query of which no answer of the pool is known, as chance sent it to another model or its model was
out, belongs here nevertheless: left out, what is left would be chosen by what was drawn. What a
model misses by that is made up for by the answers that are known (a model's weights sum to the
number of queries, as they would on average if none were missing), which is right as long as they
are missing whatever the query; queries that no grader grades are to be left out before. It is not
right of a model that was too dear to be drawn for long queries only (`explore.max_usd_per_query`):
where two others could be drawn, nothing in a log tells of that.

Sources: Dudík, Langford, Li, Doubly Robust Policy Evaluation and Learning, arXiv:1103.4601;
Swaminathan, Joachims, The Self-Normalized Estimator for Counterfactual Learning, 2015.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from moa.intervals import Interval, Resamples

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

MOST_WEIGHT = 1000.0
"""What a known answer stands for at most. No exploration of a share that is worth its name reaches
it: 2 % over 20 models does. Above it the estimate leans on the first guess."""
FOLDS = 5
"""A query's first guess is never made from itself or its near duplicates."""
PRIOR_GRADES = 20.0
"""A domain's mean counts as many grades as it has against these of the model everywhere."""
LEAST_EVIDENCE = 50
"""Known answers of either side to queries that two routers send elsewhere. With 50 to 110 of them
95 % intervals held the truth in 90 to 97 of 100 drawn logs, with 11 to 16 in 82 to 90: errors have
a long tail, and a log that missed it does not know (tests/bench/bench_off_policy.py). Intervals in
standard errors of each drawn set were no better."""
PER = 1000
"""Money is per so many queries."""


@dataclass(frozen=True, slots=True)
class Logged:
    """n queries and the m models of a pool."""

    pool: tuple[str, ...]
    """Catalog ids."""
    domains: tuple[str, ...]
    """What each query is about, shape (n,)."""
    groups: tuple[str, ...]
    """Near duplicates share one: they are drawn together. Shape (n,)."""
    grade: Floats
    """In [0, 1], NaN where not known; shape (n, m)."""
    cost_usd: Floats
    """NaN where not known; shape (n, m)."""
    propensity: Floats
    """With which the answer came to be known, in (0, 1] where it is; shape (n, m)."""

    def __post_init__(self) -> None:
        shape = (len(self.domains), len(self.pool))
        for name in ("grade", "cost_usd", "propensity"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
        if len(self.groups) != shape[0]:
            raise ValueError(f"groups are of {shape[0]} queries, like domains")
        drawn = self.propensity[self.known]
        if not ((drawn > 0) & (drawn <= 1)).all():
            raise ValueError("a known answer has a propensity outside (0, 1]: it cannot be weighed")

    @property
    def known(self) -> Bools:
        """Which answers have grade and cost, shape (n, m)."""
        return np.asarray(np.isfinite(self.grade) & np.isfinite(self.cost_usd))

    def only(self, mask: Bools) -> Logged:
        """Some of the queries, as a mask of shape (n,)."""
        rows = np.flatnonzero(mask).tolist()
        return replace(
            self,
            domains=tuple(self.domains[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            grade=self.grade[rows],
            cost_usd=self.cost_usd[rows],
            propensity=self.propensity[rows],
        )


@dataclass(frozen=True, slots=True)
class Worths:
    """Scores of n queries and m models, see the module: right in the mean."""

    grade: Floats
    cost_usd: Floats
    known: Bools
    weight: Floats
    """Of known answers, 0 elsewhere."""
    out_of_reach: Bools
    """Answers that the log had no chance to know: its own was certain."""
    group: Ints
    """Number of each query's group, from 0, shape (n,)."""


@dataclass(frozen=True, slots=True)
class Value:
    """What one choice of models would have earned."""

    grade: Interval
    cost_usd: Interval
    """Per `PER` queries."""
    worth_usd: Interval | None
    """Willingness to pay times grade, less cost, per `PER` queries."""
    known: int
    """Queries of which the chosen model's answer is known."""
    effective: float
    """As many answers of equal weight would say as much (Kish)."""
    out_of_reach: float
    """Share of the queries whose chosen model had no chance to be known: a guess only."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One choice of models less another, on the same queries."""

    queries: int
    moved: float
    """Share of the queries that the two send elsewhere."""
    evidence: tuple[int, int]
    """Of these, known answers of the first and of the second."""
    grade: Interval
    cost_usd: Interval
    """Per `PER` queries."""
    worth_usd: Interval | None

    @property
    def measured(self) -> bool:
        """Whether enough is known for the intervals to mean anything."""
        return not self.moved or min(self.evidence) >= LEAST_EVIDENCE


@dataclass(frozen=True, slots=True)
class Draws:
    """How intervals are made."""

    willingness_to_pay: float | None
    """USD per unit of grade; `None`: nothing is said of worth."""
    seed: int = 0
    replicates: int = 1000
    confidence: float = 0.95


def worths(logged: Logged, *, most_weight: float = MOST_WEIGHT) -> Worths:
    """Score every query and model.

    Args:
        logged: at least one query.
        most_weight: that one known answer may stand for; a lower one is biased towards the guess.
    """
    known = logged.known
    weight = _weights(logged, most_weight)
    certain = np.where(known, logged.propensity, 0).sum(axis=1) >= 1 - 1e-6
    names = sorted(set(logged.groups))
    number = {name: place for place, name in enumerate(names)}

    def scored(values: Floats) -> Floats:
        guess = _guesses(np.where(known, values, 0), weight, logged)
        return guess + weight * np.where(known, values - guess, 0)

    return Worths(
        grade=scored(logged.grade),
        cost_usd=scored(logged.cost_usd),
        known=known,
        weight=weight,
        out_of_reach=certain[:, None] & ~known,
        group=np.array([number[name] for name in logged.groups], np.intp),
    )


def _weights(logged: Logged, most_weight: float) -> Floats:
    """What each known answer stands for, 0 where not known; shape (n, m). A model with fewer known
    answers than `LEAST_EVIDENCE` leans on its guess for what is missing."""
    known = logged.known
    whole = np.zeros(known.shape)
    whole[known] = 1 / logged.propensity[known]
    some = known.sum(axis=0) >= LEAST_EVIDENCE
    missing = np.where(some, len(known) / np.maximum(whole.sum(axis=0), 1), 1)
    return np.asarray(np.minimum(whole, most_weight) * missing)


def value(found: Worths, chosen: Ints, draws: Draws) -> Value:
    """What a choice would have earned.

    Args:
        found: of the queries.
        chosen: a model of each, by its place in the pool, shape (n,).
        draws: how intervals are made.
    """
    rows = np.arange(len(chosen))
    weight = found.weight[rows, chosen]
    grade, cost, worth = _intervals(
        found.group, found.grade[rows, chosen], found.cost_usd[rows, chosen], draws
    )
    squares = float((weight**2).sum())
    return Value(
        grade,
        cost,
        worth,
        known=int(found.known[rows, chosen].sum()),
        effective=float(weight.sum()) ** 2 / squares if squares else 0.0,
        out_of_reach=float(found.out_of_reach[rows, chosen].mean()),
    )


def difference(
    found: Worths, chosen: Ints, other: Ints, draws: Draws, *, among: Bools | None = None
) -> Difference:
    """What a choice would have earned more than another.

    Args:
        found: of the queries.
        chosen: a model of each, by its place in the pool, shape (n,).
        other: likewise.
        draws: how intervals are made.
        among: some of the queries, shape (n,), at least one; by default all.
    """
    some = np.flatnonzero(np.ones(len(chosen), bool) if among is None else among)
    mine, theirs = chosen[some], other[some]
    moved = mine != theirs

    def less(values: Floats) -> Floats:
        return values[some, mine] - values[some, theirs]

    grade, cost, worth = _intervals(
        found.group[some], less(found.grade), less(found.cost_usd), draws
    )
    return Difference(
        queries=len(some),
        moved=float(moved.mean()),
        evidence=(
            int((found.known[some, mine] & moved).sum()),
            int((found.known[some, theirs] & moved).sum()),
        ),
        grade=grade,
        cost_usd=cost,
        worth_usd=worth,
    )


def by_domain(
    found: Worths, domains: Sequence[str], chosen: Ints, other: Ints, draws: Draws
) -> dict[str, Difference]:
    """`difference` in each domain, with intervals that hold for all domains at once (Bonferroni).

    Domains of which too little is known are taken together, the smallest first, until enough is
    known of them; so one that is small can neither hide a fall nor be refused for chance.

    Returns:
        Domain, or several as `a + b`, → difference; the largest first.
    """
    names = np.array(domains)
    parts: list[tuple[tuple[str, ...], Bools]] = [
        ((name,), names == name) for name in sorted(set(domains))
    ]

    def enough(mask: Bools) -> bool:
        moved = mask & (chosen != other)
        rows = np.flatnonzero(moved)
        if not len(rows):
            return True
        sides = (found.known[rows, chosen[rows]].sum(), found.known[rows, other[rows]].sum())
        return bool(min(sides) >= LEAST_EVIDENCE)

    while len(parts) > 1:
        parts.sort(key=lambda part: (-int(part[1].sum()), part[0]))
        poor = [place for place, (_, mask) in enumerate(parts) if not enough(mask)]
        if not poor:
            break
        last = parts.pop(poor[-1])
        into = parts.pop(poor[-2] if len(poor) > 1 else -1)
        parts.append((tuple(sorted((*last[0], *into[0]))), last[1] | into[1]))
    shared = replace(draws, confidence=1 - (1 - draws.confidence) / len(parts))
    return {
        " + ".join(named): difference(found, chosen, other, shared, among=mask)
        for named, mask in parts
    }


def _intervals(
    group: Ints, grade: Floats, cost_usd: Floats, draws: Draws
) -> tuple[Interval, Interval, Interval | None]:
    """Of grade, cost and worth; groups are drawn, each with all of its queries."""
    price = draws.willingness_to_pay
    figures = {"grade": grade, "cost": cost_usd * PER}
    if price is not None:
        figures["worth"] = price * PER * grade - figures["cost"]
    _, group = np.unique(group, return_inverse=True)
    columns: dict[Hashable, ArrayLike] = {"queries": np.bincount(group)}
    columns |= {name: np.bincount(group, figure) for name, figure in figures.items()}
    drawn = Resamples(columns, seed=draws.seed, replicates=draws.replicates)

    def mean(name: str) -> Interval:
        return drawn.interval(
            lambda means: np.asarray(means[name] / means["queries"]), confidence=draws.confidence
        )

    return mean("grade"), mean("cost"), None if price is None else mean("worth")


def _guesses(values: Floats, weight: Floats, logged: Logged) -> Floats:
    """The mean of each model in each domain over the other folds, weighed, and drawn to the
    model's mean everywhere, which is drawn to that of all; shape (n, m)."""
    names = {name: place for place, name in enumerate(sorted(set(logged.domains)))}
    domain = np.array([names[name] for name in logged.domains], np.intp)
    fold = np.array([xxhash.xxh3_64_intdigest(g.encode()) % FOLDS for g in logged.groups], np.intp)
    guess = np.zeros(values.shape)
    for number in range(FOLDS):
        mine, rest = fold == number, fold != number
        w, wv, ww = weight[rest], (weight * values)[rest], (weight**2)[rest]
        everywhere = np.full(values.shape[1], wv.sum() / max(w.sum(), 1e-12))
        of_model = _mean(wv.sum(axis=0), w.sum(axis=0), ww.sum(axis=0), everywhere)
        inside = np.eye(len(names))[domain[rest]].T
        of_domain = _mean(inside @ wv, inside @ w, inside @ ww, of_model)
        guess[mine] = of_domain[domain[mine]]
    return guess


def _mean(weighted: Floats, weight: Floats, squares: Floats, otherwise: Floats) -> Floats:
    """A weighed mean that is drawn to another the more, the fewer grades it is of."""
    some = weight > 0
    safe = np.where(some, weight, 1)
    count = np.where(some, weight**2 / np.where(some, squares, 1), 0)
    mean = np.where(some, weighted / safe, 0)
    return np.asarray((count * mean + PRIOR_GRADES * otherwise) / (count + PRIOR_GRADES))
