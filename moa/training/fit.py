"""A training set → the tensors of a router: features, factors, heads, calibration, novelty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.router.backbone import Embeddings
from moa.router.best_constant import ENOUGH
from moa.router.calibration import Curve, calibrate
from moa.router.factors import Factors, factor_values
from moa.router.features import Features, fit_features
from moa.router.heads import Heads
from moa.router.novelty import Novelty
from moa.router.surface import Surface
from moa.training.dataset import Dataset
from moa.training.domains import DomainFit, Domains, find_domains, fit_domain_map
from moa.training.ease import fit_ease
from moa.training.linear import fit_log_odds
from moa.training.novelty import fit_novelty
from moa.training.ridge import fit_experts

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Tensors = dict[str, NDArray[Any]]

FULL_DOMAIN = 500
"""Queries from which on a domain as a whole has one weight, however many more it has."""
HEAD_L2 = 1.0
SPREAD = 0.9
"""Share of answers that `Heads.token_spread` covers."""
LEAST_CELL = 30
"""Answers of a model in a domain, for a factor and a spread of their own."""


class Reading(NamedTuple):
    """What a backbone and the counting make of n queries."""

    embeddings: Embeddings
    surface: Surface

    def only(self, rows: NDArray[Any]) -> Reading:
        """Some of the queries, as a mask or as numbers."""
        return Reading(self.embeddings[rows], self.surface[rows])


@dataclass(frozen=True, slots=True)
class Fitted:
    """A router's numbers, and what it thought of its own training queries when held out."""

    domains: list[str]
    calibration: list[str]
    """Kind of each model's curve."""
    tensors: Tensors
    """As `moa.router.predictor` reads them, and `training.ease`: of each training query as experts
    saw it that were fitted on other folds, which is what a new model's head may be fitted on."""
    domain_queries: dict[str, int] = field(default_factory=dict)
    """Domain → queries that were learnt from."""


def balance(domain: Ints) -> Floats:
    """Weight of each query: those of a large domain together count as `FULL_DOMAIN`."""
    sizes = np.bincount(domain)[domain]
    return np.minimum(1, FULL_DOMAIN / sizes)


def fit(data: Dataset, reading: Reading, *, folds: int) -> Fitted:
    """Fit everything but the backbone.

    Args:
        data: n queries, at least two folds of each model's grades; `_check` of `train` has looked.
        reading: of these queries, in their order.
        folds: of the cross-validations inside.
    """
    fold = data.folds(folds)
    even = np.ones(len(data.texts))
    rough = fit_features(reading.embeddings, reading.surface, even)
    domains = find_domains(data, rough(reading.embeddings, reading.surface))
    weight = balance(domains.of_query)
    features = fit_features(reading.embeddings, reading.surface, weight)
    standard = features(reading.embeddings, reading.surface)
    x = standard.astype(np.float64)
    counted = grade_weights(data)
    everybody = np.concatenate([data.grade, data.other_grade], axis=1)
    others = (~np.isnan(data.other_grade)).astype(np.float64)
    ease = fit_ease(everybody, domains.of_query, np.concatenate([counted, others], axis=1))
    experts = fit_experts(x, ease.of_query[:, None], domains.of_query, fold)
    member = fit_domain_map(x, domains, weight, fold)
    factors = Factors(member.weights, np.nan_to_num(experts.weights[:, :, 0]), ease.of_domain)
    values = factor_values(member.share, np.nan_to_num(experts.out_of_fold[:, 0]), ease.of_domain)
    grade = fit_grade_heads(values, data.grade, counted)
    kinds, curves = _curves(values, data.grade, grade, weight[:, None] * counted, fold)
    heads = _token_heads(x, data, domains, member, fold, grade)
    novelty = fit_novelty(reading.embeddings, standard, domains.of_query, weight, fold)
    tensors = _tensors(features, factors, heads, curves, novelty)
    tensors["training.ease"] = np.nan_to_num(experts.out_of_fold[:, 0]).astype(np.float16)
    sizes = np.bincount(domains.of_query, minlength=len(domains.names)).tolist()
    return Fitted(domains.names, kinds, tensors, dict(zip(domains.names, sizes, strict=True)))


