"""A router and recordings → its evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from moa.catalog import load_catalog
from moa.evaluation.config import EvaluateRouterConfig, PoolConfig
from moa.evaluation.evaluation import (
    Basis,
    Evaluation,
    Graded,
    PoolEvaluation,
    Settings,
    calibrations,
    calibrations_by_domain,
    evaluate_pool,
)
from moa.evaluation.gate import GateConfig
from moa.evaluation.left_out import Stranger, left_out
from moa.evaluation.robustness import robustness
from moa.evaluation.traffic import TrafficEvaluation
from moa.prices import PriceTable
from moa.reports.wording import price
from moa.router.artifact import DESCRIPTION, Artifact, open_backbone, read_artifact
from moa.router.facts import RouterFacts, router_folder
from moa.router.router import Router
from moa.storage.object_store import Folder
from moa.toml_file import read_toml
from moa.training.backbone import open_for_training
from moa.training.dataset import EVERY_SPLIT, Dataset, read_dataset
from moa.training.judge import answered_by_all, judge, read_domains
from moa.training.left_out import strangers
from moa.training.traffic import InUse, Traffic, data_hash, score_in_use
from moa.training.train import TrainRouterConfig, text_hashes

Strangers = Mapping[str, Mapping[str, Stranger]]
"""Pool → source that was left out of training → its queries, scored by a router without it."""


def evaluate_router(config: EvaluateRouterConfig) -> Evaluation:
    """Score the queries of a split, and measure each pool.

    Raises:
        ArtifactError: the router cannot be read.
        ConfigError: a model, a price or the recordings are not there, or the router does not know
            a model.
    """
    artifact = read_artifact(router_folder(config.artifact))
    facts = RouterFacts.of(artifact)
    models = list(dict.fromkeys(name for pool in config.pools.values() for name in pool.models))
    facts.check_pool(models)
    prices = _prices(config, models)
    data = read_dataset(
        config.recordings, models, split=config.split, most_weight=math.inf,
        as_drawn=any(pool.traffic is not None for pool in config.pools.values()),
    )  # fmt: skip
    domains = read_domains(config.recordings, data)
    # Before the router's own engine: one that ends takes those beside it in its process with it.
    untaught = _strangers(config, models, prices)
    in_use = _in_use(config, data, models)
    router = Router(artifact, open_backbone(artifact, config.model, config.engine))
    scores = router.score(data.texts, models)
    settings = _settings(config)
    graded = Graded(data.models, domains, data.grade, scores.expected_grade.astype(np.float64))
    calibrated = calibrations(graded, settings)

    def pool_of(name: str, pool: PoolConfig) -> PoolEvaluation:
        best = pool.best_constant or facts.best_constant(pool.models).model
        judged = judge(data, scores, pool.models, prices, best_constant=best, domains=domains)
        asked = data.only(answered_by_all(data, pool.models))
        robust = None
        if config.perturb:
            robust = robustness(
                judged, asked.texts, router.score, prices, config.policy,
                seed=config.seed, replicates=config.replicates,
            )  # fmt: skip
        mine = left_out(
            untaught.get(name, {}), config.policy,
            seed=config.seed, replicates=config.replicates,
        )  # fmt: skip
        return evaluate_pool(
            name, judged, settings,
            asked=pool.gate, robust=robust, strangers=mine, calibrations=calibrated,
        )  # fmt: skip

    traffic = Traffic(data, domains, scores, router.score, prices, in_use)
    return Evaluation(
        title=config.title,
        basis=_basis(config, artifact, data, prices, in_use),
        settings=settings,
        pools=tuple(pool_of(name, pool) for name, pool in _recorded(config, data)),
        calibration=calibrated,
        calibration_by_domain=calibrations_by_domain(graded, settings),
        traffic=tuple(_logged(config, facts, traffic)),
    )


def _settings(config: EvaluateRouterConfig) -> Settings:
    return Settings(
        policy=config.policy,
        regret_at=tuple(config.regret_at),
        sweep_points=config.sweep_points,
        replicates=config.replicates,
        seed=config.seed,
    )


def _recorded(config: EvaluateRouterConfig, data: Dataset) -> Iterator[tuple[str, PoolConfig]]:
    """Pools that are measured on what all of their models have answered: of logged traffic, that
    must be most of it, or asked for (and is an error then, if there is none)."""
    for name, pool in config.pools.items():
        asked = pool.traffic is None or pool.gate != GateConfig()
        if asked or answered_by_all(data, pool.models).mean() > 0.5:
            yield name, pool


def _logged(
    config: EvaluateRouterConfig, facts: RouterFacts, traffic: Traffic
) -> Iterator[TrafficEvaluation]:
    """The best constant is that of the router in use: a candidate whose training grades are wrong
    would name one that is easily beaten."""
    in_use = traffic.in_use.artifact if traffic.in_use is not None else None
    trusted = facts if in_use is None else RouterFacts.of(in_use)
    for name, pool in config.pools.items():
        if pool.traffic is not None:
            known = [model for model in pool.models if model in trusted.models]
            source = trusted if known else facts
            best = pool.best_constant or source.best_constant(known or pool.models).model
            yield traffic.evaluate(name, pool.models, pool.traffic, config, best_constant=best)


def _in_use(config: EvaluateRouterConfig, data: Dataset, models: Sequence[str]) -> InUse | None:
    """The router to compare with; a folder in which nothing was promoted yet has none."""
    if config.current is None:
        return None
    url = router_folder(config.current)
    there = Folder(url).has(DESCRIPTION)
    return score_in_use(read_artifact(url) if there else None, data, models, config)


def _strangers(
    config: EvaluateRouterConfig, models: Sequence[str], prices: PriceTable
) -> Strangers:
    """By routers that are trained as the job says, on these models."""
    if config.train_config is None:
        return {}
    job = read_toml(TrainRouterConfig, config.train_config)
    train = read_dataset(job.recordings, models, split="train")
    backbone = open_for_training(job.backbone, artifact=Path(config.artifact))
    return strangers(
        train,
        read_dataset(job.recordings, models, split=EVERY_SPLIT),
        backbone,
        {name: pool.models for name, pool in config.pools.items()},
        prices,
        folds=job.folds,
    )


def _prices(config: EvaluateRouterConfig, models: Sequence[str]) -> PriceTable:
    known = load_catalog(config.catalog).of(models, key="pools", path=config.catalog)
    return PriceTable.build(known, as_of=config.prices_as_of)


def _basis(
    config: EvaluateRouterConfig,
    artifact: Artifact,
    data: Dataset,
    prices: PriceTable,
    in_use: InUse | None,
) -> Basis:
    facts, policy = RouterFacts.of(artifact), config.policy
    if policy.willingness_to_pay is not None:
        said = f"{price(policy.willingness_to_pay)} for a right instead of a wrong answer"
    else:
        said = f"the cheapest model that is expected to reach a grade of {policy.quality_floor:g}"
    if policy.max_novelty < 1:
        said += f"; above a novelty of {policy.max_novelty:g}, the best constant"
    notes = list(prices.warnings)
    taught = int(np.isin(text_hashes(data.texts), artifact.tensors["training.text_hash"]).sum())
    if taught:
        notes.append(
            f"The router was fitted on {taught:,} of these {len(data.texts):,} queries: the "
            "figures flatter it."
        )
    best = {}
    for name, pool in config.pools.items():
        found = facts.best_constant(pool.models)
        best[name] = f"{found.model}: {found.why}"
        if pool.best_constant is not None and pool.best_constant != found.model:
            best[name] = f"{pool.best_constant}, as configured (by the artifact {best[name]})"
    return Basis(
        router=facts.version,
        data=f"{len(data.query_ids):,} queries of the {config.split} split of {config.recordings}",
        prices_of=str(prices.as_of),
        prices=f"of {prices.as_of}, version {prices.version}: {', '.join(prices.sources)}",
        policy=said,
        best_constants=best,
        notes=tuple(notes),
        taught=taught,
        current=in_use.artifact.version if in_use and in_use.artifact else None,
        data_sha256=data_hash(data),
    )
