"""The night's queries beside what the router was taught: whether to retrain, or to fall back.

Measured grades decide where they are known: a tag whose answers are as good as expected needs
nothing, however new it looks. Where they are not, novelty decides. By construction at most one in
ten queries like the training data is above 0.9 (`moa.router.novelty`: two looks, each with its
quantiles out of fold; 8.7 % of the demo's backlog, 12.9 % of its most unusual source), so that a
tag of which half as many again are for certain is another kind of query. What a mix of domains
does to a router is no reason by itself: each domain has its own map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moa.intervals import Interval
from moa.reports.comparisons import FEWEST_GRADED
from moa.reports.matched import PICO, Matched

UNUSUAL = 0.9
"""Novelty above which at most `USUAL` of queries like the training data are."""
USUAL = 0.1
STRANGE = 1.5 * USUAL
"""A tag is strange when for certain more of its queries are unusual. Sources that were left out of
training had 12 % (gsm, which is near another one) to 100 % above 0.95 (tests/bench/LOG.md)."""
OFF = 0.05
"""A mean expected grade is off when it is for certain further from the measured one: at the usual
cents for a right answer, that is worth more than the difference of most models' prices. A policy
that takes the best of six expectations finds its own luck among them, which is part of it."""
DOUBT = 0.05
"""Probability of any false alarm on a night, spread over all tags."""
MOST_TAGS = 24

Action = Literal["nothing", "retrain", "fall_back"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TagDrift:
    """Of the queries with one tag; bounds hold for all tags together."""

    tag: str | None
    """`None`: all queries."""
    queries: int
    unusual: Interval
    """Share above `UNUSUAL`."""
    graded_queries: int
    expected_grade: float | None
    """Mean of these, of the model that has answered; `None` of too few."""
    grade_gap: Interval | None
    """Measured less expected."""
    worth: Interval | None
    """Of an answer, more than of the best constant's: USD where the policy says what a grade is
    worth, else grade. `None` where too few have both grades."""

    @property
    def strange(self) -> bool:
        """Whether the router was taught no such queries, as far as it notices."""
        return self.unusual.low > STRANGE

    @property
    def off(self) -> bool:
        """Whether measured grades are others than expected."""
        gap = self.grade_gap
        return gap is not None and (gap.low > OFF or gap.high < -OFF)

    @property
    def holds(self) -> bool:
        """Whether measured grades are proven to be as expected."""
        gap = self.grade_gap
        return gap is not None and gap.low > -OFF and gap.high < OFF

    @property
    def action(self) -> Action:
        """What to do about it."""
        if not self.off and (not self.strange or self.holds):
            return "nothing"
        if self.worth is not None:
            return "fall_back" if self.worth.value < 0 else "retrain"
        overrated = self.grade_gap is not None and self.grade_gap.value < -OFF
        return "fall_back" if overrated or self.grade_gap is None else "retrain"


@dataclass(frozen=True, slots=True)
class Domain:
    """One of the router's domains; `others` may hold several kinds of queries."""

    name: str
    queries: int
    """Of the night, that are likeliest of it."""
    share: float
    taught_share: float | None
    """Of the training queries; `None` when the router does not say."""


@dataclass(frozen=True, slots=True)
class Drift:
    """All that is said of it."""

    whole: TagDrift
    tags: tuple[TagDrift, ...]
    """The commonest that have enough queries."""
    best_constant: str | None
    """Catalog id."""
    domains: tuple[Domain, ...]
    moved: float | None
    """Share of the night's queries that would have to be of another domain, to have the mix of the
    training data; `None` when that is not known."""

    def needing(self, action: Action) -> list[str]:
        """Tags that something is to be done about; of a whole night the sentence says so."""
        return [one.tag for one in self.tags if one.action == action and one.tag is not None]


