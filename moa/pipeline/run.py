"""The job from its config to its report: check, begin, route, report, finish."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
import pyarrow.compute as pc
import ray
import structlog

from moa.cluster.address import LOCAL, ray_address
from moa.cluster.joining import cluster_cpus, cluster_gpus, cluster_nodes, join_ray
from moa.cluster.ray_meters import RayRegistry
from moa.config import RouteBatchConfig, config_hash, resolved
from moa.errors import ConfigError, Interrupted, RunError
from moa.pipeline.details import Progress
from moa.pipeline.failures import told_plainly
from moa.pipeline.job import Job, check_job
from moa.pipeline.nightly import plan_backlog, route_backlog
from moa.pipeline.progress import Events, LiveLine
from moa.pipeline.run_meters import RunMeters
from moa.pipeline.shadow import shadow_backlog, shadow_problem
from moa.pipeline.stop import Stop, held
from moa.replay.process import replay_server
from moa.reports.plan_page import plan_page, plan_text
from moa.reports.run_report import Written, write_report
from moa.storage.run_folder import RunFolder

LOCAL_OBJECT_STORE_BYTES = 1 << 30
"""Of a Ray that the job starts for itself: parts are small and few are under way."""

log = structlog.get_logger()


class Finished(NamedTuple):
    """What a finished run has to show."""

    summary: list[str]
    """A few lines for a terminal."""
    page: str
    """Where the report's HTML page is."""
    earlier: bool
    """It had finished before, and nothing was done."""


def run_job(
    config: RouteBatchConfig, *, environ: Mapping[str, str], approve_usd: Decimal | None = None
) -> Finished:
    """Do what the config says, or go on with it.

    Args:
        config: of the job.
        environ: with the keys.
        approve_usd: what may be spent on calls, and its plan may be expected to cost, in place of
            `plan.approve_usd`.

    Raises:
        ConfigError, ArtifactError: something that the config names is missing or wrong.
        RunError: another process works on this run, another config began it, or its folder, its
            query log or its cluster failed.
        KeyRefused: a vendor refused an account's first call.
        Interrupted: SIGINT or SIGTERM came.
    """
    job = check_job(config, environ=environ)
    for warning in job.prices.warnings:
        log.warning("prices.doubtful", why=warning)
    for problem in shadow_problem(job):
        log.warning("shadow.will_fail", why=problem)
    if job.left_out:
        log.warning("queries.left_out", files=len(job.left_out), examples=job.left_out[:3])
    run = RunFolder(job.run_folder)
    with told_plainly(), Stop() as stop, held(job.run_folder, stop):
        run.begin(job.facts(), identity=job.identity())
        if run.manifest() is not None:
            return _finished_before(run)
        with vendors(job) as standing_in, cluster(job):
            approved_usd = approve_usd if approve_usd is not None else _approved_usd(config)
            with telling(job, stop) as tell:
                route_backlog(standing_in, tell, stop, approved_usd=approved_usd)
            shadow_backlog(job, stop)
        return _finish(run, config)


def plan_job(config: RouteBatchConfig, *, environ: Mapping[str, str]) -> Finished:
    """Score the backlog and plan it; nobody is called. Started without that, the run goes on from
    there.

    Raises:
        ConfigError, ArtifactError, RunError, Interrupted: as `run_job`; a `RunError` too when there
            is no plan, with what would be enough.
    """
    if config.plan is None:
        raise ConfigError(
            "--plan-only plans what [plan] of the config asks for, and there is none: add it, or "
            "give --set plan.lanes=\"['live']\""
        )
    job = check_job(config, environ=environ)
    run = RunFolder(job.run_folder)
    with told_plainly(), Stop() as stop, held(job.run_folder, stop):
        run.begin(job.facts(), identity=job.identity())
        if run.manifest() is not None:
            return _finished_before(run)
        with cluster(job):
            plan = plan_backlog(job, stop)
        page = run.write_report("plan.html", plan_page(plan).encode())
        return Finished(plan_text(plan), page, earlier=False)


def _approved_usd(config: RouteBatchConfig) -> Decimal | None:
    return None if config.plan is None else config.plan.approve_usd


def _finished_before(run: RunFolder) -> Finished:
    """As the report was when the run, or its latest redrive, ended."""
    manifests = [one.manifest() for one in (run, *run.redrives())]
    latest = [one for one in manifests if one is not None][-1]
    return Finished(latest["summary"], latest["report"], earlier=True)


def dry_run(config: RouteBatchConfig, *, environ: Mapping[str, str]) -> str:
    """Check all that can be checked without a call, and say what would be done.

    Raises:
        ConfigError, ArtifactError: as `run_job`.
    """
    job = check_job(config, environ=environ)
    prices = [job.prices.price(model.id, "live").rates[0] for model in job.models]
    rows = [partition.rows for partition in job.partitions if partition.rows is not None]
    document = orjson.dumps(resolved(config), option=orjson.OPT_INDENT_2).decode()
    return "\n".join(
        [
            document,
            f"config hash   {config_hash(config)}",
            f"router        {job.router_version}, best single model {job.best_constant}: "
            f"{job.best_constant_why}",
            f"prices        of {job.prices.as_of}, version {job.prices.version}",
            *(
                f"  {model.id}: ${rates.input.normalize():f} in, ${rates.output.normalize():f} out "
                "per million tokens"
                for model, rates in zip(job.models, prices, strict=True)
            ),
            *(f"  warning: {warning}" for warning in (*job.warnings, *shadow_problem(job))),
            f"accounts      {', '.join(job.accounts)}: "
            + ("not needed, calls are replayed" if config.replay else "credentials found"),
            f"backlog       {len(job.partitions):,} partitions, "
            + (f"{sum(rows):,} rows" if len(rows) == len(job.partitions) else "rows not counted"),
            *_told_of_plan(job),
            f"run folder    {job.run_folder}",
            "Everything is in order; nothing was called and nothing written.",
        ]
    )


