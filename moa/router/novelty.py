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
    """Compares a query with the centres of the groups of training queries.

    How close queries are to their centre differs from group to group: questions about everything
    are scattered, those of one template lie close. So a query is set beside the training queries
    whose nearest centre is the same.
    """

    centres: Floats
    """Unit vectors, shape (width + 1, groups); the last row is 0."""
    similarity: Floats
    """Per group, quantiles of similarity to it among the training queries that it is nearest to,
    ascending, shape (quantiles, groups)."""

    def __call__(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Share of these training queries that are closer to the centre, in [0, 1]; shape (n,).

        Queries like the training data are spread evenly.
        """
        similarity = in_blocks(embeddings, self.centres)
        nearest = similarity.argmax(axis=1)
        shares = np.linspace(1, 0, len(self.similarity))
        out = np.empty(len(embeddings), np.float32)
        for group in np.unique(nearest):
            mine = nearest == group
            out[mine] = np.interp(similarity[mine, group], self.similarity[:, group], shares)
        return out


def fit_novelty(
    embeddings: Embeddings, groups: NDArray[np.intp], folds: NDArray[np.intp], compared: int
) -> Novelty:
    """Centres and quantiles of a training set.

    Args:
        embeddings: shape (n, width).
        groups: what each query is about, numbered from 0, shape (n,).
        folds: of the cross-validation, shape (n,): a query's similarity is to centres that were
            made without its fold, as a query's of tomorrow will be.
        compared: only the first so many columns count.
    """
    count = int(groups.max()) + 1
    similarity = np.empty((len(embeddings), count))
    for fold in np.unique(folds):
        held_out = folds == fold
        centres = _centres(embeddings[~held_out], groups[~held_out], count, compared)
        similarity[held_out] = in_blocks(embeddings[held_out], centres)
    nearest, closest = similarity.argmax(axis=1), similarity.max(axis=1)
    shares = np.linspace(0, 1, QUANTILES)
    quantiles = np.empty((QUANTILES, count))
    for group in range(count):
        mine = nearest == group
        quantiles[:, group] = np.quantile(closest[mine] if mine.any() else closest, shares)
    return Novelty(_centres(embeddings, groups, count, compared), quantiles)


def _centres(embeddings: Embeddings, groups: NDArray[np.intp], count: int, compared: int) -> Floats:
    """As `Novelty.centres`; that of a group without a query is 0."""
    centres = np.zeros((embeddings.shape[1] + 1, count))
    for group in np.unique(groups):
        centre = embeddings[groups == group, :compared].astype(np.float64).mean(axis=0)
        centres[:compared, group] = centre / max(float(np.linalg.norm(centre)), 1e-12)
    return centres
