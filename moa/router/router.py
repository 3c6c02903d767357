"""The router: text → what to expect of each model. Reads text only; knows no price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.router.artifact import Artifact, check_tensors, open_backbone, read_artifact
from moa.router.backbone import Embeddings
from moa.router.calibration import Curve
from moa.router.heads import Heads
from moa.router.novelty import Novelty

GRADE_STEPS = 250
"""Training grades are kept in steps of 1/250; `NO_GRADE` stands for a missing one."""
NO_GRADE = 255
_PACKAGE = Path(__file__).parents[2]

Floats32 = NDArray[np.float32]


class Scores(NamedTuple):
    """What to expect of n queries and the m models of a pool, in its order."""

    expected_grade: Floats32
    """In [0, 1], shape (n, m)."""
    expected_input_tokens: Floats32
    """Shape (n, m)."""
    expected_output_tokens: Floats32
    """Shape (n, m)."""
    novelty: Floats32
    """In [0, 1]; 1 is unlike all training queries. Shape (n,)."""


class BestConstant(NamedTuple):
    """The one model that, used for every query, does best."""

    model: str
    """Catalog id."""
    why: str
    """Where that comes from, as a phrase."""


class Router:
    """A trained router. Equal texts get equal scores, whatever is scored beside them.

    Raises:
        ArtifactError: the artifact's backbone is not known, or its tensors do not fit.
    """

    def __init__(self, artifact: Artifact) -> None:
        description, tensors = artifact.description, artifact.tensors
        self.version = artifact.version
        self.models = tuple(description.models)
        self.training = description.training
        self._backbone = open_backbone(description.backbone)
        check_tensors(artifact, width=self._backbone.width)
        self._tokens_per_feature = np.array(description.tokens_per_feature)
        self._heads = _heads(tensors)
        self._curves = [
            Curve(tensors[f"calibration.{n}.log_odds"], tensors[f"calibration.{n}.grade"])
            for n in range(len(self.models))
        ]
        self._novelty = Novelty(
            tensors["novelty.centres"].astype(np.float64), tensors["novelty.similarity"]
        )
        self._grades = tensors["training.grades"]

    @classmethod
    def load(cls, url: str) -> Router:
        """Read a router from its folder; a relative one that is not here is looked for in the
        installation, where the embedded router is.

        Raises:
            ArtifactError: as `read_artifact`.
        """
        if "://" not in url and not Path(url).exists() and (_PACKAGE / url).exists():
            url = str(_PACKAGE / url)
        return cls(read_artifact(url))

    def check_pool(self, pool: Sequence[str]) -> None:
        """Check that it was trained on all models of a pool.

        Raises:
            ConfigError: naming those that it was not.
        """
        unknown = [model for model in pool if model not in self.models]
        if unknown:
            raise ConfigError(
                f"pool: the router {self.version} was not trained on {', '.join(unknown)}; it "
                f"knows {', '.join(self.models)}. Take them out of the pool, or train a router "
                "on graded outcomes of them (jobs/train_router.py)"
            )

    def score(self, texts: Sequence[str], pool: Sequence[str]) -> Scores:
        """Score queries for a pool that `check_pool` has let through.

        Args:
            texts: conversations, as `ChatRequest.text` gives them.
            pool: catalog ids.
        """
        columns = [self.models.index(model) for model in pool]
        embeddings = self._backbone.embed(texts)
        log_odds, tokens = self._heads(embeddings)
        shape = (len(texts), len(pool))
        grade = np.empty(shape, np.float32)
        for place, column in enumerate(columns):
            grade[:, place] = self._curves[column](log_odds[:, column])
        input_tokens = prompt_features(texts) @ self._tokens_per_feature
        return Scores(
            expected_grade=grade,
            expected_input_tokens=np.broadcast_to(
                np.maximum(1, input_tokens).astype(np.float32)[:, None], shape
            ),
            expected_output_tokens=tokens[:, columns].astype(np.float32),
            novelty=self._novelty(embeddings) if len(texts) else np.empty(0, np.float32),
        )

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """What the backbone makes of texts."""
        return self._backbone.embed(texts)

    def best_constant(self, pool: Sequence[str]) -> BestConstant:
        """The model of a pool that did best on the training queries.

        Not every model has answered every query, and one that was asked easy ones only would look
        too good. So each is compared with the one that answered most, on what both have answered.
        Ties go to the smaller id.
        """
        grades = self._grades[:, [self.models.index(model) for model in pool]]
        known = grades != NO_GRADE
        reference = min(range(len(pool)), key=lambda n: (-known[:, n].sum(), pool[n]))
        lead = [
            float((grades[both, n].astype(float) - grades[both, reference]).mean())
            if (both := known[:, n] & known[:, reference]).any()
            else -np.inf
            for n in range(len(pool))
        ]
        best = min(range(len(pool)), key=lambda n: (-lead[n], pool[n]))
        common = {pool[n]: int((known[:, n] & known[:, best]).sum()) for n in range(len(pool))}
        if len(pool) == 1:
            why = f"the only model; graded on {common[pool[best]]:,} training queries"
        elif best != reference:
            why = (
                f"its mean grade is {lead[best]:.3f} above that of {pool[reference]} on "
                f"{common[pool[reference]]:,} training queries that both have answered, more than "
                "any other model's"
            )
        else:
            rivals = [model for model in sorted(pool) if model != pool[best]]
            each = ", ".join(f"{model} on {common[model]:,}" for model in rivals)
            why = (
                "no other model has a higher mean grade than it on the training queries that both "
                f"have answered: {each}"
            )
        return BestConstant(pool[best], why)


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


def _heads(tensors: Mapping[str, NDArray[Any]]) -> Heads:
    return Heads(
        grade=tensors["heads.grade"].astype(np.float64),
        log_tokens=tensors["heads.log_tokens"].astype(np.float64),
        token_factor=tensors["heads.token_factor"],
        most_tokens=tensors["heads.most_tokens"],
    )