def grade_weights(data: Dataset) -> Floats:
    """By how much each grade counts, 0 where missing; shape (n, m).

    Inverse propensities, scaled so that a model's sum to the number of grades that would tell as
    much if each counted once: a few that stand for many must not look like many.

    Source: Kish, Survey Sampling, 1965.
    """
    known = ~np.isnan(data.grade)
    if data.weight is None:
        return known.astype(np.float64)
    weight = np.where(known, data.weight, 0.0)
    return np.asarray(weight * (weight.sum(axis=0) / np.maximum((weight**2).sum(axis=0), 1e-9)))


def estimated_grades(data: Dataset, expected: Floats) -> dict[str, float]:
    """Model → its mean grade over all queries, those included that it was not asked: what is
    expected, corrected by inverse propensities where it is known. Of models whose grades are worth
    `ENOUGH` that each count once: others' estimates are chance.

    Args:
        data: n queries and m models.
        expected: grades, by routers that had not seen the query, shape (n, m).

    Source: Dudík, Langford and Li, Doubly robust policy evaluation and learning, ICML 2011.
    """
    weight = np.ones_like(data.grade) if data.weight is None else data.weight
    known = ~np.isnan(data.grade)
    surprise = np.where(known, weight * (data.grade - expected), 0.0)
    means = (expected + surprise).mean(axis=0).clip(0, 1).round(4)
    worth = grade_weights(data).sum(axis=0)
    return {
        model: float(mean)
        for model, mean, grades in zip(data.models, means, worth, strict=True)
        if grades >= ENOUGH
    }


def fit_grade_heads(values: Floats, grade: Floats, weight: Floats | None = None) -> Floats:
    """Logistic regression of each model's grades on factors, shape (factors + 1, m).

    Args:
        values: of the factors, shape (n, factors).
        grade: NaN where missing, shape (n, m).
        weight: of each grade, shape (n, m); by default each counts once.
    """
    columns = []
    for model in range(grade.shape[1]):
        known = ~np.isnan(grade[:, model])
        counts = np.ones(int(known.sum())) if weight is None else weight[known, model]
        columns.append(fit_log_odds(values[known], grade[known, model], counts, l2=HEAD_L2))
    return np.stack(columns, axis=1)


def _curves(
    values: Floats, grade: Floats, heads: Floats, weight: Floats, fold: Ints
) -> tuple[list[str], list[Curve]]:
    log_odds = values @ heads[:-1] + heads[-1]
    kinds, curves = [], []
    for model in range(grade.shape[1]):
        known = ~np.isnan(grade[:, model])
        kind, curve = calibrate(
            log_odds[known, model], grade[known, model], weight[known, model], fold[known]
        )
        kinds.append(kind)
        curves.append(curve)
    return kinds, curves


def _token_heads(
    x: Floats, data: Dataset, domains: Domains, member: DomainFit, fold: Ints, grade: Floats
) -> Heads:
    """Experts on the logarithm of output tokens, and what turns it into means and a spread."""
    experts = fit_experts(x, np.log1p(data.output_tokens), domains.of_query, fold)
    scales = [
        token_scale(tokens, expected, domains.of_query, len(domains.names))
        for tokens, expected in zip(data.output_tokens.T, experts.out_of_fold.T, strict=True)
    ]
    return Heads(
        grade=grade,
        log_tokens=_filled(experts.weights),
        token_factor=np.stack([factor for factor, _ in scales], axis=1),
        token_spread=np.stack([spread for _, spread in scales], axis=1),
        token_limit=np.nanmax(data.output_tokens, axis=0),
    )


