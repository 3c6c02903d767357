"""The search for a problem's prices: how far they go, how they are improved, when there are none.

Points are prices in units of `reach`, so that those of money, queries and tokens are alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from moa.planning.capacity import Backlog, Bools, Floats
from moa.planning.dual import At, Dual, Ranges
from moa.planning.level_method import Planes, Region, minimise
from moa.planning.valuation import USD, Terms

FEW_ROWS = 20_000
"""For the bundle method: 3 ms an evaluation."""
MORE_ROWS = 200_000
"""For second derivatives: a percent exact."""
JITTER = 2e-4
"""Of what the capacities are worth; what it can cost at most, and how fine a price must be to
divide queries that are all alike."""
TOLERANCE = 1e-9
"""Of the bound."""
NEWTON_STEPS = 8
BACKTRACKS = 3
"""Steps are tried at a quarter of their length so often."""
RIDGE = 1e-6
"""What is added to second derivatives: where nothing answers to a price, it moves by no more."""
HOLDS = 40
NOTHING = 1e-5
"""Of `reach`: a price below it is the bundle method's 0."""
WIDEST = 1e6
"""How far prices may be beyond what makes a capacity as dear as worth is wide."""
OVERUSE = 1e-9
"""Of what a capacity's use can be moved by: less is rounding."""
SHORT = 1e-4
"""Of the same: with more beyond a limit after all steps, whether it can be kept is asked."""


class Found(NamedTuple):
    """The least value of a dual."""

    search: Search
    """On the whole backlog."""
    sample: Search
    """The largest sample that is kept as columns; of a small backlog, the whole."""
    prices: Floats
    jitter: float
    at: At
    """With the jitter."""
    joint: Floats
    """See `completion`."""
    bound: float
    """Without."""


@dataclass(slots=True)
class Search:
    """A problem while its prices are being found. Points are prices in units of `reach`."""

    dual: Dual
    ranges: Ranges
    kept: Bools
    """Capacities that can bind at all."""
    evaluations: int = 0

    @property
    def reach(self) -> Floats:
        """USD per unit of use, for the backlog's own size."""
        usd = self.ranges.usd / self.ranges.use
        return np.where(self.kept, usd, 0.0)

    def at(self, point: Floats, jitter: float = 0.0) -> At:
        """Evaluate at a point."""
        self.evaluations += 1
        return self.dual.at(point * self.reach, jitter)

    def slope(self, at: At) -> Floats:
        """Of the dual, in units of the ranges."""
        return np.where(self.kept, (self.dual.terms.limit - at.use) / self.ranges.use, 0.0)

    def sample(self, rows: int, seed: int) -> Search:
        """So many of its queries, with limits in proportion; the whole if there are no more."""
        dual, ranges = self.dual, self.ranges
        share = min(1.0, rows / max(1, dual.backlog.rows))
        if share == 1.0:
            return Search(Dual.of_few(dual.terms, dual.backlog), ranges, self.kept)
        chosen = np.random.default_rng(seed).choice(dual.backlog.rows, rows, replace=False)
        terms = replace(dual.terms, limit=dual.terms.limit * share)
        few = Dual.of_few(terms, dual.backlog.take(np.sort(chosen)))
        own = few.ranges()
        scaled = ranges._replace(
            least=ranges.least * share,
            most=ranges.most * share,
            worst_usd=own.worst_usd,
            best_usd=own.worst_usd + (ranges.best_usd - ranges.worst_usd) * share,
        )
        return Search(few, scaled, self.kept)

    def bundle(self, start: Floats) -> Floats | None:
        """The best point by the bundle method; `None` where no plan keeps the limits."""
        worst, wide = self.ranges.worst_usd, self.ranges.usd

        def function(point: Floats) -> tuple[float, Floats]:
            at = self.at(point)
            return (at.value - worst) / wide, self.slope(at)

        planes, top = Planes(len(start)), 4.0
        while True:
            found = minimise(
                function,
                start,
                Region.box(top, len(start)),
                tolerance=self._tolerance,
                max_evaluations=100 + 20 * len(start),
                planes=planes,
                enough=-OVERUSE,
            )
            if found.value < -OVERUSE:
                return None
            start = found.point
            if start.max() < 0.99 * top or top > WIDEST:
                return start
            if overuse(self) is not None:
                return None
            top *= 16

    @property
    def _tolerance(self) -> float:
        """Of values in units of how wide worth is."""
        size = max(abs(self.ranges.worst_usd), abs(self.ranges.best_usd))
        return max(TOLERANCE * min(1.0, size / self.ranges.usd), 1e-12)

    def polish(self, point: Floats, jitter: float, slopes_from: Search) -> tuple[Floats, At]:
        """Newton's method, with the second derivatives of a sample."""
        at = self.at(point, jitter)
        for _ in range(NEWTON_STEPS):
            if self._is_done(point, at):
                break
            step = newton_step(
                slopes_from.curvature(point, jitter), self.slope(at), point, self._trust(point)
            )
            for _ in range(BACKTRACKS):
                there = self.at(point + step, jitter)
                if there.value < at.value:
                    break
                step = step / 4
            else:
                break
            better = (at.value - there.value) / self.ranges.usd
            point, at = np.maximum(point + step, 0.0), there
            if better < 1e-10:
                break
        return point, at

    def curvature(self, point: Floats, jitter: float) -> Floats:
        """Second derivatives in units of how wide worth is; the same for a sample and for all."""
        reach = self.reach
        return self.dual.curvature(point * reach, jitter, reach) / self.ranges.usd

    @staticmethod
    def _trust(point: Floats) -> Floats:
        return np.maximum(0.5 * point, 0.02)

    def _is_done(self, point: Floats, at: At) -> bool:
        """Whether limits are kept and what is priced is used up, as far as single queries allow."""
        slope, small = self.slope(at), max(1e-6, 0.1 / self.dual.backlog.rows)
        return bool(np.abs(slope * point).sum() < small and (slope > -10 * small).all())


