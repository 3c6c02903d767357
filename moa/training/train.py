"""Graded outcomes → a router artifact: read, fitted, cross-validated, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import structlog
import xxhash
from numpy.typing import NDArray
from pydantic import Field, field_validator

from moa.config import PolicyConfig
from moa.errors import ConfigError
from moa.router.artifact import write_artifact
from moa.router.best_constant import all_comparable
from moa.router.facts import steps_of
from moa.router.predictor import Prediction, Predictor
from moa.router.router import Scores, prompt_features, scores_of
from moa.toml_file import Section, each_once, local
from moa.training.backbone import BackboneConfig, HashingConfig, OpenedBackbone, open_for_training
from moa.training.cards import data_card, figures, model_card, values
from moa.training.data_look import data_look
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import Fitted, Reading, estimated_grades, fit

Floats = NDArray[np.float64]

LEAST_GRADES = 30
"""Of a model: four right answers make it look right always."""
SEEN = (
    "the backbone was fine-tuned, and perhaps on these very queries: then calibration and "
    "cross-validated figures flatter the router, and what it is worth has to be measured on "
    "queries that neither saw (jobs/evaluate_router.py)"
)

MOST_WEIGHT = 10.0
MostWeight = Annotated[
    float,
    Field(
        ge=1,
        description="Bound of a grade's weight, which is one over the probability with which its "
        "model was chosen (`propensity`, where the grades say it); 1: each counts once",
    ),
]

log = structlog.get_logger()


class TrainRouterConfig(Section):
    """All that `jobs/train_router.py` is told."""

    recordings: str = Field(
        description="Folder with queries.parquet (query_id, prompt; if there: source, split, "
        "duplicate_group) and graded_outcomes.parquet (GRADED_OUTCOMES), or an outcome table: a "
        "path, s3://… or gs://…"
    )
    models: list[str] = Field(min_length=1, description="Catalog ids that the router shall know")
    artifact: str = Field(description="Folder that the artifact is written to")
    catalog: str = Field(description="Prices the report's comparison; the router knows no price")
    folds: int = Field(default=5, ge=3, le=20, description="Of the cross-validation; 3 to 20")
    most_weight: MostWeight = MOST_WEIGHT
    policy: PolicyConfig | None = Field(
        default=None, description="Of the summary that the job prints; without it there is none"
    )
    backbone: BackboneConfig = Field(default=HashingConfig(), discriminator="kind")

    _local = field_validator("artifact")(local)

    _each_once = field_validator("models")(each_once)


class Trained(NamedTuple):
    """A router that has been written, and what it expects of queries it was not fitted on."""

    version: str
    data: Dataset
    held_out: Scores
    """Of every training query, by a router that was fitted on other folds."""
    look: list[str]
    """At the training data, a fact a line."""


def train_router(config: TrainRouterConfig) -> Trained:
    """Train on the `train` split and write the artifact. Equal data gives equal bytes.

    Raises:
        ConfigError: the recordings are not there, leave a model without enough to be fitted on, or
            something that training needs is not installed.
        ArtifactError: as `open_for_training`.
    """
    data = read_dataset(
        config.recordings, config.models, split="train", most_weight=config.most_weight
    )
    check_enough(data, config.folds, where=config.recordings)
    opened = open_for_training(config.backbone, artifact=Path(config.artifact))
    reading = opened.read(data.texts)
    if opened.fine_tuned:
        log.warning("training.figures_flatter", why=SEEN)
    log.info("training.read", queries=len(data.texts), width=reading.embeddings.shape[1])
    fitted = fit(data, reading, folds=config.folds)
    log.info("training.fitted", domains=fitted.domains, calibration=fitted.calibration)
    tokens_per_feature = fit_prompt_tokens(data)
    predicted = held_out(data, reading, config.folds)
    look = data_look(data, config.recordings)
    version = _write(config, data, opened, fitted, predicted, tokens_per_feature, look)
    return Trained(version, data, scores_of(predicted, data.texts, tokens_per_feature), look)


def held_out(data: Dataset, reading: Reading, folds: int) -> Prediction:
    """What routers that were fitted on the other folds expect of each query.

    Not only heads: features, factors, calibration and novelty are fitted anew each time.
    """
    fold = data.folds(folds)
    shape = data.grade.shape
    merged = Prediction(
        np.empty(shape), np.empty(shape), np.empty(shape), np.empty(len(fold), np.float32)
    )
    for number in range(folds):
        mine = fold == number
        if not mine.any():
            continue
        rest = fit(data.only(~mine), reading.only(~mine), folds=folds)
        predicted = Predictor(rest.tensors)(*reading.only(mine), range(shape[1]))
        merged.grade[mine], merged.novelty[mine] = predicted.grade, predicted.novelty
        merged.output_tokens[mine] = predicted.output_tokens
        merged.most_output_tokens[mine] = predicted.most_output_tokens
        log.info("training.validated", fold=number + 1, of=folds)
    return merged


def check_enough(data: Dataset, folds: int, *, where: str) -> None:
    """Whether every model can be fitted, for each fold on what the other folds have of it.

    Raises:
        ConfigError: naming a model that has too little.
    """
    fold = data.folds(folds)
    for name, table in (("grade", data.grade), ("output_tokens", data.output_tokens)):
        for column, model in enumerate(data.models):
            known = np.isfinite(table[:, column])
            if known.sum() < LEAST_GRADES or len(np.unique(fold[known])) < 2:
                raise ConfigError(
                    f"{where}: {model} has {name} on {known.sum()} training queries, too few to "
                    f"learn from and to check by ({LEAST_GRADES} are needed): add graded outcomes "
                    "of it, or leave it out of models"
                )
    if not np.isfinite(data.input_tokens).any():
        raise ConfigError(f"{where}: no graded outcome has input_tokens")


def fit_prompt_tokens(data: Dataset) -> Floats:
    """Least squares of recorded prompt tokens on what can be counted in a prompt, shape (5,)."""
    with np.errstate(invalid="ignore"):
        known = np.flatnonzero((~np.isnan(data.input_tokens)).any(axis=1))
    measured = np.nanmean(data.input_tokens[known], axis=1)
    features = prompt_features([data.texts[n] for n in known])
    solution, *_ = np.linalg.lstsq(features, measured, rcond=None)
    return np.round(solution, 6)


def text_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """By which a router knows its training queries again."""
    return np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)


def _write(
    config: TrainRouterConfig,
    data: Dataset,
    opened: OpenedBackbone,
    fitted: Fitted,
    predicted: Prediction,
    tokens_per_feature: Floats,
    look: list[str],
) -> str:
    known = ~np.isnan(data.grade)
    told = figures(data, predicted.grade)
    facts = {
        "source": config.recordings,
        "queries": len(data.query_ids),
        "outcomes": {m: int(known[:, n].sum()) for n, m in enumerate(data.models)},
        "mean_grade": {
            m: round(float(np.nanmean(data.grade[:, n])), 4) for n, m in enumerate(data.models)
        },
        "domain_queries": fitted.domain_queries,
        "other_models": data.other_grade.shape[1],
        "cross_validation": {model: values(one) for model, one in told.items()},
        "calibration": dict(zip(data.models, fitted.calibration, strict=True)),
    }
    if not all_comparable(data.grade):
        facts["estimated_grade"] = estimated_grades(data, predicted.grade)
    description = {
        "backbone": opened.spec,
        "domains": fitted.domains,
        "models": list(data.models),
        "tokens_per_feature": tokens_per_feature.tolist(),
        "training": facts,
    }
    tensors: dict[str, NDArray[Any]] = {
        **fitted.tensors,
        "training.grades": steps_of(data.grade),
        "training.text_hash": text_hashes(data.texts),
    }
    cards = (
        model_card(
            opened.spec,
            data,
            fitted,
            told,
            folds=config.folds,
            note=SEEN if opened.fine_tuned else None,
        ),
        data_card(data, config.recordings, look if data.weight is not None else ()),
    )
    return write_artifact(Path(config.artifact), description, tensors, cards)
