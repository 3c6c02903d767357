"""What training queries are about: the sources of the log, or clusters where there is only one."""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.router.factors import softmax
from moa.router.features import Floats32
from moa.training.dataset import Dataset

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

LEAST_SOURCE = 20
"""Queries of a source that is a domain of its own; smaller ones share one, `others`."""
MOST_SOURCES = 30
"""Largest first: a log with a source per customer has no more domains than these and `others`."""
OTHERS = "others"
PER_CLUSTER = 400
MOST_CLUSTERS = 12
LOOSENESS = 100.0
"""Of the map of domains: the inverse of its regularisation. At 1 it was less sure of what it was
right about, which cost 0.01 of log loss; at 1,000 it was no better."""
UNLIKELY = 30.0
"""Log odds against a domain of which nothing is known."""


class Domains(NamedTuple):
    """C domains of n queries."""

    names: list[str]
    of_query: Ints
    """Shape (n,)."""


def find_domains(data: Dataset, features: Floats32) -> Domains:
    """The domains of a training set: its sources, if it names more than one.

    A log of one source is cut into clusters of its queries' features, one per `PER_CLUSTER`
    queries, by k-means from a fixed start.
    """
    sizes = Counter(data.sources)
    if len(sizes) > 1:
        ranked = sorted(sizes, key=lambda source: (-sizes[source], source))[:MOST_SOURCES]
        large = sorted(source for source in ranked if sizes[source] >= LEAST_SOURCE)
        names = large if len(large) == len(sizes) else [*large, OTHERS]
        place = {source: min(n, len(names) - 1) for n, source in enumerate(names)}
        last = len(names) - 1
        return Domains(names, np.array([place.get(source, last) for source in data.sources]))
    count = int(np.clip(len(features) // PER_CLUSTER, 1, MOST_CLUSTERS))
    source = data.sources[0]
    if count == 1:
        return Domains([source], np.zeros(len(features), np.intp))
    found, of_query = np.unique(_clusters(features, count), return_inverse=True)
    return Domains([f"{source} {n + 1}" for n in range(len(found))], of_query)


def _clusters(features: Floats32, count: int) -> Ints:
    """By k-means. On one thread, so that equal data gives equal clusters on any number of cores;
    fewer where queries repeat each other."""
    means = _sklearn("cluster").KMeans(count, n_init=4, random_state=0)
    one_thread = importlib.import_module("threadpoolctl").threadpool_limits(1)  # of scikit-learn's
    with one_thread, warnings.catch_warnings():
        warnings.simplefilter("ignore", _sklearn("exceptions").ConvergenceWarning)
        return np.asarray(means.fit_predict(features.astype(np.float64)), np.intp)


class DomainFit(NamedTuple):
    """A map from features to log odds of each domain."""

    weights: Floats
    """Shape (width + 1, C)."""
    share: Floats
    """Of each training query by maps that were fitted on other folds, shape (n, C)."""


def fit_domain_map(features: Floats, domains: Domains, weight: Floats, folds: Ints) -> DomainFit:
    """Multinomial logistic regression on membership.

    Args:
        features: shape (n, width).
        domains: of these queries.
        weight: of each query, shape (n,).
        folds: of the cross-validation, shape (n,).
    """
    count = len(domains.names)
    if count == 1:
        return DomainFit(np.zeros((features.shape[1] + 1, 1)), np.ones((len(features), 1)))
    share = np.empty((len(features), count))
    for fold in np.unique(folds):
        mine = folds == fold
        table = _logistic(features, domains, weight * ~mine)
        share[mine] = softmax(features[mine] @ table[:-1] + table[-1])
    return DomainFit(_logistic(features, domains, weight), share)


def _logistic(features: Floats, domains: Domains, weight: Floats) -> Floats:
    """Shape (width + 1, C); a domain without any query of weight is never likely."""
    counted = np.flatnonzero(weight)
    table = np.zeros((features.shape[1] + 1, len(domains.names)))
    table[-1] = -UNLIKELY
    present = np.unique(domains.of_query[counted])
    if len(present) == 1:  # the rest are all in the fold that is left out
        table[-1, present] = 0
        return table
    model = _sklearn("linear_model").LogisticRegression(C=LOOSENESS, max_iter=500)
    model.fit(features[counted], domains.of_query[counted], sample_weight=weight[counted])
    slopes, levels = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # told by one row, of the second
        slopes, levels = np.stack([-slopes[0], slopes[0]]) / 2, np.array([-1, 1]) * levels / 2
    table[:-1, model.classes_], table[-1, model.classes_] = slopes.T, levels
    return table


def _sklearn(module: str) -> Any:  # noqa: ANN401 - a module without types
    """A module of scikit-learn, which only training needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ConfigError(
            f"training needs scikit-learn, which cannot be imported ({error}): install the extra "
            "train (`pip install -c constraints.txt -e '.[train]'`)"
        ) from None
