"""Embedding → raw grade and output tokens per model, by linear heads.

Rows are multiplied in blocks of one shape, so that a query's numbers do not depend on what is
scored beside it: a matrix product's last bits depend on the shape of its operands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings

BLOCK_ROWS = 64

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Heads:
    """One column per model for each of the two."""

    grade: Floats
    """Shape (width + 1, models); the last row is the intercept. Gives log odds."""
    log_tokens: Floats
    """Same shape. Gives log(1 + output tokens)."""
    token_factor: Floats
    """Shape (models,): mean tokens over the exponential of the mean logarithm."""
    most_tokens: Floats
    """Shape (models,): the longest output in training; no estimate goes beyond it."""

    def __call__(self, embeddings: Embeddings) -> tuple[Floats, Floats]:
        """Log odds of a full grade, and expected output tokens; each of shape (n, models)."""
        both = np.concatenate([self.grade, self.log_tokens], axis=1)
        raw = in_blocks(embeddings, both)
        models = self.grade.shape[1]
        tokens = tokens_of(raw[:, models:], self.token_factor, self.most_tokens)
        return raw[:, :models], tokens


def tokens_of(log_tokens: Floats, factor: Floats, most: Floats) -> Floats:
    """Estimated logarithms → expected output tokens, from 1 to `most`; shape (n, models)."""
    tokens = np.expm1(np.clip(log_tokens, 0, 20)) * factor
    return np.asarray(np.clip(tokens, 1, most), np.float64)


def in_blocks(embeddings: Embeddings, weights: Floats) -> Floats:
    """`embeddings @ weights[:-1] + weights[-1]`, shape (n, columns)."""
    out = np.empty((len(embeddings), weights.shape[1]))
    block = np.zeros((BLOCK_ROWS, embeddings.shape[1]))
    for start in range(0, len(embeddings), BLOCK_ROWS):
        rows = embeddings[start : start + BLOCK_ROWS]
        block[: len(rows)] = rows
        out[start : start + len(rows)] = (block @ weights[:-1])[: len(rows)]
    out += weights[-1]
    return out
