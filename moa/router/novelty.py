"""How far a query is from anything seen in training: what abstention goes by.

Two looks, because each misses what the other sees. *Topic*: how close the embedding is to the
centre of its nearest domain; it finds questions about other things. *Shape*: how far surface and
leading directions of the embedding are from what is usual in the nearest domain; it finds code
among questions that are about everything. What each noticed of sources left out of training is in
tests/bench/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.blocks import in_blocks, products
from moa.router.features import Floats32

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
QUANTILES = 201
DIRECTIONS = 48
"""Of the embedding, those in which training queries differ most."""
BORROWED = 100.0
"""Queries that the covariance common to all domains counts for in that of each."""
NOISE = 0.05
"""Variance that every direction has at least, where 1 is usual."""


@dataclass(frozen=True, slots=True)
class Novelty:
    """Compares a query with the training queries that are nearest to the same domain.

    How close queries are to their domain differs from domain to domain: questions about everything
    are scattered, those of one template lie close.
    """

    centres: Floats
    """Unit vectors, shape (d + 1, C); the last row is 0."""
    similarity: Floats
    """Of training queries to the centre that they are nearest to, quantiles, ascending, shape
    (quantiles, C)."""
    directions: Floats
    """Features → coordinates of the shape, shape (width + 1, s)."""
    whitening: Floats
    """Coordinates → standardised distances from a domain's usual, shape (s + 1, C, s)."""
    distance: Floats
    """Of training queries from the domain that they are nearest to, quantiles, ascending, shape
    (quantiles, C)."""

    def __call__(self, embeddings: Embeddings, features: Floats32) -> NDArray[np.float32]:
        """Share of training queries that are less novel, in [0, 1], shape (n,).

        Of a query that looks unusual twice over only the stronger look counts, at half its
        surprise, so that queries like the training data are spread evenly above 0.5.
        """
        topic = self._topic(embeddings)
        shape = self._shape(features)
        surprise = np.minimum(1, 2 * np.minimum(1 - topic, 1 - shape))
        return np.asarray(1 - surprise, np.float32)

    def _topic(self, embeddings: Embeddings) -> Floats:
        similarity = in_blocks(embeddings, self.centres)
        nearest, closest = similarity.argmax(axis=1), similarity.max(axis=1)
        return 1 - _share_below(closest, nearest, self.similarity)

    def _shape(self, features: Floats32) -> Floats:
        distance = distances(in_blocks(features, self.directions), self.whitening)
        nearest, closest = distance.argmin(axis=1), distance.min(axis=1)
        return _share_below(closest, nearest, self.distance)


def distances(coordinates: Floats, whitening: Floats) -> Floats:
    """Mahalanobis distances from each domain, shape (n, C).

    Args:
        coordinates: shape (n, s).
        whitening: as `Novelty.whitening`.
    """
    size, domains, _ = whitening.shape
    flat = whitening.reshape(size, -1)
    middle = flat[-1]
    squares = np.empty((len(coordinates), domains))
    for start, white in products(coordinates, flat):
        white += middle
        white *= white
        squares[start : start + len(white)] = white.reshape(len(white), domains, -1).sum(axis=2)
    return np.sqrt(squares)


def _share_below(values: Floats, nearest: Ints, quantiles: Floats) -> Floats:
    """Where each value is among the training queries of its nearest domain, in [0, 1]."""
    shares = np.linspace(0, 1, len(quantiles))
    out = np.empty(len(values))
    for domain in np.unique(nearest):
        mine = nearest == domain
        out[mine] = np.interp(values[mine], quantiles[:, domain], shares)
    return out
