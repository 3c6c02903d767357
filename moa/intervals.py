"""Paired bootstrap intervals: how far a figure could be off, had other queries come.

Queries are drawn with replacement; all columns of a query are drawn together, so that what two
models share on a query (it is hard, it is long) does not widen the interval of their difference.
The queries are drawn once for all figures that are made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Means = Mapping[Hashable, Floats]
"""Column → its mean, of the sample (a scalar) or of every drawn set (shape `(replicates,)`)."""
Figure = Callable[[Means], Floats]

REPLICATES = 2000
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds that hold it with the stated confidence."""

    value: float
    low: float
    high: float


class Resamples:
    """Query sets drawn from a sample, and the means of named columns over each."""

    def __init__(
        self, columns: Mapping[Hashable, ArrayLike], *, seed: int, replicates: int = REPLICATES
    ) -> None:
        """Draw the queries.

        Args:
            columns: name → one finite value per query, shape `(n,)`. To look at some of the
                queries only, give their values and 0 elsewhere, and a mask: the ratio of the two
                means is the mean over these.
            seed: equal seeds draw equal queries, whatever the columns.
            replicates: how many query sets are drawn.

        Raises:
            ValueError: there is no query to draw from.
        """
        data = np.column_stack([np.asarray(column, np.float64) for column in columns.values()])
        means = resampled_means(data, seed=seed, replicates=replicates)
        self._sample: Means = dict(zip(columns, data.mean(axis=0), strict=True))
        self._drawn: Means = dict(zip(columns, means.T, strict=True))

    def interval(self, figure: Figure, *, confidence: float = 0.95) -> Interval:
        """The percentile interval of a figure that is a function of column means.

        Args:
            figure: called once on the sample's means, once on those of all drawn sets.
            confidence: share of the drawn sets inside the bounds, in (0, 1).

        Sets whose figure is not finite (a ratio over nothing) are left out.

        Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            value, drawn = float(figure(self._sample)), figure(self._drawn)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Interval(value, value, value)
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(value, float(low), float(high))


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
