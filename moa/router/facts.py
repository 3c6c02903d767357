"""What a job has to know of a router before anything is started: a language model stays asleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.router.artifact import Artifact, TrainingFacts, check_backbone, read_artifact
from moa.router.best_constant import BestConstant, best_constant
from moa.router.promotions import promoted

GRADE_STEPS = 250
"""Training grades are kept in steps of 1/250; `NO_GRADE` stands for a missing one."""
NO_GRADE = 255
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """Of a trained router."""

    version: str
    """12 hex digits."""
    models: tuple[str, ...]
    """Catalog ids that it was trained on."""
    training: TrainingFacts
    grades: NDArray[np.uint8]
    """Of the training queries, as `steps_of` makes them, shape (n, m)."""

    @classmethod
    def of(cls, artifact: Artifact) -> RouterFacts:
        """Of a router as it is stored."""
        description = artifact.description
        return cls(
            artifact.version,
            tuple(description.models),
            description.training,
            artifact.tensors["training.grades"],
        )

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
                "on graded outcomes of them (jobs/train_router.py; from 200 grades a model, "
                "jobs/add_models.py)"
            )

    def best_constant(self, pool: Sequence[str]) -> BestConstant:
        """The model of a pool that did best on the training queries."""
        steps = self.grades[:, [self.models.index(model) for model in pool]]
        return best_constant(grades_of(steps), pool, self.training.estimated_grade)


def read_facts(url: str, *, version: str | None = None) -> RouterFacts:
    """Read a router's facts and check that this version can run it.

    Args:
        url: as for `Router.load`.
        version: that a run has begun with, see `router_folder`.

    Raises:
        ArtifactError: it is missing, damaged, of another format, or on a backbone that this version
            has not.
    """
    artifact = read_artifact(router_folder(url, version=version))
    check_backbone(artifact)
    return RouterFacts.of(artifact)


def router_folder(url: str, *, version: str | None = None) -> str:
    """The folder of the artifact that a config's `router.artifact` means at this moment.

    Args:
        url: of an artifact, here or in the installation, or of promotions.
        version: of the router that a run has begun with: of promotions, it is the one that counts
            for this run, whatever was promoted since.

    Raises:
        ArtifactError: what was promoted is not there.
    """
    return promoted(installed(url), version=version)


def installed(url: str) -> str:
    """A relative path that is not here is looked for in the installation, where the embedded router
    is."""
    if "://" not in url and not Path(url).exists() and (_PACKAGE / url).exists():
        return str(_PACKAGE / url)
    return url


def steps_of(grade: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Grades in [0, 1], NaN where missing, as an artifact keeps them."""
    steps = np.round(np.nan_to_num(grade) * GRADE_STEPS)
    return np.where(np.isnan(grade), NO_GRADE, steps).astype(np.uint8)


def grades_of(steps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `steps_of` was made from, to half a step."""
    return np.where(steps == NO_GRADE, np.nan, steps.astype(np.float64) / GRADE_STEPS)
