"""Judgements whose truth is known, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moa.grading.judgements import Pair

STRENGTHS = (-1.0, -0.3, 0.1, 0.4, 0.8)
"""In log-odds; their mean is 0."""


def model(number: int) -> str:
    return f"v/m{number}"


def judged(
    queries: int, *, seed: int, strengths: Sequence[float] = STRENGTHS, times: int = 1
) -> list[Pair]:
    """A pair of each query, judged once; of which `times` copies come, by other raters."""
    rng = np.random.default_rng(seed)
    pairs = []
    for query in range(queries):
        a, b = rng.choice(len(strengths), 2, replace=False)
        wins = rng.random() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        pairs += [
            Pair(f"q{query}", model(a), model(b), float(wins), rater=f"{query}/{n}")
            for n in range(times)
        ]
    return pairs
