"""RouteLLM's figures: how much of the way from a weak to a strong model few strong calls go.

They are of two models, so the pool is cut down to its cheapest model and its best constant, and the
policy decides between these two at every willingness to pay. Performance gap recovered is
(grade - weak) / (strong - weak); APGR is its area over the share of calls that go to the strong
model, CPT(x) the least such share that recovers x of the gap. Both ends of that line, all weak and
all strong, can always be had, and so can what is between two points by mixing them.

Source: arXiv:2406.18665, section 4, and the trapezoids of `routellm/evals/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.judged import Floats, Judged, at, willingnesses
from moa.intervals import Interval


@dataclass(frozen=True, slots=True)
class StrongWeak:
    """Two models of a pool."""

    strong: str
    weak: str
    apgr: Interval
    """0.5 by chance; NaN where the strong model is not the better one."""
    cpt_50: Interval
    """Share of calls to the strong model; 0.5 by chance."""
    cpt_80: Interval
    """Likewise; 0.8 by chance."""


def strong_weak(
    judged: Judged, policy: PolicyConfig, *, weak: int, points: int, seed: int, replicates: int
) -> StrongWeak | None:
    """Measure the router between one model and the best constant; `None` where these are one."""
    if weak == judged.best_constant:
        return None
    pair = judged.of_models([weak, judged.best_constant])
    only = policy.model_copy(update={"default_model": pair.pool[1]})
    chosen = np.stack([pair.decide(at(only, price)).chosen for price in willingnesses(points)])
    columns = {
        "share": (chosen == 1).T.astype(np.float64),
        "grade": pair.of_chosen(pair.grade, chosen).T,
        "single": pair.grade,
    }
    rows = drawn_means(columns, seed=seed, replicates=replicates)
    share, recovered = _line(rows["share"], rows["grade"], rows["single"])
    return StrongWeak(
        strong=pair.pool[1],
        weak=pair.pool[0],
        apgr=interval(_area(share, recovered)),
        cpt_50=interval(_least_share(share, recovered, 0.5)),
        cpt_80=interval(_least_share(share, recovered, 0.8)),
    )


def _line(share: Floats, grade: Floats, single: Floats) -> tuple[Floats, Floats]:
    """Shares of strong calls, ascending, and the gap recovered there; both ends are put on."""
    nothing, everything = np.zeros((len(share), 1)), np.ones((len(share), 1))
    share = np.concatenate([nothing, share, everything], axis=1)
    grade = np.concatenate([single[:, :1], grade, single[:, 1:]], axis=1)
    order = np.argsort(share, axis=1, kind="stable")
    gap = single[:, 1] - single[:, 0]
    gap = np.where(gap > 0, gap, 0)[:, None]
    recovered = ratio(grade - single[:, :1], np.broadcast_to(gap, grade.shape))
    return np.take_along_axis(share, order, axis=1), np.take_along_axis(recovered, order, axis=1)


def _area(share: Floats, recovered: Floats) -> Floats:
    return np.asarray(np.trapezoid(recovered, share, axis=1))


def _least_share(share: Floats, recovered: Floats, part: float) -> Floats:
    """The first crossing of `part`, between two points in proportion."""
    # The end of the line recovers all by definition, but for the last bit.
    reached = recovered >= part - 1e-12
    after = reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(share))
    climb = recovered[rows, after] - recovered[rows, before]
    way = np.where(climb > 0, (part - recovered[rows, before]) / np.where(climb > 0, climb, 1), 1)
    found = share[rows, before] + way * (share[rows, after] - share[rows, before])
    return np.asarray(np.where(np.isfinite(recovered).all(axis=1), found, np.nan))
