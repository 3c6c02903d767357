"""Logistic regression per model on all features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moa.router.features import Floats32
from tests.bench.heads.lesson import Answer, Lesson, Quiz, loss_of, probability, timed

Floats = NDArray[np.float64]

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)


def logistic(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Per model on all features; every fold, penalty and model at once."""
    table, fit_s = timed(lambda: _logistic_table(lesson))
    expected, predict_s = timed(lambda: probability(quiz.x @ table[:-1] + table[-1]))
    return {"logistic regression": Answer(expected, fit_s, predict_s)}


def _logistic_table(lesson: Lesson) -> Floats:
    known, target = ~np.isnan(lesson.data.grade), np.nan_to_num(lesson.data.grade)
    models = known.shape[1]
    rest = [lesson.fold != fold for fold in np.unique(lesson.fold)]
    columns = [known * (lesson.weight * mask)[:, None] for mask in rest]
    weight = np.tile(np.concatenate(columns, axis=1), len(PENALTIES))
    penalty = np.repeat(PENALTIES, len(rest) * models)
    goals = np.tile(target, len(rest) * len(PENALTIES))
    tables = fit_logistic(lesson.x, goals, weight, penalty, steps=100)
    tables = tables.reshape(len(tables), len(PENALTIES), len(rest), models)
    loss = np.empty((len(PENALTIES), models))
    for n in range(len(PENALTIES)):
        expected = np.empty(known.shape)
        for k, mask in enumerate(rest):
            log_odds = lesson.x[~mask] @ tables[:-1, n, k] + tables[-1, n, k]
            expected[~mask] = probability(log_odds)
        loss[n] = loss_of(expected, lesson)
    best = np.array(PENALTIES)[loss.argmin(axis=0)]
    return fit_logistic(lesson.x, target, known * lesson.weight[:, None], best, steps=200)


def fit_logistic(
    x: Floats32, target: Floats, weight: Floats, penalty: Floats, *, steps: int
) -> Floats:
    """Many regressions on the same features by L-BFGS.

    Args:
        x: shape (n, width).
        target: shape (n, k).
        weight: shape (n, k).
        penalty: of the squares, intercept excepted, shape (k,).
        steps: at most.

    Returns:
        Shape (width + 1, k), the intercepts last.
    """
    rows, goal, mass, pull = (
        torch.from_numpy(np.ascontiguousarray(one, np.float32))
        for one in (x, target, weight, penalty)
    )
    table = torch.zeros(x.shape[1] + 1, target.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([table], max_iter=steps, history_size=10, tolerance_change=1e-7)

    def loss() -> Any:  # noqa: ANN401 - torch has no types here
        search.zero_grad()
        log_odds = rows @ table[:-1] + table[-1]
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(
            log_odds, goal, weight=mass, reduction="sum"
        )
        total = misfit + (pull * table[:-1] ** 2).sum() / 2
        total.backward()
        return total

    search.step(loss)
    return np.asarray(table.detach().numpy(), np.float64)