def newton_step(curvature: Floats, slope: Floats, point: Floats, trust: Floats) -> Floats:
    """The step to the least value of a quadratic, with no coordinate below 0 or beyond `trust`.

    Coordinates that would leave their span are held at its end, until the set of them stays.
    """
    matrix = curvature + np.diag(RIDGE * np.diag(curvature) + RIDGE**2)
    low, high = -np.minimum(point, trust), trust
    step = np.zeros(len(point))
    held = np.full(len(point), -1)
    for _ in range(HOLDS):
        wanted = step - (matrix @ step + slope) / np.diag(matrix)
        now = np.where(wanted <= low, 0, np.where(wanted >= high, 2, 1))
        if (now == held).all():
            break
        held = now
        step = np.where(held == 0, low, np.where(held == 2, high, 0.0))
        free = held == 1
        if free.any():
            rest = slope + matrix @ step
            step[free] = np.linalg.solve(matrix[np.ix_(free, free)], -rest[free])
    return np.clip(step, low, high)


def overuse(search: Search) -> Floats | None:
    """A proof that no plan keeps the limits: prices at which, for nothing else, even what is used
    least costs more than all limits together; `None` where there is none.
    """
    terms = search.dual.terms
    bare = replace(search, dual=replace(search.dual, terms=replace(terms, worth=0 * terms.worth)))

    def function(point: Floats) -> tuple[float, Floats]:
        at = bare.at(point / search.ranges.usd)
        return at.value, search.slope(at)

    count = terms.count
    found = minimise(
        function,
        np.where(search.kept, 1 / count, 0.0),
        Region(1.0, np.ones(count, np.bool_)),
        tolerance=OVERUSE,
        max_evaluations=100 + 20 * count,
        enough=-OVERUSE,
    )
    search.evaluations += found.evaluations
    return found.point if found.value < -OVERUSE else None


def search_prices(backlog: Backlog, terms: Terms, seed: int) -> Found | None:
    """The prices at which the dual is least; `None` where no plan keeps the limits."""
    dual = Dual(terms, backlog)
    ranges = dual.ranges()
    if (ranges.least > terms.limit + OVERUSE * np.abs(terms.limit)).any():
        return None
    search = Search(dual, ranges, ranges.most > terms.limit)
    point = np.zeros(terms.count)
    at = search.at(point)
    if (at.use <= terms.limit).all():
        return Found(search, search.sample(FEW_ROWS, seed), point, 0.0, at, point, at.value)
    few = search.sample(FEW_ROWS, seed)
    begun = few.bundle(point)
    if begun is None and few.dual.backlog.rows == backlog.rows:
        return None
    if begun is None:
        # The sample cannot keep its limits; all may.
        begun = None if overuse(search) is not None else search.bundle(point)
    return None if begun is None else _refine(search, few, begun, seed)


def _refine(search: Search, few: Search, point: Floats, seed: int) -> Found | None:
    """From the best point of a few queries to that of all."""
    rows, terms = search.dual.backlog.rows, search.dual.terms
    at = begun = few.at(point)
    point = np.where((point < NOTHING) & (at.use <= few.dual.terms.limit), 0.0, point)
    jitter = 0.0
    if point.any():
        priced = float((point * few.reach) @ np.abs(few.dual.terms.limit))
        spent = float(at.sums[USD].sum())
        jitter = JITTER * min(priced + spent, abs(at.value)) / few.dual.backlog.rows
    sample = few
    point, at = few.polish(point, jitter, few)
    if rows > MORE_ROWS:
        sample = search.sample(MORE_ROWS, seed + 1)
        point, at = sample.polish(point, jitter, sample)
    if rows > FEW_ROWS:
        point, at = search.polish(point, jitter, sample)
        short = (at.use - terms.limit) / search.ranges.use
        if (short[search.kept] > SHORT).any() and overuse(search) is not None:
            return None
    else:
        search.evaluations += few.evaluations
    bound = search.at(point).value
    if rows <= FEW_ROWS:
        bound = min(bound, begun.value)
    joint = completion(few, point * few.reach)
    return Found(search, sample, point * search.reach, jitter, at, joint, bound)


def completion(search: Search, prices: Floats) -> Floats:
    """Weights of capacities, of which the dearest has 1: what is left of the weighted sum of all
    limits must be enough for the least weighted use of the queries that are left.

    They are the prices of the other capacities where as little of the dearest is used as can be:
    the cheapest options may be full. Zeros where nothing binds.
    """
    terms, ranges = search.dual.terms, search.ranges
    nothing = np.zeros(terms.count)
    if not prices.any():
        return nothing
    dearest = int((prices * np.abs(terms.limit)).argmax())
    others = search.kept & (np.arange(terms.count) != dearest)
    spare = replace(
        search,
        dual=replace(search.dual, terms=replace(terms, worth=-terms.use[dearest])),
        ranges=ranges._replace(worst_usd=-ranges.most[dearest], best_usd=-ranges.least[dearest]),
        kept=others,
    )
    point = spare.bundle(nothing) if others.any() else nothing
    if point is None:
        return nothing
    weights = np.where(point < NOTHING, 0.0, point * spare.reach)
    weights[dearest] = 1.0
    return weights
