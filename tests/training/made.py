"""A small training set whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.training.dataset import Dataset
from moa.training.fit import Reading

Floats = NDArray[np.float64]
SOURCES = ("code", "maths", "talk")
DOMAIN_EASE = np.array([-1.0, 0.0, 1.0])
STRENGTH = np.array([1.0, 0.0, -0.5])
TOKENS = np.array([400.0, 150.0, 40.0])
"""Of an answer in each domain, geometric mean."""
MODELS = ("v/strong", "v/middle", "v/weak")
ABSENT = 2
"""`v/weak` was never asked to talk."""


@dataclass(frozen=True, slots=True)
class Made:
    """n queries; ease is read from the first column of the embedding, the other way round in code,
    and the length of an answer from the second."""

    data: Dataset
    reading: Reading
    domain: NDArray[np.intp]
    ease: Floats
    """Within the domain, in log odds."""
    likely: Floats
    """Probability of a full grade, shape (n, m)."""


def made(seed: int = 1, *, queries: int = 900, others: int = 20, missing: float = 0.2) -> Made:
    """Queries of three sources, graded by three models and some others."""
    random = np.random.default_rng(seed)
    domain = random.integers(0, 3, queries)
    raw = random.normal(size=(queries, 24))
    ease = 1.5 * raw[:, 0] * np.array([-1, 1, 1])[domain]
    odds = (DOMAIN_EASE[domain] + ease)[:, None]
    likely = 1 / (1 + np.exp(-(odds + STRENGTH)))
    grade = (random.random(likely.shape) < likely).astype(np.float64)
    tokens = TOKENS[domain][:, None] * np.exp(0.5 * raw[:, 1] + random.normal(0, 0.2, queries))[
        :, None
    ].repeat(3, axis=1)
    gone = random.random(grade.shape) < missing
    gone[domain == ABSENT, 2] = True
    gone[gone.all(axis=1), 0] = False
    other_odds = odds + np.linspace(-1, 1, others)
    other = (random.random((queries, others)) < 1 / (1 + np.exp(-other_odds))).astype(np.float64)
    raw[:, 10:13] += 6 * np.eye(3)[domain]
    embeddings = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    data = Dataset(
        query_ids=tuple(f"q{n:05d}" for n in range(queries)),
        texts=tuple(f"{SOURCES[of]} number {n}?" for n, of in enumerate(domain.tolist())),
        models=MODELS,
        grade=np.where(gone, np.nan, grade),
        input_tokens=np.where(gone, np.nan, 10.0),
        output_tokens=np.where(gone, np.nan, np.ceil(tokens)),
        sources=tuple(SOURCES[of] for of in domain.tolist()),
        groups=tuple(f"g{n}" for n in range(queries)),
        other_grade=other,
    )
    surface = random.random((queries, 4)).astype(np.float32)
    return Made(data, Reading(embeddings, surface), domain, ease, likely)
