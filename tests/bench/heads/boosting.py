"""Gradient boosting per model, on what trees can be cut along."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from moa.router.features import Floats32
from tests.bench.heads.lesson import Answer, Lesson, Quiz, timed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAVES = (4, 12)
TREES = 150
LEADING = 48
"""Directions of the n-grams, beside all of the surface."""


def boosting(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Histogram gradient boosting per model, on surface and leading directions; leaves and number
    of trees by the loss on one fold."""

    def learn() -> tuple[Floats32, list[Any]]:
        directions = _leading(lesson)
        coordinates = lesson.x @ directions
        return directions, [_boosted(lesson, coordinates, one) for one in lesson.data.grade.T]

    (directions, trees), fit_s = timed(learn)
    expected, predict_s = timed(
        lambda: np.column_stack([one.predict_proba(quiz.x @ directions)[:, 1] for one in trees])
    )
    return {"gradient boosting": Answer(expected, fit_s, predict_s)}


def _leading(lesson: Lesson) -> Floats32:
    embedded, width = lesson.reading.embeddings.shape[1], lesson.x.shape[1]
    x = lesson.x[:, :embedded]
    covariance = (x * lesson.weight[:, None].astype(np.float32)).T @ x
    vectors = np.linalg.eigh(covariance.astype(np.float64))[1][:, -LEADING:]
    directions = np.zeros((width, LEADING + width - embedded), np.float32)
    directions[:embedded, :LEADING] = vectors
    directions[embedded:, LEADING:] = np.eye(width - embedded)
    return directions


def _boosted(lesson: Lesson, coordinates: Floats32, grade: Floats) -> Any:  # noqa: ANN401
    known = np.flatnonzero(~np.isnan(grade))
    held_out = lesson.fold[known] == lesson.fold.max()
    x, y, weight = coordinates[known], grade[known], lesson.weight[known]
    rest, check = _split(x, y, weight, ~held_out), _split(x, y, weight, held_out)

    def trees(leaves: int, count: int, *, stop: bool) -> Any:  # noqa: ANN401
        return HistGradientBoostingClassifier(
            learning_rate=0.1, max_iter=count, max_leaf_nodes=leaves, l2_regularization=1.0,
            early_stopping=stop, n_iter_no_change=6, tol=1e-5, random_state=0,
        )  # fmt: skip

    found = []
    for leaves in LEAVES:
        model = trees(leaves, TREES, stop=True)
        model.fit(
            *rest[:2], sample_weight=rest[2],
            X_val=check[0], y_val=check[1], sample_weight_val=check[2],
        )  # fmt: skip
        scores = model.validation_score_
        found.append((-float(scores.max()), leaves, max(1, int(scores.argmax()))))
    _, leaves, count = min(found)
    everything = _split(x, y, weight, np.ones(len(y), bool))
    return trees(leaves, count, stop=False).fit(*everything[:2], sample_weight=everything[2])


def _split(
    x: Floats32, grade: Floats, weight: Floats, mask: Bools
) -> tuple[Floats32, Floats, Floats]:
    """Labels 0 and 1 of what may be a fraction: such a query counts in part for each."""
    up, down = np.flatnonzero(mask & (grade > 0)), np.flatnonzero(mask & (grade < 1))
    return (
        np.concatenate([x[up], x[down]]),
        np.concatenate([np.ones(len(up)), np.zeros(len(down))]),
        np.concatenate([weight[up] * grade[up], weight[down] * (1 - grade[down])]),
    )
