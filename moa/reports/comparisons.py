"""Each single model, used for every query, beside this run; with intervals of all figures.

Queries are drawn once for all models and figures. Where a figure is of some of the queries only,
the others count as 0 and a mask says how many there are.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from moa.intervals import Figure, Interval, Resamples
from moa.reports.matched import PICO, SEED, Matched, usd

FEWEST_GRADED = 30
"""Below so many graded queries, no figure is made of them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A single model used for every query that it could take, beside this run on those queries.

    Numbers of queries and sums of money are of the whole run, though a sample was looked at.
    """

    model: str
    queries: int
    """Answered in this run, and within the model's reach: it could take them, and what it costs
    on them is recorded or expected."""
    of_queries: int
    """Answered in this run by a call of their own."""
    measured_share: float
    """Of the queries, how many of its costs come from billed or recorded tokens; the rest is what
    the router expects."""
    cost_usd: Decimal
    our_cost_usd: Decimal
    saving: Interval | None
    """Of this run against it: 1 - ours / its; `None` where it costs nothing."""
    net_saving: Interval | None
    """Likewise, the router's own machine paid for."""
    graded_queries: int
    """Of the queries, those where both answers are graded."""
    grade: Interval | None
    """Its mean grade; `None` when too few queries are graded."""
    our_grade: Interval | None
    """Of this run, on the same queries."""
    grade_difference: Interval | None
    """Ours minus its."""
    net_value_usd: Interval | None
    """What this run is worth more than it: willingness_to_pay times the difference of grades, and
    the cost saved, over the queries, the router's machine paid for. `None` without grades or
    without a willingness_to_pay."""


@dataclass(frozen=True, slots=True)
class Compared:
    """All that is said of the queries that were looked at."""

    comparisons: tuple[Comparison, ...]
    """In pool order."""
    grade: Interval | None
    """Mean measured grade of this run's answers; `None` when too few are graded."""
    graded_queries: int
    """Answers of this run whose grade is known."""


def compare(matched: Matched, *, router_usd: Decimal, value_usd: Decimal | None) -> Compared:
    """Compare this run with each model of the pool.

    Args:
        matched: the queries that are looked at.
        router_usd: of the router's machine, spread evenly over the answered queries.
        value_usd: of one unit of grade, USD.
    """
    models = [
        _Columns(matched, column, float(router_usd) / max(1, matched.answered), value_usd)
        for column in range(len(matched.pool))
    ]
    ours, graded = np.nan_to_num(matched.our_grade), np.isfinite(matched.our_grade)
    columns: dict[Hashable, NDArray[np.float64]] = {"grade": ours, "graded": graded.astype(float)}
    for model in models:
        columns |= model.columns
    draws = Resamples(columns, seed=SEED) if len(matched) else None
    mean = draws.interval(lambda m: m["grade"] / m["graded"]) if draws else None
    return Compared(
        comparisons=tuple(model.comparison(draws) for model in models),
        grade=mean if graded.sum() >= FEWEST_GRADED else None,
        graded_queries=_scaled(int(graded.sum()), matched),
    )


class _Columns:
    """What is known of one model, as columns to draw from."""

    def __init__(
        self, matched: Matched, column: int, router_usd: float, value_usd: Decimal | None
    ) -> None:
        self._matched = matched
        self._column = column
        self._value_usd = value_usd
        both = self._both = matched.could_answer[:, column]
        grade, our_grade = matched.grade[:, column], matched.our_grade
        # The only graded answer is the one that was given: it says nothing of another model.
        several = np.isfinite(matched.grade).sum(axis=1) >= min(2, len(matched.pool))
        graded = self._graded = both & several & np.isfinite(grade) & np.isfinite(our_grade)
        ours = matched.our_cost / 10.0**PICO
        theirs = matched.cost[:, column] / 10.0**PICO
        lead = np.where(graded, our_grade - grade, 0)
        worth = float(value_usd or 0) * lead + theirs - ours - router_usd
        self.columns: dict[Hashable, NDArray[np.float64]] = {
            (column, "ours"): ours * both,
            (column, "router"): np.where(both, router_usd, 0.0),
            (column, "theirs"): theirs * both,
            (column, "graded"): graded.astype(float),
            (column, "our grade"): np.where(graded, our_grade, 0),
            (column, "grade"): np.where(graded, grade, 0),
            (column, "worth"): worth * graded,
        }

    def comparison(self, draws: Resamples | None) -> Comparison:
        """Its figures; intervals where there is enough to make them of."""
        matched, column, both = self._matched, self._column, self._both
        c = column
        queries = int(both.sum())
        cost, our_cost = matched.cost[both, column].sum(), matched.our_cost[both].sum()
        priced = draws if cost else None
        graded = draws if self._graded.sum() >= FEWEST_GRADED else None
        valued = graded if self._value_usd is not None else None
        total = _scaled(queries, matched)

        def of(drawn: Resamples | None, figure: Figure) -> Interval | None:
            return drawn.interval(figure) if drawn else None

        return Comparison(
            model=matched.pool[column],
            queries=total,
            of_queries=matched.answered,
            measured_share=float(matched.recorded[both, column].mean()) if queries else 0.0,
            cost_usd=usd(cost) * matched.scale,
            our_cost_usd=usd(our_cost) * matched.scale,
            saving=of(priced, lambda m: 1 - m[c, "ours"] / m[c, "theirs"]),
            net_saving=of(priced, lambda m: 1 - (m[c, "ours"] + m[c, "router"]) / m[c, "theirs"]),
            graded_queries=_scaled(int(self._graded.sum()), matched),
            grade=of(graded, lambda m: m[c, "grade"] / m[c, "graded"]),
            our_grade=of(graded, lambda m: m[c, "our grade"] / m[c, "graded"]),
            grade_difference=of(
                graded, lambda m: (m[c, "our grade"] - m[c, "grade"]) / m[c, "graded"]
            ),
            net_value_usd=of(valued, lambda m: total * m[c, "worth"] / m[c, "graded"]),
        )


def _scaled(queries: int, matched: Matched) -> int:
    return round(queries * matched.scale)
