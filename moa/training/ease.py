"""How easy queries are, from the grades of every model that has answered them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.training.linear import fit_log_odds

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

LEAST_GRADES = 20
"""Of a model in a domain, for its grades there to tell anything of single queries."""
MOST_COUNTED = 200
"""Grades of one model in one domain that count for how easy the domain is."""
PRIOR = 2.0
"""Pull of a query's ease towards its domain's mean, in units of information: about as much as eight
answers to questions that models get right half of the time."""


class Ease(NamedTuple):
    """In log odds of a full grade."""

    of_query: Floats
    """How much easier than its domain's others, shape (n,); NaN where nothing tells."""
    of_domain: Floats
    """Shape (C,)."""


def fit_ease(grade: Floats, domain: Ints, weight: Floats | None = None) -> Ease:
    """Ease of queries and domains.

    Args:
        grade: of n queries by k models, NaN where missing, shape (n, k).
        domain: of each query, numbered from 0, shape (n,).
        weight: of each grade in its model's mean of a domain, 0 where missing, shape (n, k);
            by default each counts once.

    A query's is one step of Newton's method from its domain's mean towards what the grades make
    most likely. Source: the Rasch model; Lord and Novick, 1968.
    """
    domains = int(domain.max()) + 1
    known = ~np.isnan(grade)
    inside = np.eye(domains)[domain]
    counts = inside.T @ known
    weight = known.astype(np.float64) if weight is None else weight
    weights = inside.T @ weight
    sums = inside.T @ (np.nan_to_num(grade) * weight)
    mean = np.divide(sums, weights, out=np.full(counts.shape, np.nan), where=counts >= LEAST_GRADES)
    expected = mean[domain]
    counted = known & ~np.isnan(expected)
    better = np.where(counted, grade - expected, 0).sum(axis=1)
    information = np.where(counted, expected * (1 - expected), 0).sum(axis=1)
    of_query = np.where(counted.any(axis=1), better / (information + PRIOR), np.nan)
    return Ease(of_query, _of_domains(mean, counts))


def _of_domains(mean: Floats, counts: Floats) -> Floats:
    """Each model has a strength and each domain an ease; their sum gives the mean grade."""
    domains, models = np.nonzero(~np.isnan(mean))
    if not len(domains):
        return np.zeros(len(mean))
    design = np.zeros((len(domains), sum(mean.shape)))
    rows = np.arange(len(domains))
    design[rows, domains] = 1
    design[rows, len(mean) + models] = 1
    weight = np.minimum(counts[domains, models], MOST_COUNTED)
    fitted = fit_log_odds(design, mean[domains, models], weight, l2=1.0)
    ease = fitted[: len(mean)]
    seen = np.isin(np.arange(len(mean)), domains)
    return np.where(seen, ease - ease[seen].mean(), 0)