def drift(
    matched: Matched,
    *,
    best_constant: str | None,
    value_usd: Decimal | None,
    domains: Mapping[str, int],
    taught: Mapping[str, int],
) -> Drift | None:
    """Compare a night with the training data; `None` when nothing was answered.

    Args:
        matched: the answered queries that are looked at.
        best_constant: catalog id: what to fall back to.
        value_usd: of a right instead of a wrong answer; `None` when the policy does not say.
        domains: of the night's queries, by the router's likeliest one.
        taught: of the training queries; empty when the router does not say.
    """
    known = np.isfinite(matched.novelty)
    if not known.any():
        return None
    counts = Counter(tag for tags in matched.tags for tag in set(tags))
    names = [tag for tag, n in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    names = [tag for tag in names if counts[tag] >= FEWEST_GRADED][:MOST_TAGS]
    look = _Look(matched, best_constant, value_usd, looks=1 + len(names))
    masks = {tag: np.array([tag in tags for tags in matched.tags], np.bool_) for tag in names}
    mix, moved = _mix(domains, taught)
    return Drift(
        whole=look.at(None, known),
        tags=tuple(look.at(tag, mask & known) for tag, mask in masks.items()),
        best_constant=best_constant,
        domains=mix,
        moved=moved,
    )


class _Look:
    """At some of the queries at a time, with bounds for all looks together."""

    def __init__(
        self,
        matched: Matched,
        best_constant: str | None,
        value_usd: Decimal | None,
        *,
        looks: int,
    ) -> None:
        rows, by = np.arange(len(matched)), np.maximum(matched.answered_by, 0)
        self._scale = float(matched.scale)
        self._z = NormalDist().inv_cdf(1 - DOUBT / looks / 2)
        self._unusual = matched.novelty > UNUSUAL
        asked = matched.answered_by >= 0
        self._expected = np.where(asked, matched.expected_grade[rows, by], np.nan)
        self._gap = matched.our_grade - self._expected
        self._worth = np.full(len(matched), np.nan)
        if best_constant in matched.pool:
            column = matched.pool.index(best_constant)
            self._worth = matched.our_grade - matched.grade[:, column]
            if value_usd is not None:
                saved = (matched.cost[:, column] - matched.our_cost) / 10.0**PICO
                self._worth = float(value_usd) * self._worth + saved

    def at(self, tag: str | None, mask: Bools) -> TagDrift:
        """The queries of a mask, at least one."""
        graded = mask & np.isfinite(self._gap)
        enough = graded.sum() >= FEWEST_GRADED
        return TagDrift(
            tag=tag,
            queries=self._scaled(mask),
            unusual=self._share(self._unusual[mask]),
            graded_queries=self._scaled(graded),
            expected_grade=float(self._expected[graded].mean()) if enough else None,
            grade_gap=self._mean(self._gap[graded]),
            worth=self._mean(self._worth[mask & np.isfinite(self._worth)]),
        )

    def _scaled(self, mask: Bools) -> int:
        return round(int(mask.sum()) * self._scale)

    def _mean(self, values: Floats) -> Interval | None:
        """By the normal approximation."""
        if len(values) < FEWEST_GRADED:
            return None
        mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        return Interval(mean, mean - self._z * error, mean + self._z * error)

    def _share(self, hits: Bools) -> Interval:
        """Source: Wilson, Probable inference, 1927."""
        n, share, square = len(hits), float(hits.mean()), self._z**2
        middle = (share + square / (2 * n)) / (1 + square / n)
        spread = share * (1 - share) / n + square / (4 * n * n)
        half = self._z * float(np.sqrt(spread)) / (1 + square / n)
        return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _mix(
    domains: Mapping[str, int], taught: Mapping[str, int]
) -> tuple[tuple[Domain, ...], float | None]:
    here, there = sum(domains.values()), sum(taught.values())
    if not here:
        return (), None
    names = sorted({*domains, *taught}, key=lambda name: (-domains.get(name, 0), name))
    mix = tuple(
        Domain(
            name,
            domains.get(name, 0),
            domains.get(name, 0) / here,
            taught.get(name, 0) / there if there else None,
        )
        for name in names
    )
    moved = sum(max(0.0, one.share - (one.taught_share or 0.0)) for one in mix)
    return mix, moved if there else None