def _filled(weights: Floats) -> Floats:
    """Domains in which a model was never asked get the mean slope of those that were, and a level
    that is the sum of what the domain and the model are like; shape as `Experts.weights`."""
    level = weights[-1]
    known = ~np.isnan(level)
    slopes = np.nan_to_num(weights[:-1]).sum(axis=2, keepdims=True)
    slopes = slopes / np.maximum(known.sum(axis=1), 1)[None, :, None]
    filled = np.where(np.isnan(weights[:-1]), slopes, weights[:-1])
    design = np.concatenate(
        [
            np.repeat(np.eye(len(level)), level.shape[1], axis=0),
            np.tile(np.eye(level.shape[1]), (len(level), 1)),
        ],
        axis=1,
    )
    flat = known.ravel()
    hessian = design[flat].T @ design[flat] + 1e-3 * np.eye(design.shape[1])
    effects = np.linalg.solve(hessian, design[flat].T @ level.ravel()[flat])
    levels = np.where(known, level, (design @ effects).reshape(level.shape))
    return np.concatenate([filled, levels[None]])


def token_scale(
    tokens: Floats, log_tokens: Floats, domain: Ints, domains: int
) -> tuple[Floats, Floats]:
    """What makes one model's estimates right in sum, and what nine in ten answers stay below.

    Args:
        tokens: measured, NaN where missing, shape (n,).
        log_tokens: expected log(1 + tokens), by maps that had not seen the query; likewise.
        domain: of each query, shape (n,).
        domains: how many there are, C.

    Returns:
        `Heads.token_factor` and `Heads.token_spread` of the model, shape (C,) each; those over all
        domains where it has few answers.
    """
    estimated = np.expm1(np.clip(log_tokens, 0, 20))
    known = ~np.isnan(tokens + estimated)
    pairs = [_scale(tokens[known], estimated[known])] * domains
    for number in range(domains):
        mine = known & (domain == number)
        if mine.sum() >= LEAST_CELL:
            pairs[number] = _scale(tokens[mine], estimated[mine])
    factor, spread = zip(*pairs, strict=True)
    return np.array(factor), np.array(spread)


def _scale(tokens: Floats, estimated: Floats) -> tuple[float, float]:
    """Mean over mean estimate, and the quantile `SPREAD` of tokens over estimated means."""
    factor = tokens.sum() / max(estimated.sum(), 1e-9)
    ratio = tokens / np.maximum(estimated * factor, 1)
    return float(factor), float(np.quantile(ratio, SPREAD))


def _tensors(
    features: Features, factors: Factors, heads: Heads, curves: list[Curve], novelty: Novelty
) -> Tensors:
    """Rounded, so that equal data gives equal bytes whatever the last bits of the fit were."""
    tensors: Tensors = {
        "features.mean": features.mean,
        "features.scale": features.scale,
        "features.weight": features.weight,
        "factors.domain": factors.domain.astype(np.float16),
        "factors.ease": factors.ease.astype(np.float16),
        "factors.domain_ease": np.round(factors.domain_ease, 6),
        "heads.grade": np.round(heads.grade, 6),
        "heads.log_tokens": heads.log_tokens.astype(np.float16),
        "heads.token_factor": np.round(heads.token_factor, 6),
        "heads.token_spread": np.round(heads.token_spread, 6),
        "heads.token_limit": heads.token_limit,
        "novelty.centres": novelty.centres.astype(np.float16),
        "novelty.similarity": np.round(novelty.similarity, 6),
        "novelty.directions": novelty.directions.astype(np.float16),
        "novelty.whitening": novelty.whitening.astype(np.float16),
        "novelty.distance": np.round(novelty.distance, 4),
    }
    for n, curve in enumerate(curves):
        tensors[f"calibration.{n}.log_odds"] = np.round(curve.log_odds, 6)
        tensors[f"calibration.{n}.grade"] = np.round(curve.grade, 6)
    return tensors