def _told_of_plan(job: Job) -> list[str]:
    if job.config.plan is None:
        return []
    until = "" if job.deadline is None else f", until {job.deadline:%Y-%m-%d %H:%M:%S} UTC"
    return [f"plan          lanes {', '.join(job.config.plan.lanes)}{until}; --plan-only makes it"]


@contextmanager
def telling(job: Job, stop: Stop) -> Iterator[Callable[[Progress], None]]:
    """Whom a run tells where it stands, once Ray is up: who waits for it, and who watches it."""
    stop.listen()  # Ray has taken SIGTERM for itself
    told = LiveLine(sys.stderr) if _on_terminal(job.config) else Events()
    meters = RunMeters(RayRegistry(), job.config.run.id, job.models, job.deadline)

    def tell(progress: Progress) -> None:
        told(progress)
        meters(progress)

    how = "failed"
    try:
        yield tell
        how = "routed"
    except Interrupted:
        how = "interrupted"
        raise
    finally:
        told.end()
        meters.end(how)
        if ray_address() == LOCAL:  # the page of metrics ends with it
            time.sleep(job.config.log.metrics_linger_s)


def _on_terminal(config: RouteBatchConfig) -> bool:
    style = config.log.style
    return style == "console" or (style == "auto" and sys.stderr.isatty())


@contextmanager
def vendors(job: Job) -> Iterator[Job]:
    """The job with a server on localhost in place of its accounts, where the config says so."""
    replay = job.config.replay
    if replay is None:
        yield job
        return
    with replay_server(
        script=replay.script, recordings=replay.recordings, synthetic=replay.synthetic
    ) as server:
        yield replace(
            job,
            base_urls={
                name: server.base_url(account.wire) for name, account in job.accounts.items()
            },
        )


@contextmanager
def cluster(job: Job, *, scores: bool = True) -> Iterator[None]:
    """The cluster that `RAY_ADDRESS` names, as under `ray job submit`, or one of our own.

    Args:
        job: checked.
        scores: whether the router is to run there.
    """
    address = ray_address()
    if address == LOCAL:
        with local_ray(job, scores=scores):
            yield
        return
    join_ray(address)
    try:
        cpus = cluster_cpus()
        if cpus <= (need := _actors_need(job, scores)):
            log.warning("cluster.small", cpus=cpus, actors_need=need, tasks_need=1)
        if cluster_nodes() > 1 and "://" not in job.run_folder:
            log.warning("run_folder.local", folder=job.run_folder, remedy="must be shared by nodes")
        yield
    finally:
        ray.shutdown()


@contextmanager
def local_ray(job: Job, *, scores: bool = True) -> Iterator[None]:
    """A Ray of its own, with room for the job's actors and for two tasks beside them.

    Raises:
        ConfigError: the machine has fewer GPUs than the router's replicas need.
    """
    # Ray 2.60 logs an error on the terminal for every pool of actors of Ray Data, about nothing.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    join_ray(
        LOCAL,
        num_cpus=max(os.cpu_count() or 1, _actors_need(job, scores) + 2),
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        log_to_driver=False,
        _metrics_export_port=job.config.log.metrics_port,
    )
    try:
        if scores:
            _check_gpus(job)
        yield
    finally:
        ray.shutdown()


def _check_gpus(job: Job) -> None:
    """A machine does not grow: what asks for more than it has would wait for ever."""
    router = job.config.router
    if (need := router.replicas * router.num_gpus) > cluster_gpus():
        raise ConfigError(
            f"router.replicas times router.num_gpus is {need:g}, and this machine has "
            f"{cluster_gpus():g} GPUs: lower them, or name a cluster by RAY_ADDRESS"
        )


def _actors_need(job: Job, scores: bool) -> int:
    dispatch = job.config.dispatch
    router = job.config.router.replicas if scores else 0
    return router + math.ceil(dispatch.replicas * dispatch.num_cpus)


def _finish(run: RunFolder, config: RouteBatchConfig) -> Finished:
    """Count the outcomes, write the report, then the manifest."""
    counts, cost_usd = count_outcomes(run)
    written = write_report(run.url, config)
    run.finish(manifest_of(counts, cost_usd, written))
    return Finished(written.summary, written.page, earlier=False)


def manifest_of(counts: Mapping[str, int], cost_usd: Decimal, written: Written) -> dict[str, Any]:
    """What a manifest says, of a run or of a redrive, besides its files."""
    return {
        "finished_at": datetime.now(UTC).isoformat(),
        "outcomes": counts,
        "cost_usd": str(cost_usd),
        "summary": written.summary,
        "report": written.page,
    }


def count_outcomes(run: RunFolder) -> tuple[dict[str, int], Decimal]:
    """Outcomes by status, and the bill.

    Raises:
        RunError: there are more or fewer outcomes than queries, which must not happen.
    """
    counts: dict[str, int] = {}
    cost_usd = Decimal(0)
    asked = 0
    for table in run.tables("outcomes")():
        for one in pc.value_counts(table.column("status")).to_pylist():
            counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
        cost_usd += pc.sum(table.column("cost_usd")).as_py() or 0
        asked += table.column("same_as").null_count
    if asked != run.scanned_queries():
        raise RunError(
            f"{run.url}: {asked:,} outcomes for {run.scanned_queries():,} queries. This is a bug; "
            "nothing is lost: keep the folder, and report it"
        )
    return counts, cost_usd
