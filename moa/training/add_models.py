"""A router and graded outcomes of models it does not know → a router that knows them too.

Backbone, factors and the heads of the models that it knows stay bit for bit as they are: a new
model is a column of factors' weights, and 200 grades are enough for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import Field, field_validator

from moa.config import EngineConfig, ModelSource
from moa.errors import ConfigError
from moa.router.artifact import CARDS, Artifact, open_backbone, read_artifact, write_artifact
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.calibration import calibrate
from moa.router.factors import factor_values
from moa.router.facts import grades_of, installed, steps_of
from moa.router.model_files import bring_along
from moa.router.pleas import heard
from moa.router.predictor import Predictor
from moa.router.surface import plain, surface
from moa.storage.object_store import Folder
from moa.toml_file import Section, each_once, local
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import LEAST_CELL, Reading, fit_grade_heads, grade_weights, token_scale
from moa.training.train import MOST_WEIGHT, MostWeight, text_hashes

Floats = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]

LEAST_GRADES = 200
LEVEL_PRIOR = 10.0
"""Answers that a domain's level of output tokens is pulled to the model's own by."""

log = structlog.get_logger()


class AddModelsConfig(Section):
    """All that `jobs/add_models.py` is told."""

    router: str = Field(description="Folder of the router that is there: a path or s3://…")
    recordings: str = Field(description="Folder with graded outcomes of the new models")
    models: list[str] = Field(min_length=1, description="Catalog ids of the new models")
    artifact: str = Field(description="Folder that the larger router is written to; another one")
    folds: int = Field(default=5, ge=2, le=20, description="Of the calibration; 2 to 20")
    most_weight: MostWeight = MOST_WEIGHT
    model: ModelSource = ModelSource()
    engine: EngineConfig = EngineConfig()

    _local = field_validator("artifact")(local)

    _each_once = field_validator("models")(each_once)


class Added(NamedTuple):
    """A larger router."""

    version: str
    graded: dict[str, int]
    """New model → queries that its head was fitted on."""


def add_models(config: AddModelsConfig) -> Added:
    """Fit heads of new models and write a router with them.

    Raises:
        ConfigError: a model is known already or has too few grades, or the folder is the router's.
        ArtifactError: the router cannot be read.
    """
    artifact = read_artifact(installed(config.router))
    description = artifact.description
    _check(config, artifact)
    data = read_dataset(
        config.recordings, config.models, split="train", most_weight=config.most_weight
    )
    graded = {m: int((~np.isnan(data.grade[:, n])).sum()) for n, m in enumerate(data.models)}
    for model, count in graded.items():
        if count < LEAST_GRADES:
            raise ConfigError(
                f"{config.recordings}: {model} has {count} grades on training queries, and a head "
                f"needs {LEAST_GRADES}: add graded outcomes of it"
            )
    for model, tokens in zip(data.models, np.isfinite(data.output_tokens).sum(axis=0), strict=True):
        if tokens < LEAST_CELL:
            raise ConfigError(
                f"{config.recordings}: {model} has output_tokens on {tokens} training queries, and "
                f"what an answer costs is learnt from {LEAST_CELL}: add them"
            )
    backbone = open_backbone(artifact, config.model, config.engine)
    texts = heard(data.texts)
    reading = Reading(backbone.embed(texts), surface([plain(text) for text in texts]))
    log.info("training.read", queries=len(texts))
    tensors, kinds = _larger(artifact, data, reading, config.folds)
    training = description.training
    facts = training.model_copy(
        update={
            "outcomes": {**training.outcomes, **graded},
            "mean_grade": {
                **training.mean_grade,
                **{m: round(float(np.nanmean(data.grade[:, n])), 4) for n, m in enumerate(graded)},
            },
            "calibration": {**training.calibration, **dict(zip(graded, kinds, strict=True))},
        }
    )
    larger = description.model_copy(
        update={"models": [*description.models, *graded], "training": facts}
    )
    if isinstance(description.backbone, LanguageModelSpec):
        bring_along(
            description.backbone, config.model, artifact=artifact.url, target=Path(config.artifact)
        )
    version = write_artifact(
        Path(config.artifact),
        larger.model_dump(mode="json", exclude={"format", "sha256"}),
        tensors,
        _cards(artifact, config, graded),
    )
    return Added(version, graded)


def _check(config: AddModelsConfig, artifact: Artifact) -> None:
    known = sorted(set(config.models) & set(artifact.description.models))
    if known:
        raise ConfigError(
            f"models: the router {artifact.version} knows {', '.join(known)} already; to learn a "
            "model anew, train the router anew (jobs/train_router.py)"
        )
    if Path(config.artifact).resolve() == Path(installed(config.router)).resolve():
        raise ConfigError(
            f"artifact is {config.artifact}, the folder of the router itself: name another, so "
            "that runs that use the old one can go on"
        )


def _larger(
    artifact: Artifact, data: Dataset, reading: Reading, folds: int
) -> tuple[Tensors, list[str]]:
    """The tensors with the new columns, and the kinds of their curves."""
    old: Tensors = dict(artifact.tensors)
    features, factors = Predictor(artifact.tensors).factors(*reading)
    ease = _ease_unseen(artifact, data, factors.ease)
    values = factor_values(factors.share, ease, old["factors.domain_ease"])
    weight = grade_weights(data)
    heads = fit_grade_heads(values, data.grade, weight)
    log_odds = values @ heads[:-1] + heads[-1]
    first, kinds = len(artifact.description.models), []
    tensors = dict(old)
    for column in range(data.grade.shape[1]):
        known = ~np.isnan(data.grade[:, column])
        kind, curve = calibrate(
            log_odds[known, column],
            data.grade[known, column],
            weight[known, column],
            data.folds(folds)[known],
        )
        kinds.append(kind)
        tensors[f"calibration.{first + column}.log_odds"] = np.round(curve.log_odds, 6)
        tensors[f"calibration.{first + column}.grade"] = np.round(curve.grade, 6)
    tensors["heads.grade"] = np.hstack([old["heads.grade"], np.round(heads, 6)])
    _add_tokens(tensors, data, features.astype(np.float64), factors.share)
    _add_grades(tensors, data, first, ease)
    return tensors, kinds


def _ease_unseen(artifact: Artifact, data: Dataset, ease: Floats) -> Floats:
    """Ease of each query as maps saw it that had not been fitted on it: of a training query that is
    kept in the artifact; on its own training queries a map looks better than it is."""
    row_of = {int(one): n for n, one in enumerate(artifact.tensors["training.text_hash"])}
    kept = artifact.tensors["training.ease"]
    rows = [row_of.get(int(one)) for one in text_hashes(data.texts)]
    return np.array(
        [ease[n] if row is None else float(kept[row]) for n, row in enumerate(rows)], np.float64
    )


def _add_tokens(tensors: Tensors, data: Dataset, features: Floats, share: Floats) -> None:
    """Slopes are the mean of the known models'; a level for each domain is the new model's own."""
    old = tensors["heads.log_tokens"].astype(np.float64)
    slope = old[:-1].mean(axis=2)
    domains, added = slope.shape[1], data.grade.shape[1]
    domain = share.argmax(axis=1)
    usual = old[-1].mean(axis=1)
    base = (features @ slope + usual)[np.arange(len(domain)), domain]
    table = np.zeros((len(old), domains, added))
    factor, spread = np.ones((domains, added)), np.ones((domains, added))
    for column in range(added):
        known = ~np.isnan(data.output_tokens[:, column])
        off = np.log1p(data.output_tokens[known, column]) - base[known]
        sums = np.bincount(domain[known], weights=off - off.mean(), minlength=domains)
        counts = np.bincount(domain[known], minlength=domains)
        shift = off.mean() + sums / (counts + LEVEL_PRIOR)
        table[:-1, :, column], table[-1, :, column] = slope, usual + shift
        estimated = np.full(len(domain), np.nan)
        estimated[known] = base[known] + shift[domain[known]]
        factor[:, column], spread[:, column] = token_scale(
            data.output_tokens[:, column], estimated, domain, domains
        )
    longest = np.nanmax(data.output_tokens, axis=0)
    tensors["heads.log_tokens"] = np.concatenate(
        [tensors["heads.log_tokens"], table.astype(np.float16)], axis=2
    )
    tensors["heads.token_factor"] = np.hstack([tensors["heads.token_factor"], np.round(factor, 6)])
    tensors["heads.token_spread"] = np.hstack([tensors["heads.token_spread"], np.round(spread, 6)])
    tensors["heads.token_limit"] = np.append(tensors["heads.token_limit"], longest)


def _add_grades(tensors: Tensors, data: Dataset, first: int, ease: Floats) -> None:
    """Training queries that are known get their new grades; others are rows of their own, with
    which the new models are compared among themselves. Their ease is kept as well: the next model
    may be graded on them."""
    hashes, grades = tensors["training.text_hash"], grades_of(tensors["training.grades"])
    row_of = {int(one): n for n, one in enumerate(hashes)}
    mine = text_hashes(data.texts)
    new = np.array([int(one) not in row_of for one in mine], bool)
    wide = np.full((len(hashes) + int(new.sum()), first + data.grade.shape[1]), np.nan)
    wide[: len(hashes), :first] = grades
    places = np.empty(len(mine), np.intp)
    places[~new] = [row_of[int(one)] for one in mine[~new]]
    places[new] = len(hashes) + np.arange(int(new.sum()))
    rows, columns = np.nonzero(~np.isnan(data.grade))  # a text may be there twice
    wide[places[rows], first + columns] = data.grade[rows, columns]
    tensors["training.grades"] = steps_of(wide)
    tensors["training.text_hash"] = np.concatenate([hashes, mine[new]])
    tensors["training.ease"] = np.concatenate(
        [tensors["training.ease"], ease[new].astype(np.float16)]
    )


def _cards(artifact: Artifact, config: AddModelsConfig, graded: dict[str, int]) -> list[str]:
    """Those of the router that was there, and what was added."""
    told = ", ".join(f"{model} ({count:,} graded queries)" for model, count in graded.items())
    added = f"\nAdded to {artifact.version} from `{config.recordings}`: {told}.\n"
    folder = Folder(artifact.url)
    return [(folder.read(name) or b"").decode() + added for name in CARDS]
