"""Factors of a query → log odds of a full grade and output tokens per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.blocks import in_blocks
from moa.router.factors import QueryFactors
from moa.router.features import Floats32

Floats = NDArray[np.float64]


class Expected(NamedTuple):
    """Of n queries and m models, before calibration."""

    log_odds: Floats
    """Of a full grade, shape (n, m)."""
    tokens: Floats
    """Output tokens, mean, shape (n, m)."""
    most_tokens: Floats
    """Output tokens that nine in ten answers stay below, shape (n, m)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """One column per model; C domains."""

    grade: Floats
    """Factors → log odds, shape (2 C + 3, m); the last row is the intercept."""
    log_tokens: Floats
    """Features → log(1 + output tokens), were the query of this domain, shape (width + 1, C, m)."""
    token_factor: Floats
    """Mean tokens over the exponential of the mean logarithm, shape (C, m)."""
    token_spread: Floats
    """What nine in ten answers stay below, over the mean, shape (C, m)."""
    token_limit: Floats
    """The longest output in training; no estimate goes beyond it; shape (m,)."""

    def of(self, models: Sequence[int]) -> Heads:
        """Fewer models, by number; laid out alike, since the order of a sum goes by the layout."""
        columns = list(models)
        return Heads(
            *(
                np.ascontiguousarray(values[..., columns])
                for values in (
                    self.grade,
                    self.log_tokens,
                    self.token_factor,
                    self.token_spread,
                    self.token_limit,
                )
            )
        )

    def __call__(self, features: Floats32, factors: QueryFactors) -> Expected:
        """Of the queries that both are of."""
        width, domains, models = self.log_tokens.shape
        # Sums of whole arrays: in those of `einsum` and `@` a row depends on how many there are.
        log_odds = (factors.values[:, :, None] * self.grade[:-1]).sum(axis=1) + self.grade[-1]
        raw = in_blocks(features, self.log_tokens.reshape(width, domains * models))
        each = np.expm1(np.clip(raw, 0, 20)).reshape(-1, domains, models) * self.token_factor
        each *= factors.share[:, :, None]
        tokens, most = each.sum(axis=1), (each * self.token_spread).sum(axis=1)
        return Expected(
            log_odds,
            np.clip(tokens, 1, self.token_limit),
            np.clip(most, 1, self.token_limit),
        )
