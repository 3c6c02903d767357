"""What a head learns from and is asked, and the plainest one: a constant per source.

Each head learns from what ours learn from, and chooses its own settings by cross-validation inside
its training queries, by log loss under the weights of `moa.training.fit.balance`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from moa.router.calibration import log_loss
from moa.router.features import Features, Floats32, fit_features
from moa.training.dataset import Dataset
from moa.training.domains import Domains, find_domains
from moa.training.fit import Reading, balance

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
T = TypeVar("T")


class Lesson(NamedTuple):
    """What a head may learn from: n queries, m models."""

    data: Dataset
    reading: Reading
    domains: Domains
    weight: Floats
    """Shape (n,)."""
    fold: Ints
    """Of the cross-validation inside, shape (n,)."""
    features: Features
    x: Floats32
    """Standardised, shape (n, width)."""

    @classmethod
    def prepare(cls, data: Dataset, reading: Reading, folds: int) -> Lesson:
        """As `moa.training.fit.fit` does."""
        even = fit_features(reading.embeddings, reading.surface, np.ones(len(data.texts)))
        domains = find_domains(data, even(*reading))
        weight = balance(domains.of_query)
        features = fit_features(reading.embeddings, reading.surface, weight)
        return cls(data, reading, domains, weight, data.folds(folds), features, features(*reading))


class Quiz(NamedTuple):
    """What it is asked afterwards."""

    sources: tuple[str, ...]
    x: Floats32


class Answer(NamedTuple):
    """A head's."""

    grade: Floats
    """Expected, shape (n, m)."""
    fit_s: float
    """CPU time."""
    predict_s: float
    """CPU time, features given."""
    error: Floats | None = None
    """Standard errors of `grade`, where the head knows them."""


Head = Callable[[Lesson, Quiz], dict[str, Answer]]
"""Name → answer; heads that share their work answer together."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives and the CPU time that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def probability(log_odds: Floats) -> Floats:
    """In [0, 1]."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def loss_of(expected: Floats, lesson: Lesson) -> Floats:
    """Weighted mean log loss of each model; expected has shape (n, m)."""
    known = ~np.isnan(lesson.data.grade)
    weight = lesson.weight[:, None] * known
    losses = log_loss(expected, np.nan_to_num(lesson.data.grade))
    return np.asarray((weight * losses).sum(axis=0) / weight.sum(axis=0))


def domain_means(lesson: Lesson) -> Floats:
    """Mean grades with one grade's worth of the model's mean, shape (C, m)."""
    grade = lesson.data.grade
    inside = np.eye(len(lesson.domains.names))[lesson.domains.of_query]
    counts, sums = inside.T @ ~np.isnan(grade), inside.T @ np.nan_to_num(grade)
    return np.asarray((sums + overall_means(lesson)) / (counts + 1))


def overall_means(lesson: Lesson) -> Floats:
    """Weighted mean grades, shape (m,)."""
    known = ~np.isnan(lesson.data.grade) * lesson.weight[:, None]
    return np.asarray((known * np.nan_to_num(lesson.data.grade)).sum(axis=0) / known.sum(axis=0))


def source_mean(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """A constant per source and model, told which source each query is from."""
    means, fit_s = timed(lambda: domain_means(lesson))
    place, last = {name: n for n, name in enumerate(lesson.domains.names)}, len(means) - 1
    expected, predict_s = timed(lambda: means[[place.get(one, last) for one in quiz.sources]])
    return {"source's mean": Answer(expected, fit_s, predict_s)}
