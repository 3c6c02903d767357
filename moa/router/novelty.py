"""How far a query is from anything seen in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.heads import in_blocks

Floats = NDArray[np.float64]
QUANTILES = 201


@dataclass(frozen=True, slots=True)
class Novelty:
    """Compares a query with the centres of the groups of training queries."""

    centres: Floats
    """Unit vectors, shape (width + 1, groups); the last row is 0."""
    similarity: Floats
    """Quantiles of the training queries' similarity to their nearest centre, ascending."""

    def __call__(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Share of the training queries that are closer to a centre, in [0, 1]; shape (n,)."""
        nearest = in_blocks(embeddings, self.centres).max(axis=1)
        shares = np.linspace(1, 0, len(self.similarity))
        return np.asarray(np.interp(nearest, self.similarity, shares), np.float32)


def fit_novelty(embeddings: Embeddings, groups: NDArray[np.intp], compared: int) -> Novelty:
    """Centres and quantiles of a training set.

    Args:
        embeddings: shape (n, width).
        groups: what each query is about, numbered from 0, shape (n,).
        compared: only the first so many columns count.
    """
    centres = np.zeros((embeddings.shape[1] + 1, groups.max() + 1))
    for group in range(centres.shape[1]):
        centre = embeddings[groups == group, :compared].astype(np.float64).mean(axis=0)
        centres[:compared, group] = centre / np.linalg.norm(centre)
    nearest = in_blocks(embeddings, centres).max(axis=1)
    return Novelty(centres, np.quantile(nearest, np.linspace(0, 1, QUANTILES)))
