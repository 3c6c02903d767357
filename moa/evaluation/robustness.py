"""How often a query goes elsewhere when it is only worded otherwise, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.judged import Floats, Ints, Judged
from moa.evaluation.perturbations import KINDS, perturb
from moa.intervals import Interval
from moa.prices import PriceTable
from moa.router.router import Scores

LIVE = "live"
OVERALL = "all"

Score = Callable[[Sequence[str], Sequence[str]], Scores]
"""Texts and a pool → what a router expects: `Router.score`."""


@dataclass(frozen=True, slots=True)
class Flips:
    """One kind of change. Costs and grades of the new choice are those recorded for the original
    text: what the models would have answered to the changed one is not known."""

    kind: str
    changed: int
    """Texts that this kind of change did change; the others are left out."""
    rate: Interval
    """Share of these whose model is another than before."""
    usd_per_flip: Interval
    """What a flip costs more, in USD per 1,000 flips."""
    grade_per_flip: Interval
    """Mean change of grade of a flip."""
    dearer: float
    """Share of the flips that go to a model that costs more on that query."""


@dataclass(frozen=True, slots=True)
class Robustness:
    """All kinds of changes."""

    overall: Flips
    """Over every changed text of every kind; a query is drawn with all that was made of it."""
    kinds: tuple[Flips, ...]


def robustness(
    judged: Judged,
    texts: Sequence[str],
    score: Score,
    prices: PriceTable,
    policy: PolicyConfig,
    *,
    seed: int = 0,
    replicates: int = 1000,
) -> Robustness:
    """Perturb every text in every way, and decide again.

    Args:
        judged: the queries; its expectations are those of the original texts.
        texts: of these queries, shape (n,).
        score: the router, whatever its backbone.
        prices: with each model of the pool.
        policy: as it is configured.
        seed: of the draws; perturbations depend on the text alone.
        replicates: sets that are drawn.
    """
    before = judged.decide(policy).chosen
    columns: list[dict[str, Floats]] = []
    for kind in KINDS:
        other = perturb(texts, kind)
        changed = np.array([one != text for one, text in zip(other, texts, strict=True)])
        after = _expected(judged, other, score, prices).decide(policy).chosen
        flipped = changed & (after != before)
        dearer = _moved(judged, judged.cost_usd, after, before)
        columns.append(
            {
                "changed": changed.astype(np.float64),
                "flipped": flipped.astype(np.float64),
                "usd": np.where(flipped, dearer, 0),
                "grade": np.where(flipped, _moved(judged, judged.grade, after, before), 0),
                "dearer": (flipped & (dearer > 0)).astype(np.float64),
            }
        )
    together = {name: np.sum([one[name] for one in columns], axis=0) for name in columns[0]}
    return Robustness(
        _flips(OVERALL, together, seed, replicates),
        tuple(
            _flips(kind, one, seed, replicates) for kind, one in zip(KINDS, columns, strict=True)
        ),
    )


def _expected(judged: Judged, texts: Sequence[str], score: Score, prices: PriceTable) -> Judged:
    """The same queries with what is expected of other texts."""
    scores = score(texts, judged.pool)
    return Judged(
        pool=judged.pool,
        sources=judged.sources,
        domains=judged.domains,
        grade=judged.grade,
        cost_usd=judged.cost_usd,
        expected_grade=scores.expected_grade.astype(np.float64),
        expected_cost_usd=prices.expected_cost_usd(
            judged.pool,
            LIVE,
            scores.expected_input_tokens.astype(np.float64),
            scores.expected_output_tokens.astype(np.float64),
        ),
        novelty=scores.novelty.astype(np.float64),
        best_constant=judged.best_constant,
    )


def _moved(judged: Judged, values: Floats, after: Ints, before: Ints) -> Floats:
    return judged.of_chosen(values, after) - judged.of_chosen(values, before)


def _flips(kind: str, columns: dict[str, Floats], seed: int, replicates: int) -> Flips:
    rows = drawn_means(columns, seed=seed, replicates=replicates)
    flips = rows["flipped"]
    return Flips(
        kind=kind,
        changed=int(columns["changed"].sum()),
        rate=interval(ratio(flips, rows["changed"])),
        usd_per_flip=interval(ratio(rows["usd"], flips) * 1000),
        grade_per_flip=interval(ratio(rows["grade"], flips)),
        dearer=float(ratio(rows["dearer"], flips)[0]),
    )
