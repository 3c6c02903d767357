"""Training queries → what is usual, domain by domain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.blocks import in_blocks
from moa.router.features import Floats32
from moa.router.novelty import BORROWED, DIRECTIONS, NOISE, QUANTILES, Novelty, distances

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def fit_novelty(
    embeddings: Embeddings, features: Floats32, domain: Ints, weight: Floats, folds: Ints
) -> Novelty:
    """Centres, covariances and quantiles of a training set.

    Args:
        embeddings: shape (n, d).
        features: of which the first d columns are the embedding's, shape (n, width).
        domain: of each query, numbered from 0, shape (n,).
        weight: of each query, shape (n,).
        folds: of the cross-validation, shape (n,): a query is compared with what was usual in the
            other folds, as a query of tomorrow will be.
    """
    count = int(domain.max()) + 1
    similarity, distance = np.empty((len(domain), count)), np.empty((len(domain), count))
    directions = _directions(features, embeddings.shape[1], weight)
    coordinates = in_blocks(features, directions)
    for fold in np.unique(folds):
        mine = folds == fold
        usual = _usual(embeddings[~mine], coordinates[~mine], domain[~mine], count)
        similarity[mine] = in_blocks(embeddings[mine], usual.centres)
        distance[mine] = distances(coordinates[mine], usual.whitening)
    usual = _usual(embeddings, coordinates, domain, count)
    return Novelty(
        centres=usual.centres,
        similarity=_quantiles(similarity.max(axis=1), similarity.argmax(axis=1), count),
        directions=directions,
        whitening=usual.whitening,
        distance=_quantiles(distance.min(axis=1), distance.argmin(axis=1), count),
    )


class _Usual(NamedTuple):
    centres: Floats
    whitening: Floats


def _usual(embeddings: Embeddings, coordinates: Floats, domain: Ints, count: int) -> _Usual:
    """Of each domain; one without a query is usual nowhere."""
    size = coordinates.shape[1]
    centres = np.zeros((embeddings.shape[1] + 1, count))
    whitening = np.zeros((size + 1, count, size))
    whitening[-1] = FAR
    members = [np.flatnonzero(domain == number) for number in range(count)]
    spread = [np.cov(coordinates[rows].T) for rows in members if len(rows) > 2]
    common = np.mean(spread, axis=0) if spread else np.eye(size)
    for number, rows in enumerate(members):
        if not len(rows):
            continue
        centre = embeddings[rows].astype(np.float64).mean(axis=0)
        centres[:-1, number] = centre / max(float(np.linalg.norm(centre)), 1e-12)
        own = len(rows) / (len(rows) + BORROWED)
        mine = np.cov(coordinates[rows].T) if len(rows) > 2 else common
        covariance = own * mine + (1 - own) * common + NOISE * np.eye(size)
        root = np.linalg.cholesky(np.linalg.inv(covariance))
        whitening[:-1, number] = root
        whitening[-1, number] = -coordinates[rows].mean(axis=0) @ root
    return _Usual(centres, whitening)


FAR = 1e3
"""Standardised distance from a domain of which nothing is known."""


def _directions(features: Floats32, embedded: int, weight: Floats) -> Floats:
    """The surface's columns and the embedding's leading directions, each with variance 1; shape
    (width + 1, s)."""
    x = features.astype(np.float64)
    mean = np.average(x, axis=0, weights=weight)
    centred = x[:, :embedded] - mean[:embedded]
    covariance = (centred * weight[:, None]).T @ centred / weight.sum()
    values, vectors = np.linalg.eigh(covariance)
    leading = slice(max(0, embedded - DIRECTIONS), embedded)
    kept = vectors[:, leading] / np.sqrt(np.maximum(values[leading], 1e-9))
    kept *= np.sign(kept.sum(axis=0))  # eigenvectors have no sign of their own
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))[embedded:]
    surface = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0)
    map_ = np.zeros((x.shape[1], kept.shape[1] + len(surface)))
    map_[:embedded, : kept.shape[1]] = kept
    map_[embedded:, kept.shape[1] :] = np.diag(surface)
    return np.vstack([map_, -mean @ map_])


def _quantiles(values: Floats, nearest: Ints, count: int) -> Floats:
    """Shape (`QUANTILES`, count); of a domain that nothing is nearest to those of all."""
    shares = np.linspace(0, 1, QUANTILES)
    columns = [
        np.quantile(values[nearest == number] if (nearest == number).any() else values, shares)
        for number in range(count)
    ]
    return np.stack(columns, axis=1)
