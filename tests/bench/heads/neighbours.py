"""Means over nearest neighbours, with and without a statistical guard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moa.router.features import Floats32
from tests.bench.heads.lesson import (
    Answer,
    Lesson,
    Quiz,
    domain_means,
    loss_of,
    overall_means,
    timed,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

NEIGHBOURS = (10, 20, 40, 80, 160)
PRIOR = 2.0
"""Grades' worth of the neighbours' domains in a mean over neighbours."""
SIGNIFICANT = 1.96


def neighbours(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Means over the nearest by cosine, and the same with a guard: the mean of the neighbours'
    domains, unless theirs differs significantly."""
    learned, fit_s = timed(lambda: _choose_neighbours(lesson))
    (guess, predict_s) = timed(lambda: _neighbour_guesses(lesson, quiz.x, np.zeros(0, bool)))
    return {
        name: Answer(guess[kind, n], fit_s, predict_s)
        for kind, (name, n) in enumerate(zip(("kNN", "kNN with a guard"), learned, strict=True))
    }


def _choose_neighbours(lesson: Lesson) -> tuple[int, int]:
    """Places in `NEIGHBOURS`, without and with the guard."""
    guesses = np.empty((2, len(NEIGHBOURS), *lesson.data.grade.shape))
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        guesses[:, :, mine] = _neighbour_guesses(lesson, lesson.x[mine], mine)
    plain, guarded = (
        int(np.argmin([loss_of(one, lesson).mean() for one in kind])) for kind in guesses
    )
    return plain, guarded


def _neighbour_guesses(lesson: Lesson, x: Floats32, without: Bools) -> Floats:
    """Shape (2, numbers of neighbours, n, m), the second with the guard."""
    rows = np.flatnonzero(~without) if len(without) else np.arange(len(lesson.x))
    known, grade = ~np.isnan(lesson.data.grade[rows]), np.nan_to_num(lesson.data.grade[rows])
    usual = domain_means(lesson)[lesson.domains.of_query[rows]]
    stacked = np.stack([known, grade, usual * known, usual * (1 - usual) * known], axis=2)
    there = _unit(lesson.x[rows]).T
    guesses = np.empty((2, len(NEIGHBOURS), len(x), grade.shape[1]))
    for start in range(0, len(x), 1000):
        near = _nearest(_unit(x[start : start + 1000]) @ there, max(NEIGHBOURS))
        sums = np.cumsum(stacked[near], axis=1)[:, np.array(NEIGHBOURS) - 1]
        count, total, expected, variance = np.moveaxis(sums, -1, 0)
        some = count > 0
        count = np.maximum(count, 1)
        baseline = np.where(some, expected / count, overall_means(lesson))
        mean = np.where(some, (total + PRIOR * baseline) / (count + PRIOR), baseline)
        sure = np.abs(total - expected) > SIGNIFICANT * np.sqrt(variance)
        both = np.stack([mean, np.where(sure, mean, baseline)])
        guesses[:, :, start : start + 1000] = np.moveaxis(both, 2, 1)
    return guesses


def _unit(x: Floats32) -> Floats32:
    length = np.linalg.norm(x, axis=1, keepdims=True).astype(np.float32)
    return np.asarray(x / np.maximum(length, np.float32(1e-9)), np.float32)


def _nearest(similarity: Floats32, count: int) -> Ints:
    """Places of the most similar, nearest first, shape (n, count)."""
    some = np.argpartition(-similarity, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)
