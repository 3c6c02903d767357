"""What another router would have done: on how many queries it differs, and what that is worth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.intervals import Interval, Resamples
from moa.reports.comparisons import FEWEST_GRADED
from moa.reports.inputs import Shadowed, ShadowFacts
from moa.reports.matched import PICO, SEED, Keys, Matched, place_keys
from moa.reports.tally import per_model
from moa.reports.wording import (
    better,
    better_bounds,
    count,
    extra,
    gain,
    price,
    queries,
    share,
)

MOST_MOVES = 8
"""Ways from one model to another that are told; the commonest."""
SIDES = ("current", "shadow")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Both routers' choices on the same queries, by the expectations of one of them."""

    judge: str
    """One of `SIDES`."""
    current_grade: float
    shadow_grade: float
    current_usd: Decimal
    """Of all of these queries, live."""
    shadow_usd: Decimal


@dataclass(frozen=True, slots=True)
class Shadow:
    """A comparison of two routers by the same policy, one query at a time."""

    artifact: str
    version: str | None
    seconds: float
    failure: str | None
    queries: int
    """That both would send to a model."""
    elsewhere: int
    """Of these, to different models."""
    moves: tuple[tuple[str, str, int], ...]
    """Current model, the shadow's, queries: the commonest."""
    judged: tuple[Judged, ...]
    """By the current router, then by the shadow; none without queries."""
    graded_queries: int
    """That go elsewhere, and whose grades by both models are known."""
    grade_difference: Interval | None
    """Measured mean on these, the shadow's less the current one's; `None` of too few."""
    usd_difference: Interval | None
    """Likewise, of what one of these queries costs."""


class ShadowTally:
    """Sums over the parts that both have decided on, and both models of the sampled queries."""

    def __init__(self, pool: tuple[str, ...], keys: Keys) -> None:
        self._pool = pool
        self._keys = keys
        self.queries = 0
        self.moves: Counter[tuple[int, int]] = Counter()
        """Columns of the two models, where they differ."""
        self.sums = np.zeros((len(SIDES), len(SIDES), 2))
        """Judge, whose choice, grade and USD."""
        self.models = np.full((len(keys), len(SIDES)), -1)
        """Of each sampled query, -1 where it is not known."""

    def add(self, one: Shadowed) -> None:
        """Count one part."""
        models = np.column_stack(
            [self._columns(one.shadow[name]) for name in ("current_model", "model")]
        )
        rows = np.flatnonzero((models >= 0).all(axis=1))
        self.queries += len(rows)
        differ = models[rows][models[rows, 0] != models[rows, 1]]
        self.moves.update(map(tuple, differ.tolist()))
        for judge, table in enumerate(one):
            for number, name in enumerate(("expected_grade", "expected_cost_usd")):
                values = per_model(table[name], len(self._pool))
                for side in range(len(SIDES)):
                    self.sums[judge, side, number] += values[rows, models[rows, side]].sum()
        self._sample(one.shadow.take(pa.array(rows)), models[rows])

    def _columns(self, names: pa.ChunkedArray) -> Ints:
        at = pc.index_in(names, value_set=pa.array(self._pool, pa.string()))
        return np.asarray(pc.fill_null(at, -1).to_numpy(), np.int64)

    def _sample(self, table: pa.Table, models: Ints) -> None:
        if not len(self._keys):
            return
        keys = place_keys(table, SEED)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        hit = self._keys[at] == keys
        self.models[at[hit]] = models[hit]

    def judged(self) -> tuple[Judged, ...]:
        """By each router's own expectations."""
        if not self.queries:
            return ()
        return tuple(
            Judged(
                judge,
                float(self.sums[number, 0, 0] / self.queries),
                float(self.sums[number, 1, 0] / self.queries),
                Decimal(f"{self.sums[number, 0, 1]:.6f}"),
                Decimal(f"{self.sums[number, 1, 1]:.6f}"),
            )
            for number, judge in enumerate(SIDES)
        )


def shadow_of(facts: ShadowFacts, tally: ShadowTally, matched: Matched) -> Shadow:
    """The comparison.

    Args:
        facts: of the shadow.
        tally: of all its parts, with the keys of the matched queries.
        matched: whose grades and costs are known as far as anybody knows them.
    """
    current, other = tally.models.T
    rows = np.flatnonzero((current >= 0) & (other >= 0) & (current != other))
    lead = matched.grade[rows, other[rows]] - matched.grade[rows, current[rows]]
    usd = matched.cost[rows, other[rows]] - matched.cost[rows, current[rows]]
    graded = np.isfinite(lead)
    draws = None
    if graded.sum() >= FEWEST_GRADED:
        draws = Resamples({"lead": lead[graded], "usd": usd[graded] / 10.0**PICO}, seed=SEED)
    pool = matched.pool
    moves = sorted(tally.moves.items(), key=lambda one: (-one[1], one[0]))
    return Shadow(
        artifact=facts.artifact,
        version=facts.version,
        seconds=facts.seconds,
        failure=facts.failure,
        queries=tally.queries,
        elsewhere=tally.moves.total(),
        moves=tuple((pool[one], pool[to], number) for (one, to), number in moves[:MOST_MOVES]),
        judged=tally.judged(),
        graded_queries=round(int(graded.sum()) * matched.scale),
        grade_difference=draws.interval(lambda means: means["lead"]) if draws else None,
        usd_difference=draws.interval(lambda means: means["usd"]) if draws else None,
    )


def shadow_sentences(found: Shadow | None, value_usd: Decimal | None) -> list[str]:
    """The comparison for people: where it fails, by whose word, and what was measured."""
    if found is None:
        return []
    name = f"The shadow router {found.version or found.artifact}"
    failed = [f"{name} has failed: {found.failure}."] if found.failure else []
    if not found.queries:
        return failed or [f"{name} was given no query."]
    told = (
        f"{name} would ask another model about {count(found.elsewhere)} of "
        f"{queries(found.queries)} ({share(found.elsewhere / found.queries)})."
    )
    words = {"current": "By the current router's expectations", "shadow": "by its own"}
    judged = "; ".join(
        f"{words[one.judge]} its choices are {better(one.shadow_grade - one.current_grade)} and "
        f"cost {extra(one.shadow_usd - one.current_usd)}"
        for one in found.judged
    )
    return [*failed, told, f"{judged}.", *_measured(found, value_usd)]


def _measured(found: Shadow, value_usd: Decimal | None) -> list[str]:
    grade, usd = found.grade_difference, found.usd_difference
    if not found.elsewhere:
        return []
    if grade is None or usd is None:
        return ["Too few of these are graded for both models to say who is right."]
    told = (
        f"Measured on the {count(found.graded_queries)} of them that are graded for both models, "
        f"its answers are {better(grade.value)} ({better_bounds(grade)})"
    )
    if value_usd is None:
        return [f"{told}."]
    worth = 1000 * (float(value_usd) * grade.value - usd.value)
    return [f"{told}; at {price(value_usd)} a right answer, {gain(worth)} per 1,000 of them."]
