"""Judgements of pairs → how strong each model is, in log-odds, with intervals.

In a model of Bradley and Terry the odds that one model's answer beats another's are the ratio of
their strengths. A tie is half a win for each.

Source: Bradley and Terry, Rank analysis of incomplete block designs, 1952; fitted by I-LSR, Maystre
and Grossglauser, Fast and accurate inference of Plackett-Luce models, NIPS 2015 (`choix`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.grading.judgements import Pair

PRIOR = 1.0
"""Ties that each compared pair has beside its judgements: who won all of three comparisons is
strong, not infinitely so."""
_DEVIATIONS = 1.959963984540054
"""Of a normal distribution, that hold 95 %."""
_MOST_ROUNDS = 10_000

Floats = NDArray[np.float64]


class Strengths(NamedTuple):
    """Of the models of one connected graph of comparisons."""

    models: tuple[str, ...]
    """Sorted."""
    value: Floats
    """In log-odds, shape (m,); their mean is 0."""
    deviation: Floats
    """Standard errors, shape (m,)."""

    @property
    def low(self) -> Floats:
        """Lower ends of 95 % intervals."""
        return self.value - _DEVIATIONS * self.deviation

    @property
    def high(self) -> Floats:
        """Their upper ends."""
        return self.value + _DEVIATIONS * self.deviation

    def win_share(self, model: int, by: float = 0.0) -> float:
        """How often a model wins against another one of these, each as likely, in [0, 1].

        Args:
            model: its number.
            by: added to its strength.
        """
        others = np.delete(self.value, model)
        return float(win_probability(self.value[model] + by - others).mean())


def fitter() -> str:
    """Name and version of what fits.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return f"choix/{version('choix')}"
    except PackageNotFoundError:
        raise ConfigError(
            "judgements of pairs need choix, not installed here: pip install 'moa-router[grade]'"
        ) from None


def win_probability(log_odds: Floats) -> Floats:
    """Of whoever is ahead by so much."""
    return 0.5 * (1 + np.tanh(log_odds / 2))


def connected(pairs: Iterable[Pair]) -> list[frozenset[str]]:
    """The models, in sets inside which all can be compared by way of others; largest first."""
    neighbours: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        neighbours[pair.model_a].add(pair.model_b)
        neighbours[pair.model_b].add(pair.model_a)
    left, found = set(neighbours), []
    while left:
        seen, waiting = set[str](), [min(left)]
        while waiting:
            seen.add(one := waiting.pop())
            waiting += neighbours[one] - seen
        left -= seen
        found.append(frozenset(seen))
    return sorted(found, key=lambda one: (-len(one), min(one)))


def fit(pairs: Sequence[Pair], *, prior: float = PRIOR) -> Strengths:
    """Fit the strengths of models that are connected.

    Args:
        pairs: at least one.
        prior: ties that each compared pair has beside its judgements; > 0, or 0 where every model
            has lost and won.

    The standard errors are the widest of three: by Fisher's information, which takes judgements as
    independent, and as they vary among queries, and among raters: judgements of one query, or by
    one rater, are alike.

    Raises:
        ConfigError: choix is not installed.
    """
    fitter()
    import choix  # of an extra, which grading without judgements does not need

    models = tuple(sorted({name for one in pairs for name in (one.model_a, one.model_b)}))
    place = {name: n for n, name in enumerate(models)}
    a = np.array([place[one.model_a] for one in pairs])
    b = np.array([place[one.model_b] for one in pairs])
    share = np.array([one.share for one in pairs])
    weight = np.array([one.weight for one in pairs])
    wins = _wins(a, b, share, weight, len(models), prior)
    value = choix.ilsr_pairwise_dense(wins, max_iter=_MOST_ROUNDS)
    value = np.asarray(value - value.mean(), np.float64)
    covariance = np.asarray(np.linalg.pinv(_information(wins, value), hermitian=True), np.float64)
    surprise = weight * (share - win_probability(value[a] - value[b]))
    scores = np.zeros((len(pairs), len(models)))
    rows = np.arange(len(pairs))
    scores[rows, a], scores[rows, b] = surprise, -surprise
    variances = [
        covariance.diagonal(),
        _clustered(scores, [one.query_id for one in pairs], covariance),
        _clustered(scores, [one.rater or one.query_id for one in pairs], covariance),
    ]
    return Strengths(models, value, np.sqrt(np.max(variances, axis=0)))


def _wins(
    a: NDArray[np.intp],
    b: NDArray[np.intp],
    share: Floats,
    weight: Floats,
    models: int,
    prior: float,
) -> Floats:
    """How often each model (row) has won against each (column), the prior's ties included."""
    wins = np.zeros((models, models))
    np.add.at(wins, (a, b), weight * share)
    np.add.at(wins, (b, a), weight * (1 - share))
    return wins + np.where(wins + wins.T > 0, prior / 2, 0.0)


def _information(wins: Floats, value: Floats) -> Floats:
    chance = win_probability(value[:, None] - value[None, :])
    between = (wins + wins.T) * chance * (1 - chance)
    return np.asarray(np.diag(between.sum(axis=1)) - between, np.float64)


def _clustered(scores: Floats, clusters: Sequence[str], covariance: Floats) -> Floats:
    """Variances when judgements of one cluster are alike: the sandwich estimator.

    Source: Liang and Zeger, Longitudinal data analysis using generalized linear models, 1986.
    """
    numbers = np.unique(np.array(clusters), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count == 1:
        return np.zeros(len(covariance))
    summed = np.zeros((count, scores.shape[1]))
    np.add.at(summed, numbers, scores)
    through = summed @ covariance * np.sqrt(count / (count - 1))
    return np.asarray((through**2).sum(axis=0), np.float64)
