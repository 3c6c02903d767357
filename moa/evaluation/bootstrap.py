"""Query sets drawn for many columns at once; the first row of all that is drawn is the sample.

So a figure is written once, over rows: its value is the first row's, its interval the others'.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moa.intervals import Interval, resampled_means

Floats = NDArray[np.float64]


def drawn_means(
    columns: Mapping[str, ArrayLike], *, seed: int, replicates: int
) -> dict[str, Floats]:
    """Means over the sample and over each drawn set of queries.

    Args:
        columns: name → one value per query, shape (n,), or several, shape (n, k).
        seed: equal seeds draw equal queries, whatever the columns.
        replicates: how many sets are drawn.

    Returns:
        Name → shape (1 + replicates,) or (1 + replicates, k). A query is drawn with all of its
        columns.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    wide = {name: values.reshape(len(values), -1) for name, values in arrays.items()}
    table = np.concatenate(list(wide.values()), axis=1)
    sample = table.mean(axis=0, keepdims=True)
    means = np.concatenate([sample, resampled_means(table, seed=seed, replicates=replicates)])
    ends = np.cumsum([values.shape[1] for values in wide.values()])[:-1]
    parts = np.split(means, ends, axis=1)
    return {
        name: part[:, 0] if arrays[name].ndim == 1 else part
        for name, part in zip(arrays, parts, strict=True)
    }


def interval(rows: Floats, *, confidence: float = 0.95) -> Interval:
    """The first row's figure with the percentile interval of the others, shape (1 + replicates,).

    Sets whose figure is not finite (a ratio over nothing) are left out.
    """
    value, rest = float(rows[0]), rows[1:][np.isfinite(rows[1:])]
    if not len(rest):
        return Interval(value, value, value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(rest, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def ratio(above: Floats, below: Floats) -> Floats:
    """A quotient, NaN where it would be over nothing (less than 1e-12)."""
    some = np.abs(below) > 1e-12
    return np.asarray(np.where(some, above / np.where(some, below, 1), np.nan))
