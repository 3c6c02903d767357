"""An artifact's tensors at work: embedding and surface → what to expect of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.calibration import Curve
from moa.router.factors import Factors, QueryFactors
from moa.router.features import Features, Floats32
from moa.router.heads import Heads
from moa.router.novelty import Novelty
from moa.router.surface import Surface

Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]


class Prediction(NamedTuple):
    """Of n queries and the m models that were asked about, in their order."""

    grade: Floats
    """Expected, calibrated, in [0, 1], shape (n, m)."""
    output_tokens: Floats
    """Expected, shape (n, m)."""
    most_output_tokens: Floats
    """That nine in ten answers stay below, shape (n, m)."""
    novelty: NDArray[np.float32]
    """In [0, 1], shape (n,)."""


class Predictor:
    """Everything of a router but its backbone."""

    def __init__(self, tensors: Tensors) -> None:
        self._features = Features(
            tensors["features.mean"], tensors["features.scale"], tensors["features.weight"]
        )
        self._factors = Factors(
            domain=tensors["factors.domain"].astype(np.float64),
            ease=tensors["factors.ease"].astype(np.float64),
            domain_ease=tensors["factors.domain_ease"],
        )
        self._heads = Heads(
            grade=tensors["heads.grade"],
            log_tokens=tensors["heads.log_tokens"].astype(np.float64),
            token_factor=tensors["heads.token_factor"],
            token_spread=tensors["heads.token_spread"],
            token_limit=tensors["heads.token_limit"],
        )
        self._curves = [
            Curve(tensors[f"calibration.{n}.log_odds"], tensors[f"calibration.{n}.grade"])
            for n in range(self._heads.grade.shape[1])
        ]
        self._novelty = Novelty(
            centres=tensors["novelty.centres"].astype(np.float64),
            similarity=tensors["novelty.similarity"],
            directions=tensors["novelty.directions"].astype(np.float64),
            whitening=tensors["novelty.whitening"].astype(np.float64),
            distance=tensors["novelty.distance"],
        )

    def factors(self, embeddings: Embeddings, surface: Surface) -> tuple[Floats32, QueryFactors]:
        """Features and factors of n queries: what heads are fitted on."""
        features = self._features(embeddings, surface)
        return features, self._factors(features)

    def __call__(
        self, embeddings: Embeddings, surface: Surface, models: Sequence[int]
    ) -> Prediction:
        """Predict.

        Args:
            embeddings: by the backbone, shape (n, d).
            surface: shape (n, s), as `moa.router.surface` counts.
            models: numbers of the models asked about.
        """
        return self.with_domain(embeddings, surface, models)[0]

    def with_domain(
        self, embeddings: Embeddings, surface: Surface, models: Sequence[int]
    ) -> tuple[Prediction, NDArray[np.intp]]:
        """As above, with the number of each query's likeliest domain, shape (n,)."""
        features, factors = self.factors(embeddings, surface)
        expected = self._heads.of(models)(features, factors)
        grade = np.empty_like(expected.log_odds)
        for place, model in enumerate(models):
            grade[:, place] = self._curves[model](expected.log_odds[:, place])
        predicted = Prediction(
            grade=grade,
            output_tokens=expected.tokens,
            most_output_tokens=expected.most_tokens,
            novelty=self._novelty(embeddings, features),
        )
        return predicted, factors.share.argmax(axis=1)
