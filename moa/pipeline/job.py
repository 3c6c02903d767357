"""A run as configured, with all that must be true before its first call checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from moa.catalog import Account, Catalog, Model, load_catalog
from moa.config import RouteBatchConfig, config_hash, resolved
from moa.errors import ConfigError
from moa.pipeline.provenance import git_commit, versions
from moa.prices import PriceTable
from moa.providers.accounts import check_credentials
from moa.router.router import Router
from moa.storage.object_store import Folder
from moa.storage.query_log import Partition, find_partitions
from moa.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs, read and checked before the first call."""

    config: RouteBatchConfig
    accounts: Mapping[str, Account]
    models: tuple[Model, ...]
    """Pool order."""
    prices: PriceTable
    router_version: str
    best_constant: str
    """Catalog id: the model of the pool that did best on the router's training data."""
    best_constant_why: str
    run_folder: str
    partitions: tuple[Partition, ...]
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Account → where the replay server stands in for it; empty in a real run."""

    @property
    def pool(self) -> tuple[str, ...]:
        """The catalog ids, in pool order."""
        return tuple(model.id for model in self.models)

    @property
    def default_model(self) -> str:
        """Catalog id that a query goes to when it is too novel to judge."""
        return self.config.policy.default_model or self.best_constant

    def identity(self) -> dict[str, str]:
        """What must not change between two starts of a run: with it, other decisions are made."""
        return {
            "config": config_hash(self.config),
            "router": self.router_version,
            "prices": self.prices.version,
        }

    def facts(self) -> dict[str, Any]:
        """What is written beside the results at the run's first start."""
        return {
            "started_at": datetime.now(UTC).isoformat(),
            "router": {
                "version": self.router_version,
                "best_constant": self.best_constant,
                "best_constant_why": self.best_constant_why,
            },
            "price_date": self.prices.as_of.isoformat(),
            "prices": self.prices.document(),
            "git_commit": git_commit(),
            "versions": versions(),
            "config": resolved(self.config),
        }


def check_job(config: RouteBatchConfig, *, environ: Mapping[str, str]) -> Job:
    """Read and check everything that the config names; nothing is called and nothing written.

    Raises:
        ConfigError: a model that the catalog or the router does not know, a missing key or price,
            a query log that cannot be read.
        ArtifactError: the router is damaged.
    """
    catalog = load_catalog(config.catalog)
    models = tuple(_model(catalog, name, config.catalog) for name in config.pool)
    accounts = {model.provider: catalog.accounts[model.provider] for model in models}
    if config.replay is None:
        for account in accounts.values():
            check_credentials(account, environ)
    router = Router.load(config.router.artifact)
    pool = tuple(model.id for model in models)
    router.check_pool(pool)
    best_constant = router.best_constant(pool)
    _check_default(config.policy.default_model, pool)
    _check_shares(models, config.dispatch.replicas)
    run_folder = f"{config.run.folder.rstrip('/')}/{config.run.id}"
    Folder(run_folder).check()
    return Job(
        config=config,
        accounts=accounts,
        models=models,
        prices=PriceTable.build(models, as_of=_price_date(config, run_folder), lanes=("live",)),
        router_version=router.version,
        best_constant=best_constant.model,
        best_constant_why=best_constant.why,
        run_folder=run_folder,
        partitions=tuple(find_partitions(config.queries)),
    )


def _price_date(config: RouteBatchConfig, run_folder: str) -> date | None:
    """A run that goes on overnight keeps the prices of its first day."""
    if config.prices.as_of is not None:
        return config.prices.as_of
    first = RunFolder(run_folder).first_start()
    return None if first is None else date.fromisoformat(first["price_date"])


def _check_default(default_model: str | None, pool: tuple[str, ...]) -> None:
    if default_model is not None and default_model not in pool:
        raise ConfigError(
            f"policy.default_model {default_model!r} is not in the pool {list(pool)}: "
            "add it, or name one of the pool"
        )


def _check_shares(models: Sequence[Model], replicas: int) -> None:
    """Replicas share a model's limits equally, and less than one call is no share."""
    for model in models:
        most = model.limits.max_in_flight
        if most is not None and most < replicas:
            raise ConfigError(
                f"dispatch.replicas is {replicas}, and {model.id} takes max_in_flight = {most} "
                f"calls at once, fewer than one a replica: at most {most} replicas"
            )


def _model(catalog: Catalog, name: str, path: str) -> Model:
    if name in catalog.models:
        return catalog.models[name]
    near = difflib.get_close_matches(name, catalog.models, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"pool: {path} has no model {name!r}.{hint} It has {sorted(catalog.models)}")
