"""Features → the few numbers that all models' heads share: what a query is about, how easy it is.

A query's ease is learnt from the grades of every model that answered it, whoever is in the pool:
the grade of one model is a coin toss, the mean over forty is not. What is left to learn of a model
is how it does in each domain and how much harder queries cost it, which a few hundred grades can
tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.blocks import in_blocks
from moa.router.features import Floats32

Floats = NDArray[np.float64]
SHARED = 2.0
"""Of what is common to all domains, against what is told of each alone: the greater, the less it is
shrunk when a head is fitted."""


class QueryFactors(NamedTuple):
    """Of n queries; C domains."""

    share: Floats
    """How likely each domain is, shape (n, C); rows sum to 1."""
    ease: Floats
    """Of each query within its domain, shape (n,)."""
    values: Floats
    """Shape (n, 2 C + 2)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """One linear map a domain: within maths, length means something else than within code."""

    domain: Floats
    """Features → log odds of each domain, shape (width + 1, C); the last row is the intercept."""
    ease: Floats
    """Features → how much easier than its domain's queries, were it of this domain, in log odds;
    same shape."""
    domain_ease: Floats
    """How easy each domain is, in log odds, shape (C,)."""

    def __call__(self, features: Floats32) -> QueryFactors:
        """Factors of n queries, shape (n, width)."""
        domains = self.domain.shape[1]
        raw = in_blocks(features, np.concatenate([self.domain, self.ease], axis=1))
        share = softmax(raw[:, :domains])
        ease = (share * raw[:, domains:]).sum(axis=1)
        return QueryFactors(share, ease, factor_values(share, ease, self.domain_ease))


def factor_values(share: Floats, ease: Floats, domain_ease: Floats) -> Floats:
    """What heads are fitted on, shape (n, 2 C + 2).

    Args:
        share: of each domain, shape (n, C).
        ease: of each query within its domain, shape (n,).
        domain_ease: shape (C,).
    """
    common = np.column_stack([(share * domain_ease).sum(axis=1), ease])
    return np.column_stack([SHARED * common, share, share * ease[:, None]])


def softmax(log_odds: Floats) -> Floats:
    """Rows that sum to 1."""
    odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
