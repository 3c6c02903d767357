"""Embedding and surface of a query → standardised features, whatever the backbone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.surface import Surface

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
MOST_DEVIATIONS = np.float32(5)
"""Beyond so many standard deviations a feature says no more."""
WEIGHT = 0.5
"""Of the embedding as a whole, and of the surface: each feature's is this over the root of how many
there are. So one strength of regularisation serves a backbone of 384 numbers and one of 3,584.
Measured on the hashing backbone: tests/bench/LOG.md."""


@dataclass(frozen=True, slots=True)
class Features:
    """Standardises by what the training queries were like."""

    mean: Floats32
    """Shape (width,): the embedding's columns, then the surface's."""
    scale: Floats32
    """One over the standard deviation, 0 for a column that never varied; same shape."""
    weight: Floats32
    """Same shape."""

    def __call__(self, embeddings: Embeddings, surface: Surface) -> Floats32:
        """Features, shape (n, width); row by row, so that they depend on the query alone."""
        raw = np.concatenate([embeddings, surface], axis=1)
        raw -= self.mean
        raw *= self.scale
        np.clip(raw, -MOST_DEVIATIONS, MOST_DEVIATIONS, out=raw)
        raw *= self.weight
        return raw


def fit_features(embeddings: Embeddings, surface: Surface, weight: Floats) -> Features:
    """Means and deviations of a training set.

    Args:
        embeddings: shape (n, d).
        surface: shape (n, s).
        weight: of each query, shape (n,): those of a large domain should not drown the others.
    """
    raw = np.concatenate([embeddings, surface], axis=1).astype(np.float64)
    mean = np.average(raw, axis=0, weights=weight)
    variance = np.average((raw - mean) ** 2, axis=0, weights=weight)
    deviation = np.sqrt(variance)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    counts = np.repeat(
        [embeddings.shape[1], surface.shape[1]], [embeddings.shape[1], surface.shape[1]]
    )
    return Features(
        mean.astype(np.float32),
        scale.astype(np.float32),
        (WEIGHT / np.sqrt(counts)).astype(np.float32),
    )
