"""The router: text → what to expect of each model. Reads text only, without its pleas; knows no
price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.config import EngineConfig, ModelSource
from moa.router.artifact import Artifact, check_tensors, open_backbone, read_artifact
from moa.router.backbone import Backbone
from moa.router.facts import RouterFacts, router_folder
from moa.router.pleas import heard
from moa.router.predictor import Prediction, Predictor
from moa.router.surface import plain, surface

Floats32 = NDArray[np.float32]


class Scores(NamedTuple):
    """What to expect of n queries and the m models of a pool, in its order."""

    expected_grade: Floats32
    """In [0, 1], shape (n, m)."""
    expected_input_tokens: Floats32
    """Shape (n, m)."""
    expected_output_tokens: Floats32
    """Shape (n, m)."""
    most_output_tokens: Floats32
    """That nine in ten answers stay below, shape (n, m)."""
    novelty: Floats32
    """In [0, 1]; 1 is unlike all training queries. Shape (n,)."""


class Router:
    """A trained router with its backbone running. On the hashing backbone equal texts get equal
    scores, whatever is scored beside them; on a language model they agree within the rounding of
    its numbers.

    Raises:
        ArtifactError: the artifact's tensors do not fit the backbone.
    """

    def __init__(self, artifact: Artifact, backbone: Backbone) -> None:
        check_tensors(artifact, width=backbone.width)
        self.facts = RouterFacts.of(artifact)
        self._backbone = backbone
        self._tokens_per_feature = np.array(artifact.description.tokens_per_feature)
        self._domains = np.array(artifact.description.domains, dtype=object)
        self._predict = Predictor(artifact.tensors)

    @classmethod
    def load(
        cls, url: str, source: ModelSource | None = None, engine: EngineConfig | None = None
    ) -> Router:
        """Read a router from its folder, and start its backbone.

        Args:
            url: a path, `s3://…` or `gs://…`; a relative path that is not here is looked for in the
                installation, where the embedded router is. Of a folder of promotions, the router
                that counts now.
            source: where a language model is looked for.
            engine: how a language model is run.

        Raises:
            ArtifactError: as `read_artifact` and `open_backbone`.
            ConfigError: as `open_backbone`.
        """
        artifact = read_artifact(router_folder(url))
        backbone = open_backbone(artifact, source or ModelSource(), engine or EngineConfig())
        return cls(artifact, backbone)

    def score(self, texts: Sequence[str], pool: Sequence[str]) -> Scores:
        """Score queries for a pool that `RouterFacts.check_pool` has let through.

        Args:
            texts: conversations, as `ChatRequest.text` gives them.
            pool: catalog ids.

        Raises:
            EngineError: a language model's engine failed; its process should end.
        """
        return self.score_and_place(texts, pool)[0]

    def score_and_place(
        self, texts: Sequence[str], pool: Sequence[str]
    ) -> tuple[Scores, Sequence[str]]:
        """As `score`, with the name of each query's likeliest domain."""
        columns = [self.facts.models.index(model) for model in pool]
        if not texts:
            nothing = np.empty((0, len(pool)), np.float32)
            return Scores(nothing, nothing, nothing, nothing, np.empty(0, np.float32)), []
        read = heard(texts)
        reading = self._backbone.embed(read), surface([plain(text) for text in read])
        predicted, domain = self._predict.with_domain(*reading, columns)
        scores = scores_of(predicted, texts, self._tokens_per_feature)
        return scores, self._domains[domain].tolist()


def scores_of(
    predicted: Prediction, texts: Sequence[str], tokens_per_feature: NDArray[np.float64]
) -> Scores:
    """A prediction with what can be said of the prompts themselves.

    Args:
        predicted: of these texts.
        texts: any number.
        tokens_per_feature: of `prompt_features`.
    """
    input_tokens = np.maximum(1, prompt_features(texts) @ tokens_per_feature)
    return Scores(
        expected_grade=predicted.grade.astype(np.float32),
        expected_input_tokens=np.broadcast_to(
            input_tokens.astype(np.float32)[:, None], predicted.grade.shape
        ),
        expected_output_tokens=predicted.output_tokens.astype(np.float32),
        most_output_tokens=predicted.most_output_tokens.astype(np.float32),
        novelty=predicted.novelty,
    )


def prompt_features(texts: Sequence[str]) -> NDArray[np.float64]:
    """What the length of a prompt in tokens is estimated from, shape (n, 5).

    Characters, digits, non-ASCII characters, line breaks, and 1 for the prompt itself.
    """
    features = np.ones((len(texts), 5))
    for row, text in enumerate(texts):
        raw = np.frombuffer(text.encode(), np.uint8)
        features[row, 0] = len(text)
        features[row, 1] = np.count_nonzero((raw >= 48) & (raw <= 57))
        features[row, 2] = np.count_nonzero(raw >= 192)
        features[row, 3] = np.count_nonzero(raw == 10)
    return features
