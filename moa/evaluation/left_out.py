"""A source that the router was never taught: does it notice, and does holding back help?

Overfitting to the domains of the training data is the known weakness of routers. So a router is
trained without one source and measured on that source; the fits are the training's own matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.judged import QUALITY_ALONE, Floats, Judged, at, bold
from moa.intervals import Interval
from moa.planning.policy import NOVEL


class Stranger(NamedTuple):
    """A source, scored by a router that was trained without it."""

    judged: Judged
    """Its queries; the best constant is that of the data without it."""
    familiar: Floats
    """Novelty, by the same router, of queries it was not fitted on from sources that it knows;
    any number of them."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One source that was left out of training."""

    source: str
    queries: int
    best_constant: str
    best_constant_grade: Interval
    difference: Interval
    """Mean grade of the configured policy, with abstention, less the best constant's."""
    difference_without_abstention: Interval
    """The same, where no query is too novel."""
    quality_difference: Interval
    """As `difference`, routed for quality alone."""
    quality_difference_without_abstention: Interval
    saving: Interval
    """Of the configured policy, with abstention: 1 - cost / the best constant's cost."""
    abstained: float
    """Share of its queries."""
    novelty: float
    """Mean."""
    familiar_novelty: float | None
    """Mean over familiar queries; `None` without any."""
    auroc: float | None
    """How often one of its queries is more novel than a familiar one: 0.5 by chance, 1 always."""


def left_out(
    strangers: Mapping[str, Stranger],
    policy: PolicyConfig,
    *,
    seed: int = 0,
    replicates: int = 1000,
) -> tuple[LeftOut, ...]:
    """Measure each source by a router that does not know it.

    Args:
        strangers: source → its queries, at least one.
        policy: as it is configured, with its `max_novelty`.
        seed: of the draws.
        replicates: sets that are drawn.
    """
    return tuple(
        _measure(source, stranger, policy, seed, replicates)
        for source, stranger in sorted(strangers.items())
    )


def _measure(
    source: str, stranger: Stranger, policy: PolicyConfig, seed: int, replicates: int
) -> LeftOut:
    judged, familiar = stranger
    quality, bold_quality = at(policy, QUALITY_ALONE), at(bold(policy), QUALITY_ALONE)
    decided = judged.decide(policy)
    chosen = {
        "ours": decided.chosen,
        "bold": judged.decide(bold(policy)).chosen,
        "quality": judged.decide(quality).chosen,
        "bold_quality": judged.decide(bold_quality).chosen,
    }
    columns = {name: judged.of_chosen(judged.grade, one) for name, one in chosen.items()}
    columns["best"] = judged.grade[:, judged.best_constant]
    columns["cost"] = judged.of_chosen(judged.cost_usd, decided.chosen)
    columns["best_cost"] = judged.cost_usd[:, judged.best_constant]
    rows = drawn_means(columns, seed=seed, replicates=replicates)
    return LeftOut(
        source=source,
        queries=judged.queries,
        best_constant=judged.pool[judged.best_constant],
        best_constant_grade=interval(rows["best"]),
        difference=interval(rows["ours"] - rows["best"]),
        difference_without_abstention=interval(rows["bold"] - rows["best"]),
        quality_difference=interval(rows["quality"] - rows["best"]),
        quality_difference_without_abstention=interval(rows["bold_quality"] - rows["best"]),
        saving=interval(1 - ratio(rows["cost"], rows["best_cost"])),
        abstained=float((decided.rule == NOVEL).mean()),
        novelty=float(judged.novelty.mean()),
        familiar_novelty=float(familiar.mean()) if len(familiar) else None,
        auroc=auroc(judged.novelty, familiar) if len(familiar) else None,
    )


def auroc(strange: Floats, familiar: Floats) -> float:
    """How often one of the first is greater than one of the second, ties counted by half."""
    ordered = np.sort(familiar)
    below = np.searchsorted(ordered, strange, side="left")
    upto = np.searchsorted(ordered, strange, side="right")
    return float((below + upto).mean() / 2 / len(familiar))
