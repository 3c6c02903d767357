"""Graded outcomes → a router artifact: fitted, cross-validated, calibrated, written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from moa.errors import ConfigError
from moa.router.artifact import write_artifact
from moa.router.backbone import Embeddings
from moa.router.calibration import Curve, fit_curve
from moa.router.hashing_backbone import HashingBackbone
from moa.router.heads import in_blocks, tokens_of
from moa.router.novelty import fit_novelty
from moa.router.router import GRADE_STEPS, NO_GRADE, prompt_features
from moa.toml_file import Section
from moa.training.dataset import Dataset, read_dataset
from moa.training.linear import fit_log_odds, fit_mean

Floats = NDArray[np.float64]


class TrainRouterConfig(Section):
    """All that `jobs/train_router.py` is told."""

    recordings: str = Field(
        description="Folder with queries.parquet (query_id, prompt; if there: source, split, "
        "duplicate_group) and graded_outcomes.parquet (GRADED_OUTCOMES)"
    )
    models: list[str] = Field(min_length=1, description="Catalog ids that the router shall know")
    artifact: str = Field(description="Folder that the artifact is written to")
    catalog: str = Field(description="Prices the report's comparison; the router knows no price")
    buckets: int = Field(default=1024, ge=64, le=65_536, description="Of hashed n-grams")
    grade_l2: float = Field(default=1.0, gt=0, description="Pull of the grade heads towards 0")
    tokens_l2: float = Field(default=1.0, gt=0, description="Pull of the token heads towards 0")
    folds: int = Field(default=5, ge=2, le=20, description="Of the cross-validation; 2 to 20")
    source_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="Source of queries → weight in the fit, where it is not 1; ≥ 0",
    )

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[str]) -> list[str]:
        twice = sorted({name for name in models if models.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} named more than once: name each model once")
        return models


class Trained(NamedTuple):
    """A router that has been written, and what it expects of queries it was not fitted on."""

    version: str
    data: Dataset
    expected_grade: Floats
    """By heads and curves of other folds, shape (n, m)."""
    expected_output_tokens: Floats
    """Likewise."""


class _Fitted(NamedTuple):
    grade: Floats
    log_tokens: Floats


def train_router(config: TrainRouterConfig) -> Trained:
    """Train on the `train` split and write the artifact. Equal data gives equal bytes.

    Raises:
        ConfigError: the recordings are not there, weigh a source that they have not, or leave a
            model without enough to be fitted on.
    """
    data = read_dataset(Path(config.recordings), config.models, split="train")
    _check(data, config)
    backbone = HashingBackbone(config.buckets)
    embeddings = backbone.embed(data.texts)
    weight = _weight(data, config)
    out_of_fold = _out_of_fold(data, embeddings, weight, config)
    everything = np.ones(len(data.texts), bool)
    curves = [
        _curve(data, out_of_fold.grade, weight, model, everything)
        for model in range(len(data.models))
    ]
    fitted = _fit(data, embeddings, weight, config)
    factor, most = _token_scale(data, out_of_fold.log_tokens, weight)
    expected_grade = _expected_grade(data, out_of_fold.grade, weight, config.folds)
    expected_tokens = tokens_of(out_of_fold.log_tokens, factor, most)
    sources = sorted(set(data.sources))
    novelty = fit_novelty(
        embeddings,
        np.array([sources.index(source) for source in data.sources]),
        data.folds(config.folds),
        config.buckets,
    )
    tensors: dict[str, NDArray[Any]] = {
        "heads.grade": _short(fitted.grade),
        "heads.log_tokens": _short(fitted.log_tokens),
        "heads.token_factor": np.round(factor, 6),
        "heads.most_tokens": most,
        "novelty.centres": _short(novelty.centres),
        "novelty.similarity": np.round(novelty.similarity, 6),
        "training.grades": _steps(data.grade),
        **_curve_tensors(curves),
    }
    description = {
        "backbone": dict(backbone.spec),
        "models": list(data.models),
        "tokens_per_feature": _tokens_per_feature(data),
        "training": _facts(config, data, expected_grade),
    }
    version = write_artifact(Path(config.artifact), description, tensors)
    return Trained(version, data, expected_grade, expected_tokens)


def _check(data: Dataset, config: TrainRouterConfig) -> None:
    """Whether every model can be fitted, for each fold on what the other folds have of it."""
    unknown = sorted(config.source_weights.keys() - set(data.sources))
    if unknown:
        raise ConfigError(
            f"source_weights: the recordings have no source {', '.join(unknown)}; they have "
            f"{', '.join(sorted(set(data.sources)))}"
        )
    weight, folds = _weight(data, config), data.folds(config.folds)
    for name, values in (("grade", data.grade), ("output_tokens", data.output_tokens)):
        for column, model in enumerate(data.models):
            known = np.isfinite(values[:, column]) & (weight > 0)
            if len(np.unique(folds[known])) < 2:
                raise ConfigError(
                    f"{config.recordings}: {model} has {name} on {known.sum()} training queries "
                    "whose source has a weight, too few to learn from and to check by: add "
                    "graded outcomes of it, or leave it out of models"
                )
    if not np.isfinite(data.input_tokens).any():
        raise ConfigError(f"{config.recordings}: no graded outcome has input_tokens")


def _weight(data: Dataset, config: TrainRouterConfig) -> Floats:
    """Of each query in the fit, shape (n,)."""
    return np.array([config.source_weights.get(source, 1.0) for source in data.sources])


def _fit(
    data: Dataset, embeddings: Embeddings, weight: Floats, config: TrainRouterConfig
) -> _Fitted:
    """Heads of each model on the queries that it was graded on, one column each."""
    grade, tokens = [], []
    for model in range(len(data.models)):
        known = np.flatnonzero(~np.isnan(data.grade[:, model]) & (weight > 0))
        features = embeddings[known].astype(np.float64)
        grade.append(
            fit_log_odds(features, data.grade[known, model], weight[known], l2=config.grade_l2)
        )
        counted = np.isfinite(data.output_tokens[known, model])
        length = np.log1p(data.output_tokens[known[counted], model])
        tokens.append(
            fit_mean(features[counted], length, weight[known[counted]], l2=config.tokens_l2)
        )
    return _Fitted(np.stack(grade, axis=1), np.stack(tokens, axis=1))


def _out_of_fold(
    data: Dataset, embeddings: Embeddings, weight: Floats, config: TrainRouterConfig
) -> _Fitted:
    """Raw outputs for every query by heads that have not seen its group, shape (n, m) each."""
    folds = data.folds(config.folds)
    raw = _Fitted(np.empty_like(data.grade), np.empty_like(data.grade))
    for fold in range(config.folds):
        held_out = folds == fold
        rest = weight * ~held_out
        fitted = _fit(data, embeddings, rest, config)
        raw.grade[held_out] = in_blocks(embeddings[held_out], fitted.grade)
        raw.log_tokens[held_out] = in_blocks(embeddings[held_out], fitted.log_tokens)
    return raw


def _curve(
    data: Dataset, log_odds: Floats, weight: Floats, model: int, only: NDArray[np.bool_]
) -> Curve:
    known = ~np.isnan(data.grade[:, model]) & (weight > 0) & only
    return fit_curve(log_odds[known, model], data.grade[known, model], weight[known])


def _expected_grade(data: Dataset, log_odds: Floats, weight: Floats, count: int) -> Floats:
    """Grades by curves that were fitted on the other folds, shape (n, m)."""
    folds = data.folds(count)
    grade = np.empty_like(log_odds)
    for fold in range(count):
        mine = folds == fold
        for model in range(len(data.models)):
            curve = _curve(data, log_odds, weight, model, ~mine)
            grade[mine, model] = curve(log_odds[mine, model])
    return grade


def _token_scale(data: Dataset, log_tokens: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """What makes the estimated output tokens right in sum, and the longest output, per model."""
    known = ~np.isnan(data.output_tokens)
    share = weight[:, None] * known
    estimated = np.expm1(np.maximum(0, log_tokens))
    measured = np.nan_to_num(data.output_tokens)
    factor = (share * measured).sum(axis=0) / (share * estimated).sum(axis=0)
    return factor, np.nanmax(data.output_tokens, axis=0)


def _tokens_per_feature(data: Dataset) -> list[float]:
    """Least squares of recorded prompt tokens on what can be counted in a prompt."""
    with np.errstate(invalid="ignore"):
        known = np.flatnonzero((~np.isnan(data.input_tokens)).any(axis=1))
    measured = np.nanmean(data.input_tokens[known], axis=1)
    features = prompt_features([data.texts[n] for n in known])
    solution, *_ = np.linalg.lstsq(features, measured, rcond=None)
    return [round(float(one), 6) for one in solution]


def _short(values: Floats) -> NDArray[np.float16]:
    """Half precision: small, and equal bits whatever the last bits of the fit were."""
    return values.astype(np.float16)


def _steps(grade: Floats) -> NDArray[np.uint8]:
    return np.where(np.isnan(grade), NO_GRADE, np.round(np.nan_to_num(grade) * GRADE_STEPS)).astype(
        np.uint8
    )


def _curve_tensors(curves: list[Curve]) -> dict[str, NDArray[Any]]:
    named = enumerate(curves)
    return {
        name: np.round(values, 6)
        for n, curve in named
        for name, values in (
            (f"calibration.{n}.log_odds", curve.log_odds),
            (f"calibration.{n}.grade", curve.grade),
        )
    }


def _facts(config: TrainRouterConfig, data: Dataset, expected: Floats) -> Mapping[str, object]:
    known = ~np.isnan(data.grade)
    return {
        "source": config.recordings,
        "queries": len(data.query_ids),
        "outcomes": {m: int(known[:, n].sum()) for n, m in enumerate(data.models)},
        "mean_grade": {
            m: round(float(np.nanmean(data.grade[:, n])), 4) for n, m in enumerate(data.models)
        },
        "cross_validation": {
            m: dict(_figures(data, expected, n)) for n, m in enumerate(data.models)
        },
        "weights": config.source_weights,
    }


def _figures(data: Dataset, expected: Floats, model: int) -> Iterator[tuple[str, float]]:
    known = ~np.isnan(data.grade[:, model])
    guess, grade = expected[known, model], data.grade[known, model]
    yield "brier", round(float(((guess - grade) ** 2).mean()), 4)
    yield "brier_of_the_mean", round(float(((grade.mean() - grade) ** 2).mean()), 4)
    yield "calibration_error", round(calibration_error(guess, grade), 4)


def calibration_error(expected: Floats, grade: Floats, bins: int = 10) -> float:
    """Mean distance between expected and measured grade over bins of equally many queries."""
    order = np.argsort(expected, kind="stable")
    parts = np.array_split(order, bins)
    gaps = [abs(expected[p].mean() - grade[p].mean()) * len(p) for p in parts if len(p)]
    return float(sum(gaps) / len(order))
