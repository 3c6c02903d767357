"""What heads are compared by. Differences are to ours, on the same drawn queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.config import PolicyConfig
from moa.evaluation import hull
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.calibration import calibration
from moa.evaluation.frontier import sweep
from moa.evaluation.judged import Judged
from moa.evaluation.metrics import SLACK, metrics
from moa.evaluation.robustness import robustness
from moa.intervals import Interval
from moa.router.router import Scores, scores_of
from moa.training.dataset import Dataset
from moa.training.judge import answered_by_all
from tests.bench.heads.cross_validation import (
    BEST,
    FOLDS,
    Candidate,
    Read,
    Recordings,
    Trained,
    nothing_yet,
    put,
)

Floats = NDArray[np.float64]

OURS = "ours"
POLICY = PolicyConfig(willingness_to_pay=Decimal("0.05"))
KNOWLEDGE = "mmlu-pro"
"""Four in five queries, and half of the models only: figures are told without it, and with it."""
GUARDS = (0.5, 1.0)
"""Standard errors."""


def losses(data: Dataset, found: Mapping[str, Candidate], replicates: int) -> dict[str, Any]:
    """Log loss, Brier score and calibration error, means over models, with mmlu-pro and without."""
    without = np.array([source != KNOWLEDGE for source in data.sources])
    told: dict[str, Any] = {name: {} for name in found}
    for part, mask in (("without", without), ("all", np.ones(len(without), bool))):
        base = _log_losses(data.grade[mask], found[OURS].grade[mask], replicates)
        for name, one in found.items():
            expected, grade = one.grade[mask], data.grade[mask]
            known = ~np.isnan(grade)
            each = [
                calibration(model, expected[known[:, n], n], grade[known[:, n], n], replicates=5)
                for n, model in enumerate(data.models)
            ]
            rows = _log_losses(grade, expected, replicates)
            told[name][part] = {
                "log_loss": round(float(rows[0]), 4),
                "log_loss_difference": plain(interval(rows - base)),
                "brier": round(float(np.mean([c.brier.value for c in each])), 4),
                "ece": round(float(np.mean([c.ece.value for c in each])), 4),
                "ece_most": round(float(max(c.ece.value for c in each)), 4),
            }
    return told


def _log_losses(grade: Floats, expected: Floats, replicates: int) -> Floats:
    """Mean over models, of the sample and of drawn sets."""
    known, safe = ~np.isnan(grade), np.clip(expected, 1e-6, 1 - 1e-6)
    measured = np.nan_to_num(grade)
    loss = -(measured * np.log(safe) + (1 - measured) * np.log(1 - safe)) * known
    rows = drawn_means({"loss": loss, "known": known}, seed=0, replicates=replicates)
    return np.asarray(ratio(rows["loss"], rows["known"]).mean(axis=1))


def routing(
    given: Recordings, pool: str, ours: Trained, found: Mapping[str, Candidate], replicates: int
) -> dict[str, Any]:
    """AIQ, gap captured and saving of each head on the queries that a pool has answered."""
    drawn = {}
    for name, one in found.items():
        judged = given.judged(pool, ours.held_out._replace(grade=one.grade))
        drawn[name] = _drawn(judged, replicates)
        if one.error is not None:
            for z in GUARDS:
                drawn[f"ours, guard of {z:g} errors"] = _drawn(
                    given.judged(pool, ours.held_out._replace(grade=guarded(given, pool, one, z))),
                    replicates,
                )
    _check(given.judged(pool, ours.held_out), drawn[OURS])
    return {
        name: {
            figure: plain(interval(rows[figure])) | {
                "difference": plain(interval(rows[figure] - drawn[OURS][figure]))
            }
            for figure in rows
        }
        for name, rows in drawn.items()
    }  # fmt: skip


def guarded(given: Recordings, pool: str, one: Candidate, z: float) -> Floats:
    """Expected grades less z standard errors, but for the best constant's."""
    assert one.error is not None
    best = given.data.models.index(BEST[pool])
    lower = one.grade - z * one.error
    lower[:, best] = one.grade[:, best]
    return np.clip(lower, 0, 1)


def _drawn(judged: Judged, replicates: int) -> dict[str, Floats]:
    """Figures as `moa.evaluation.metrics` defines them, of the sample and of drawn sets."""
    swept = sweep(judged, POLICY)
    columns = {
        "grade": judged.grade,
        "cost": judged.cost_usd,
        "swept_grade": judged.of_chosen(judged.grade, swept.routed).T,
        "swept_cost": judged.of_chosen(judged.cost_usd, swept.routed).T,
        "best": judged.of_chosen(judged.grade, swept.oracle[-1]),
    }
    rows = drawn_means(columns, seed=0, replicates=replicates)
    cost, constant = rows["cost"], rows["grade"][:, judged.best_constant]
    points = rows["swept_cost"], rows["swept_grade"]
    reaches = points[1] >= constant[:, None] - SLACK - 1e-12
    least = np.where(reaches, points[0], np.inf).min(axis=1)
    saved = np.nan_to_num(1 - ratio(least, cost[:, judged.best_constant]), neginf=0)
    return {
        "aiq": hull.area(*points, cost.min(axis=1), cost.max(axis=1)),
        "gap": ratio(points[1][:, -1] - constant, rows["best"] - constant),
        "saving": np.maximum(0, saved),
    }


def _check(judged: Judged, rows: Mapping[str, Floats]) -> None:
    """That these are the very figures of an evaluation."""
    theirs = metrics(judged, sweep(judged, POLICY), POLICY, replicates=5)
    against = theirs.against_best_constant
    wanted = theirs.aiq, against.gap_captured, against.saving_with_slack.value
    mine = [float(rows[name][0]) for name in ("aiq", "gap", "saving")]
    assert np.allclose([one.value for one in wanted], mine), (wanted, mine)


def flips(read: Read, given: Recordings, trained: Trained) -> dict[str, Any]:
    """How often another wording goes elsewhere, on the queries that all six have answered."""
    rows = np.flatnonzero(answered_by_all(given.data, given.data.models))
    fold = given.data.folds(FOLDS)[rows]
    policy = PolicyConfig.model_validate({**POLICY.model_dump(), "max_novelty": 0.95})

    def score(texts: Sequence[str], pool: Sequence[str]) -> Scores:
        reading, merged = read(texts), nothing_yet((len(texts), len(pool)))
        for number, predict in enumerate(trained.predictors):
            mine = fold == number
            put(merged, mine, predict(*reading.only(mine), range(len(pool))))
        return scores_of(merged, texts, given.tokens_per_feature)

    judged = given.judged("P6", trained.held_out)
    texts = [given.data.texts[row] for row in rows.tolist()]
    found = robustness(judged, texts, score, given.prices, policy, replicates=500)
    return {one.kind: plain(one.rate) for one in (found.overall, *found.kinds)}


def plain(one: Interval) -> dict[str, float]:
    """For JSON."""
    return {"value": round(one.value, 4), "low": round(one.low, 4), "high": round(one.high, 4)}
