"""Paired bootstrap intervals: how far a figure could be off, had other queries come.

Queries are drawn with replacement; all columns of a query are drawn together, so that what two
models share on a query (it is hard, it is long) does not widen the interval of their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Means of columns, shape `(..., columns)` → figures, shape `(...)`."""

REPLICATES = 2000
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds that hold it with the stated confidence."""

    value: float
    low: float
    high: float


def resampled_means(
    columns: ArrayLike, *, seed: int, replicates: int = REPLICATES
) -> NDArray[np.float64]:
    """Column means of `replicates` resampled query sets, shape `(replicates, columns)`.

    Args:
        columns: one row per query, one column per quantity, all finite, shape `(n, columns)`.
        seed: equal seeds draw equal queries, whatever the columns.
        replicates: how many query sets are drawn.

    Raises:
        ValueError: there is no query to draw from.
    """
    data = np.asarray(columns, dtype=np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError(f"a bootstrap needs a (queries, columns) array, got shape {data.shape}")
    queries = len(data)
    rng = np.random.default_rng(seed)
    means = np.empty((replicates, data.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // queries)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        drawn = rng.integers(queries, size=(size, queries), dtype=np.int32)
        offsets = np.arange(size, dtype=np.int64)[:, None] * queries
        times = np.bincount((drawn + offsets).ravel(), minlength=size * queries)
        means[start : start + size] = (
            times.reshape(size, queries).astype(np.float64) @ data / queries
        )
    return means


def interval(
    statistic: Statistic,
    columns: ArrayLike,
    *,
    seed: int,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
) -> Interval:
    """The percentile interval of a figure that is a function of column means.

    Args:
        statistic: means → figure; called once on the sample, once on all replicates.
        columns: as in `resampled_means`.
        seed: as in `resampled_means`.
        replicates: as in `resampled_means`.
        confidence: share of the replicates inside the bounds, in (0, 1).

    Replicates whose figure is not finite (a ratio over nothing) are left out.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    data = np.asarray(columns, dtype=np.float64)
    means = resampled_means(data, seed=seed, replicates=replicates)
    figures = statistic(means)
    figures = figures[np.isfinite(figures)]
    value = float(statistic(data.mean(axis=0)))
    if not len(figures):
        return Interval(value, value, value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def mean(column: ArrayLike, *, seed: int, replicates: int = REPLICATES) -> Interval:
    """The mean of one quantity over queries, with its 95 % interval."""
    data = np.asarray(column, dtype=np.float64)[:, None]
    return interval(lambda means: means[..., 0], data, seed=seed, replicates=replicates)


def difference(
    ours: ArrayLike, theirs: ArrayLike, *, seed: int, replicates: int = REPLICATES
) -> Interval:
    """mean(ours) - mean(theirs) on the same queries, with its 95 % interval."""
    data = np.column_stack([np.asarray(ours, float), np.asarray(theirs, float)])
    return interval(
        lambda means: means[..., 0] - means[..., 1], data, seed=seed, replicates=replicates
    )


def saving(
    ours: ArrayLike, theirs: ArrayLike, *, seed: int, replicates: int = REPLICATES
) -> Interval:
    """1 - sum(ours) / sum(theirs) on the same queries, with its 95 % interval.

    Negative when ours cost more.
    """
    data = np.column_stack([np.asarray(ours, float), np.asarray(theirs, float)])

    def share(means: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1 - means[..., 0] / means[..., 1])

    return interval(share, data, seed=seed, replicates=replicates)
