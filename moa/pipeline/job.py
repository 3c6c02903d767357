"""A run as configured, with all that must be true before its first call checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moa.catalog import Account, Model, load_catalog
from moa.config import ReplayConfig, RouteBatchConfig, RouterConfig, config_hash, resolved
from moa.decisions.deciding import Deciding
from moa.errors import ConfigError, SchemaError
from moa.pipeline.provenance import git_commit, versions
from moa.planning.exploration import Exploration
from moa.prices import PriceTable
from moa.providers.accounts import check_abilities, check_batches, check_credentials
from moa.replay.recordings import Recordings
from moa.replay.script import parse_script
from moa.router.facts import read_facts, router_folder
from moa.schema import GRADED_OUTCOMES, agree
from moa.storage.log_files import FORMATS
from moa.storage.object_store import Folder, filesystem_of
from moa.storage.query_log import Partition, find_backlog
from moa.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs, read and checked before the first call."""

    config: RouteBatchConfig
    accounts: Mapping[str, Account]
    models: tuple[Model, ...]
    """Pool order."""
    prices: PriceTable
    artifact: str
    """Folder of the router; of promotions, the one that counts for this run."""
    router_version: str
    best_constant: str
    """Catalog id: the model of the pool that did best on the router's training data."""
    best_constant_why: str
    run_folder: str
    partitions: tuple[Partition, ...]
    domain_queries: Mapping[str, int] = field(default_factory=dict)
    """The router's domain → its training queries; empty when it does not say."""
    left_out: tuple[str, ...] = ()
    """Files where the query log is that are not read."""
    deadline: datetime | None = None
    """When the run shall have ended, by `plan.finish_by`."""
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Account → where the replay server stands in for it; empty in a real run."""

    @property
    def pool(self) -> tuple[str, ...]:
        """The catalog ids, in pool order."""
        return tuple(model.id for model in self.models)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before the first call; one sentence each."""
        if not self.left_out:
            return self.prices.warnings
        examples = ", ".join(self.left_out[:3]) + (", …" if len(self.left_out) > 3 else "")
        left_out = (
            f"queries.path: {len(self.left_out)} files are left out, empty or of another "
            f"extension than {', '.join(FORMATS)}: {examples}"
        )
        return (*self.prices.warnings, left_out)

    @property
    def default_model(self) -> str:
        """Catalog id that a query goes to when it is too novel to judge."""
        return self.config.policy.default_model or self.best_constant

    @property
    def deciding(self) -> Deciding:
        """What all its decisions have in common."""
        return Deciding(
            self.models,
            self.config.policy,
            self.prices,
            self.router_version,
            self.default_model,
            exploration_of(self.config),
        )

    @property
    def router(self) -> RouterConfig:
        """As configured, but of promotions the artifact that counts for this run: whatever is
        promoted while it is at work, its actors load the same."""
        return self.config.router.model_copy(update={"artifact": self.artifact})

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
                "artifact": self.artifact,
                "version": self.router_version,
                "best_constant": self.best_constant,
                "best_constant_why": self.best_constant_why,
                "domain_queries": dict(self.domain_queries),
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
            a query log or known grades that cannot be read, a run folder that cannot be written.
        ArtifactError: the router is damaged.
    """
    models, accounts = _callable(config, config.pool, key="pool", environ=environ)
    run_folder = _checked_folder(config)
    artifact = _artifact(config, run_folder)
    router = read_facts(artifact)
    pool = tuple(model.id for model in models)
    router.check_pool(pool)
    best_constant = router.best_constant(pool)
    _check_default(config.policy.default_model, pool)
    found = find_backlog(config.queries)
    prices = PriceTable.build(models, as_of=_price_date(config, run_folder))
    _check_lanes(config, models, prices)
    return Job(
        config=config,
        accounts=accounts,
        models=models,
        prices=prices,
        artifact=artifact,
        router_version=router.version,
        best_constant=best_constant.model,
        best_constant_why=best_constant.why,
        run_folder=run_folder,
        partitions=found.partitions,
        domain_queries=router.training.domain_queries,
        left_out=found.left_out,
        deadline=_deadline(config, run_folder),
    )


def job_again(
    config: RouteBatchConfig,
    first: Mapping[str, Any],
    *,
    to_model: str | None,
    run_folder: str,
    environ: Mapping[str, str],
) -> Job:
    """What a run has decided on, once more: neither its query log nor its router is read.

    Args:
        config: the run's.
        first: what a first start has kept; its prices count, whatever the list says by now.
        to_model: catalog id of the only model that is asked; `None`: the pool.
        run_folder: of the new job.
        environ: with the keys.

    Raises:
        ConfigError: the catalog has no such model, a key or a price is missing, known grades cannot
            be read, or the run folder cannot be written.
    """
    names, key = (config.pool, "pool") if to_model is None else ([to_model], "--to-model")
    models, accounts = _callable(config, names, key=key, environ=environ)
    _checked_folder(config)
    prices = PriceTable.from_document(first["prices"])
    if any((model.id, "live") not in prices.prices for model in models):  # outside the pool
        prices = PriceTable.build(models, as_of=prices.as_of)
    return Job(
        config=config,
        accounts=accounts,
        models=models,
        prices=prices,
        artifact=config.router.artifact,
        router_version=first["router"]["version"],
        best_constant=first["router"]["best_constant"],
        best_constant_why=first["router"]["best_constant_why"],
        run_folder=run_folder,
        partitions=(),
    )


def exploration_of(config: RouteBatchConfig) -> Exploration | None:
    """How a run explores; `None` where it does not."""
    if config.explore is None:
        return None
    bounds = (config.explore.max_usd_per_query, config.dispatch.max_usd_per_query)
    given = [float(usd) for usd in bounds if usd is not None]
    return Exploration(config.explore.share, config.run.seed, min(given, default=None))


def _callable(
    config: RouteBatchConfig, names: Sequence[str], *, key: str, environ: Mapping[str, str]
) -> tuple[tuple[Model, ...], dict[str, Account]]:
    """Models of the catalog and their accounts, with all that calls to them need checked."""
    catalog = load_catalog(config.catalog)
    models = tuple(catalog.of(names, key=key, path=config.catalog))
    accounts = {model.provider: catalog.accounts[model.provider] for model in models}
    check_abilities(models, accounts)
    if config.replay is None:
        _check_accounts(accounts, batch_accounts(config, models), environ)
    else:
        _check_replay(config.replay)
    _check_shares(models, config.dispatch.replicas)
    return models, accounts


def _checked_folder(config: RouteBatchConfig) -> str:
    """Where the run is; it can be written to, and its report has what it needs."""
    filesystem_of(config.run.folder)  # refuses one that has a scheme and nothing else
    run_folder = run_folder_of(config)
    Folder(run_folder).check()
    _check_grades(config.report.graded_outcomes)
    return run_folder


def run_folder_of(config: RouteBatchConfig) -> str:
    """Where a run is."""
    return f"{config.run.folder.rstrip('/')}/{config.run.id}"


def _artifact(config: RouteBatchConfig, run_folder: str) -> str:
    """A run that goes on keeps the router that it began with, whatever was promoted since."""
    first = RunFolder(run_folder).first_start()
    begun_with = None if first is None else first["router"]["version"]
    return router_folder(config.router.artifact, version=begun_with)


def _price_date(config: RouteBatchConfig, run_folder: str) -> date | None:
    """A run that goes on overnight keeps the prices of its first day."""
    day = config.prices.as_of
    if day is not None:
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        if day > tomorrow:
            raise ConfigError(
                f"prices.as_of is {day}, and nobody knows the prices of a day after {tomorrow}: "
                "name an earlier day, or leave it out"
            )
        return day
    first = RunFolder(run_folder).first_start()
    return None if first is None else date.fromisoformat(first["price_date"])


def _deadline(config: RouteBatchConfig, run_folder: str) -> datetime | None:
    """Of an hour of the day, the first after the run was begun, however often it is started."""
    if config.plan is None:
        return None
    first = RunFolder(run_folder).first_start()
    begun_at = datetime.now(UTC) if first is None else datetime.fromisoformat(first["started_at"])
    deadline = config.plan.deadline(begun_at)
    if deadline is not None and first is None and deadline <= begun_at:
        raise ConfigError(
            f"plan.finish_by is {deadline:%Y-%m-%d %H:%M:%S} UTC, and it is "
            f"{begun_at:%Y-%m-%d %H:%M:%S} UTC: name a later moment"
        )
    return deadline


def _check_lanes(config: RouteBatchConfig, models: Sequence[Model], prices: PriceTable) -> None:
    """Each lane that may be bought is sold by somebody, at a price of its own."""
    for lane in config.plan.lanes if config.plan is not None else ():
        sold = [model for model in models if lane in model.lanes]
        if not sold:
            raise ConfigError(
                f"plan.lanes has {lane}, in which no model of the pool is sold: take it out, or "
                "add it to `lanes` of the models in the catalog whose vendors have it"
            )
        for model in sold:
            prices.price(model.id, lane)


def _check_replay(replay: ReplayConfig) -> None:
    """What the replay server would refuse when it starts."""
    Recordings.load(Path(replay.recordings))
    parse_script(replay.script)


def _check_grades(path: str | None) -> None:
    """The report comes last: that it lacks something must not be found then."""
    if path is None:
        return
    filesystem, name = filesystem_of(path)
    remedy = "correct it, or leave it out"
    try:
        found = pq.ParquetDataset(name, filesystem=filesystem).schema
        agree(found.empty_table(), GRADED_OUTCOMES, where=path)
    except FileNotFoundError:
        raise ConfigError(f"report.graded_outcomes: {path} is not there; {remedy}") from None
    except (OSError, pa.ArrowException, SchemaError) as error:
        raise ConfigError(f"report.graded_outcomes: {path}: {error}; {remedy}") from None


def _check_default(default_model: str | None, pool: tuple[str, ...]) -> None:
    if default_model is not None and default_model not in pool:
        raise ConfigError(
            f"policy.default_model {default_model!r} is not in the pool {list(pool)}: "
            "add it, or name one of the pool"
        )


def batch_accounts(config: RouteBatchConfig, models: Sequence[Model]) -> list[str]:
    """The accounts whose models a run may buy in batches."""
    lanes = config.plan.lanes if config.plan is not None else []
    if "batch" not in lanes:
        return []
    return sorted({model.provider for model in models if "batch" in model.lanes})


def _check_accounts(
    accounts: Mapping[str, Account], in_batches: Sequence[str], environ: Mapping[str, str]
) -> None:
    """All that is missing at once: nobody wants to be told of one key a start."""
    missing = []
    for account in accounts.values():
        try:
            check_credentials(account, environ)
            if account.name in in_batches:
                check_batches(account, environ)
        except ConfigError as error:
            missing.append(str(error))
    if missing:
        raise ConfigError("\n  ".join(missing))


def _check_shares(models: Sequence[Model], replicas: int) -> None:
    """Replicas share a model's limits equally, and less than one call is no share."""
    for model in models:
        most = model.limits.max_in_flight
        if most is not None and most < replicas:
            raise ConfigError(
                f"dispatch.replicas is {replicas}, and {model.id} takes max_in_flight = {most} "
                f"calls at once, fewer than one a replica: at most {most} replicas"
            )
