"""Query factors times model factors, from the sparse grades of all models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from moa.training.fit import fit_grade_heads
from tests.bench.heads.lesson import Answer, Lesson, Quiz, loss_of, probability, timed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RANKS = (1, 2, 4, 8, 12)
RIDGES = (0.25, 1.0, 4.0, 16.0, 64.0)


def low_rank(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Grades of all models ≈ query factors times model factors; query factors regressed on
    features, model factors then fitted anew to what the regression foresaw on other folds."""
    learned, fit_s = timed(lambda: min(_ranked(lesson), key=lambda one: one.loss))

    def predict() -> Floats:
        factors = quiz.x @ learned.slopes[:-1] + learned.slopes[-1]
        return probability(factors @ learned.heads[:-1] + learned.heads[-1])

    expected, predict_s = timed(predict)
    return {"low rank": Answer(expected, fit_s, predict_s)}


class _Ranked(NamedTuple):
    loss: float
    slopes: Floats
    heads: Floats


def _ranked(lesson: Lesson) -> Iterator[_Ranked]:
    """One of each rank."""
    everybody = np.concatenate([lesson.data.grade, lesson.data.other_grade], axis=1)
    nothing = np.zeros(everybody.shape)
    factors = [factorise(everybody, nothing, lesson.weight, rank) for rank in RANKS]
    foreseen, slopes = _regressed(lesson, np.concatenate(factors, axis=1))
    ends = np.cumsum(RANKS)
    for start, end in zip(ends - RANKS, ends, strict=True):
        mine = foreseen[:, start:end]
        heads = fit_grade_heads(mine, lesson.data.grade)
        expected = probability(mine @ heads[:-1] + heads[-1])
        loss = float(loss_of(expected, lesson).mean())
        yield _Ranked(loss, slopes[:, start:end], heads)


def factorise(grade: Floats, offset: Floats, weight: Floats, rank: int) -> Floats:
    """Query factors of a logistic factorisation, with a variance of 1 each beforehand.

    Args:
        grade: NaN where missing, shape (n, k).
        offset: log odds that are known already, same shape.
        weight: of each query, shape (n,).
        rank: how many factors.

    Returns:
        Shape (n, rank).
    """
    random = torch.Generator().manual_seed(0)
    known = torch.from_numpy(~np.isnan(grade)).float()
    goal, base = torch.from_numpy(np.nan_to_num(grade)).float(), torch.from_numpy(offset).float()
    mass = torch.from_numpy(weight).float()[:, None]
    queries = (0.1 * torch.randn(len(grade), rank, generator=random)).requires_grad_()
    models = (1 + 0.3 * torch.randn(rank, grade.shape[1], generator=random)).requires_grad_()
    level = torch.zeros(grade.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([queries, models, level], max_iter=60, history_size=10)

    def loss() -> Any:  # noqa: ANN401
        search.zero_grad()
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(
            base + queries @ models + level, goal, weight=known * mass, reduction="sum"
        )
        total = misfit + (mass * queries**2).sum() / 2 + (models**2).sum() / 2
        total.backward()
        return total

    search.step(loss)
    return np.asarray(queries.detach().numpy(), np.float64)


def _regressed(lesson: Lesson, factors: Floats) -> tuple[Floats, Floats]:
    """Query factors as foreseen on other folds, and the map from features to them."""
    guesses = np.empty((len(RIDGES), *factors.shape))
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        for n, table in enumerate(ridge_tables(lesson, factors, ~mine)):
            guesses[n, mine] = lesson.x[mine] @ table[:-1] + table[-1]
    off = np.average((guesses - factors) ** 2, axis=1, weights=lesson.weight)
    best = off.argmin(axis=0)
    tables = np.stack(ridge_tables(lesson, factors, np.ones(len(factors), bool)))
    columns = np.arange(factors.shape[1])
    return guesses[best, :, columns].T, tables[best, :, columns].T


def ridge_tables(lesson: Lesson, target: Floats, mask: Bools) -> list[Floats]:
    """Weighted ridge regressions, one per `RIDGES`; the intercept last."""
    x, weight = lesson.x[mask].astype(np.float64), lesson.weight[mask]
    middle, mean = (np.average(one, axis=0, weights=weight) for one in (x, target[mask]))
    x = x - middle
    weighted = x * weight[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ x)
    side = vectors.T @ (weighted.T @ (target[mask] - mean))
    found = []
    for strength in RIDGES:
        slope = vectors @ (side / (np.maximum(values, 0) + strength)[:, None])
        found.append(np.vstack([slope, mean - middle @ slope]))
    return found
