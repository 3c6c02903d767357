"""Linear maps, one per domain, each as strongly regularised as its domain's queries ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

STRENGTHS = (0.25, 1.0, 4.0, 16.0, 64.0)
"""Of the regularisation; features are scaled so that 1 is a good guess."""
LEAST_ROWS = 40
"""Of all folds but one; below these a domain has its mean and no more, since there is nothing to
choose a strength by."""


class Experts(NamedTuple):
    """k targets in each of C domains."""

    weights: Floats
    """Shape (width + 1, C, k); the last row is the intercept, NaN where a domain has no row."""
    out_of_fold: Floats
    """Of each query by its own domain's map, fitted on other folds; shape (n, k)."""
    strength: Floats
    """That did best on other folds, shape (C, k); NaN where a domain has its mean only."""


def fit_experts(features: Floats, targets: Floats, domain: Ints, folds: Ints) -> Experts:
    """Fit one ridge regression per domain and target.

    Args:
        features: shape (n, width).
        targets: NaN where missing, shape (n, k).
        domain: of each query, numbered from 0, shape (n,).
        folds: of the cross-validation, shape (n,).
    """
    domains, count = int(domain.max()) + 1, targets.shape[1]
    weights = np.zeros((features.shape[1] + 1, domains, count))
    out_of_fold = np.full(targets.shape, np.nan)
    strength = np.full((domains, count), np.nan)
    for number in range(domains):
        rows = np.flatnonzero(domain == number)
        for columns, known in _alike(~np.isnan(targets[rows])):
            mine = rows[known]
            fitted = _fit_domain(features, targets[:, columns], rows, mine, folds)
            weights[:, number, columns] = fitted.weights
            out_of_fold[np.ix_(rows, columns)] = fitted.out_of_fold
            strength[number, columns] = fitted.strength
    return Experts(weights, out_of_fold, strength)


def _alike(known: Bools) -> Iterator[tuple[Ints, Bools]]:
    """Columns that are known of the same rows, and these rows."""
    masks = {known[:, column].tobytes() for column in range(known.shape[1])}
    for mask in sorted(masks):
        rows = np.frombuffer(mask, np.bool_)
        yield np.flatnonzero((known == rows[:, None]).all(axis=0)), rows


def _fit_domain(features: Floats, targets: Floats, rows: Ints, mine: Ints, folds: Ints) -> Experts:
    """One domain, targets that are known of its rows `mine`; answers for all its `rows`."""
    if not len(mine):
        empty = np.full((features.shape[1] + 1, targets.shape[1]), np.nan)
        return Experts(empty, np.full((len(rows), targets.shape[1]), np.nan), np.array(np.nan))
    guesses = np.empty((len(STRENGTHS), len(rows), targets.shape[1]))
    compared = False
    for fold in np.unique(folds[rows]):
        held_out = folds[rows] == fold
        rest = mine[folds[mine] != fold]
        solver = _Ridge(features[rest], targets[rest]) if len(rest) >= LEAST_ROWS else None
        compared = compared or solver is not None
        for n, strength in enumerate(STRENGTHS):
            if solver is None:
                guesses[n, held_out] = targets[rest if len(rest) else mine].mean(axis=0)
            else:
                guesses[n, held_out] = solver.weights(strength).at(features[rows[held_out]])
    error = ((guesses - targets[rows]) ** 2)[:, np.isin(rows, mine)].mean(axis=1)
    if not compared:
        constant = np.zeros((features.shape[1] + 1, targets.shape[1]))
        constant[-1] = targets[mine].mean(axis=0)
        return Experts(constant, guesses[0], np.array(np.nan))
    best = error.argmin(axis=0)
    solver = _Ridge(features[mine], targets[mine])
    each = [solver.weights(STRENGTHS[n]).table[:, column] for column, n in enumerate(best)]
    chosen = np.take_along_axis(guesses, best[None, None, :], axis=0)[0]
    return Experts(np.stack(each, axis=1), chosen, np.array(STRENGTHS)[best])


class _Linear(NamedTuple):
    table: Floats
    """Shape (width + 1, k), the intercept last."""

    def at(self, features: Floats) -> Floats:
        return np.asarray(features @ self.table[:-1] + self.table[-1])


class _Ridge:
    """Solves for any strength once the rows are decomposed: by columns, or by rows if fewer."""

    def __init__(self, features: Floats, targets: Floats) -> None:
        self._middle, self._mean = features.mean(axis=0), targets.mean(axis=0)
        self._features, self._targets = features - self._middle, targets - self._mean
        self._by_rows = len(features) < features.shape[1]
        gram = (
            self._features @ self._features.T
            if self._by_rows
            else self._features.T @ self._features
        )
        self._values, self._vectors = np.linalg.eigh(gram)
        side = self._targets if self._by_rows else self._features.T @ self._targets
        self._side = self._vectors.T @ side

    def weights(self, strength: float) -> _Linear:
        scaled = self._side / (np.maximum(self._values, 0) + strength)[:, None]
        solved = self._vectors @ scaled
        slope = self._features.T @ solved if self._by_rows else solved
        return _Linear(np.vstack([slope, self._mean - self._middle @ slope]))
