"""A job and what is known of its backlog → how long it takes, what it costs, what binds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import ceil

from moa.catalog import Lane, LimitsEntry, load_catalog
from moa.config import RouteBatchConfig, load_config
from moa.errors import ConfigError
from moa.pipeline.plan_maker import MOST_ROWS
from moa.pipeline.sampled import Bounds, by_sample
from moa.pipeline.sizing_config import SizeRunConfig
from moa.pipeline.workload import Pool, Workload, by_mix, by_run
from moa.plan_config import PlanConfig
from moa.planning.bottlenecks import binding, bounds, helps
from moa.planning.capacities import HOUR_S
from moa.planning.sizing import BESIDE_CALLS, MOST_REPLICAS, Case, Driver, Machines, with_enough
from moa.planning.totals import Totals
from moa.prices import PriceTable
from moa.reports.sizing import ModelCost, Sized, Sizing
from moa.stages import PART_BYTES, READ_ROWS

BYTES_PER_TOKEN = 4
"""Of a request, about: what long prompts make of a part."""
SCAN_BYTES, SCAN_BYTES_DEDUPE = 9, 18
"""Measured of each row; see `moa.storage.scan`."""
PLAN_BYTES_BESIDE = 12
"""Measured of each planned query, beside its expectations in single precision (`bench_planner`)."""


def size_run(config: SizeRunConfig, *, now: datetime | None = None) -> Sizing:
    """Reckon with each number of queries.

    Args:
        config: of the sizing.
        now: when the run would start; by default by the clock.

    Raises:
        ConfigError, ArtifactError: what is named cannot be read, or does not fit together.
        RunError: a sample cannot be planned within budget, limits and deadline.
    """
    job = load_config(config.job, config.job_overrides)
    pool = _pool(job, config.limits)
    seconds = _seconds(config, job.plan, now or datetime.now(UTC))
    workload = _workload(config, job, pool, seconds)
    if config.run is None:  # what batches leave is bought live, whatever the job buys
        _check_lanes(workload.lanes, job)
    made = [
        _sized(_case(config, job, pool, workload, number, seconds), pool)
        for number in _numbers(config, workload)
    ]
    case = made[0].case
    return Sizing(
        source=workload.source,
        prices_of=pool.prices.as_of.isoformat(),
        sized=made,
        pass_usd=case.machines.router_usd_per_hour / HOUR_S / case.machines.router_per_s,
        pass_tokens=_input_tokens(case.totals),
        calls=[_call(pool, number, case) for number in range(len(pool.models))],
    )


def _pool(job: RouteBatchConfig, limits: Mapping[str, LimitsEntry]) -> Pool:
    models = load_catalog(job.catalog).of(job.pool, key="pool", path=job.catalog)
    pool = Pool(tuple(models), PriceTable.build(models, as_of=job.prices.as_of))
    limited = list(pool.models)
    for name, entry in limits.items():
        number = pool.number(name, where="limits")
        limited[number] = replace(limited[number], limits=entry.limits())
    return replace(pool, models=tuple(limited))


def _numbers(config: SizeRunConfig, workload: Workload) -> Sequence[int]:
    if config.queries:
        return config.queries
    if not workload.queries:
        raise ConfigError(
            "queries: the log does not say how many rows it has (JSONL is not counted without "
            "being read): give a number, as [10_000_000]"
        )
    return [workload.queries]


def _seconds(config: SizeRunConfig, plan: PlanConfig | None, now: datetime) -> float | None:
    if config.within_hours is not None:
        return config.within_hours * HOUR_S
    deadline = None if plan is None else plan.deadline(now)
    return None if deadline is None else max(0.0, (deadline - now).total_seconds())


def _workload(
    config: SizeRunConfig, job: RouteBatchConfig, pool: Pool, seconds: float | None
) -> Workload:
    if config.mix:
        return by_mix(config, pool)
    if config.run is not None:
        return by_run(config.run, pool)
    assert config.sample_rows is not None
    room = partial(_bounds, config, job, seconds)
    return by_sample(job, pool, config.sample_rows, seconds, room)


def _bounds(
    config: SizeRunConfig,
    job: RouteBatchConfig,
    seconds: float | None,
    queries: int,
    input_tokens: float,
) -> Bounds:
    """What a plan for so many queries has, made when all are scored: the deadline without the
    driver's own work and scoring, the budget without the router.
    """
    machines, speeds = _machines(config, job, input_tokens), config.speeds
    own_s = speeds.start_s + queries * (1 / speeds.planned_per_s + 1 / speeds.reported_per_s)
    score_s = queries / (machines.router_replicas * machines.router_per_s)
    read_s = queries / (machines.task_cpus * machines.tasks_per_s)
    replicas, enough = job.dispatch.replicas, config.machines == "enough"
    left_s = None if seconds is None else seconds - own_s - max(score_s, read_s)
    router_s = machines.router_replicas * (speeds.start_s + max(score_s, read_s))
    if enough:  # as many as `with_enough` will find
        replicas, router_s = MOST_REPLICAS, queries / machines.router_per_s
        left_s = None if seconds is None else (seconds - own_s) / (1 + BESIDE_CALLS)
        if left_s is not None and left_s > 0:
            router_s += speeds.start_s * ceil(router_s / (BESIDE_CALLS * left_s))
    usd, router_usd = _budget(job), router_s / HOUR_S * machines.router_usd_per_hour
    return Bounds(
        usd=None if usd is None else max(0.0, usd - router_usd),
        seconds=None if left_s is None else max(0.0, left_s),
        in_flight=job.dispatch.max_in_flight * replicas,
    )


def _budget(job: RouteBatchConfig) -> float | None:
    usd = job.dispatch.budget_usd
    return None if usd is None else float(usd)


def _check_lanes(lanes: Sequence[Lane], job: RouteBatchConfig) -> None:
    bought = job.plan.lanes if job.plan is not None else ["live"]
    if others := sorted(set(lanes) - set(bought)):
        raise ConfigError(
            f"the mix has the lanes {', '.join(others)}, and the job buys {', '.join(bought)}: "
            "job_overrides = [\"plan.lanes=['live','batch']\"] adds some"
        )


def _case(
    config: SizeRunConfig,
    job: RouteBatchConfig,
    pool: Pool,
    workload: Workload,
    queries: int,
    seconds: float | None,
) -> Case:
    totals = workload.totals(queries)
    case = Case(
        queries=queries,
        models=pool.models,
        lanes=workload.lanes,
        totals=totals,
        plan=job.plan or PlanConfig(),
        planned=job.plan is not None,
        machines=_machines(config, job, _input_tokens(totals)),
        driver=_driver(config, job, totals),
        usd=_budget(job),
        seconds=seconds,
    )
    return with_enough(case) if config.machines == "enough" else case


def _input_tokens(totals: Totals) -> float:
    """Of a mean query."""
    return float(totals.input_tokens.sum() / max(totals.queries.sum(), 1e-12))


def _machines(config: SizeRunConfig, job: RouteBatchConfig, input_tokens: float) -> Machines:
    router, dispatch, speeds = job.router, job.dispatch, config.speeds
    return Machines(
        router_replicas=router.replicas,
        router_per_s=_router_per_s(config, job, input_tokens),
        router_usd_per_hour=float(router.usd_per_hour),
        task_cpus=config.task_cpus,
        tasks_per_s=speeds.read_per_s,
        dispatch_replicas=dispatch.replicas,
        dispatch_cpus=dispatch.num_cpus,
        calls_per_s=speeds.calls_per_s,
        max_in_flight=dispatch.max_in_flight,
        usd_per_cpu_hour=float(config.usd_per_cpu_hour),
    )


def _router_per_s(config: SizeRunConfig, job: RouteBatchConfig, input_tokens: float) -> float:
    """Raises `ConfigError` where GPUs are asked for and nothing is said of them, or the reverse."""
    gpus = job.router.num_gpus
    if (config.gpu is None) != (gpus == 0):
        given = "not given" if config.gpu is None else "given"
        raise ConfigError(
            f"[gpu] is {given}, and the job's router.num_gpus is {gpus:g}: a router on a language "
            'model has both (job_overrides = ["router.num_gpus=1"]), an embedded one neither'
        )
    if config.gpu is None:
        return config.speeds.scored_per_s
    return config.gpu.reads_per_s * gpus / max(1.0, input_tokens)


def _driver(config: SizeRunConfig, job: RouteBatchConfig, totals: Totals) -> Driver:
    models, lanes = totals.queries.shape
    speeds = config.speeds
    return Driver(
        start_s=speeds.start_s,
        plan_s=1 / speeds.planned_per_s,
        report_s=1 / speeds.reported_per_s,
        part_rows=_part_rows(job.queries.part_rows, _input_tokens(totals)),
        partition_rows=config.partition_rows,
        scan_bytes=SCAN_BYTES_DEDUPE if job.queries.dedupe else SCAN_BYTES,
        plan_bytes=4 * models * (lanes + 4) + PLAN_BYTES_BESIDE,
        most_planned=MOST_ROWS,
    )


def _part_rows(most: int, input_tokens: float) -> int:
    """A part is closed early where requests are long; rows are read `READ_ROWS` at once."""
    by_bytes = PART_BYTES / max(1.0, input_tokens * BYTES_PER_TOKEN)
    return min(most, ceil(by_bytes / READ_ROWS) * READ_ROWS)


def _sized(case: Case, pool: Pool) -> Sized:
    found = bounds(case)
    saved_usd = _saved_in_batches(case, pool)
    return Sized(case, found, binding(case, found), helps(case, found), saved_usd)


def _saved_in_batches(case: Case, pool: Pool) -> float:
    if "live" not in case.lanes:
        return 0.0
    column, saved = case.lanes.index("live"), 0.0
    for number, model in enumerate(case.models):
        queries = float(case.totals.queries[number, column])
        if queries and "batch" in model.lanes and pool.prices.has(model.id, "batch"):
            mean = _mean(case, number, column)
            saved += float(case.totals.usd[number, column]) - queries * pool.usd(
                model.id, "batch", *mean
            )
    return saved


def _mean(case: Case, number: int, column: int | slice) -> tuple[float, float]:
    """Tokens of a mean query of a model."""
    totals = case.totals
    queries = float(totals.queries[number, column].sum())
    sums = (totals.input_tokens[number, column].sum(), totals.output_tokens[number, column].sum())
    return float(sums[0]) / queries, float(sums[1]) / queries


def _call(pool: Pool, number: int, case: Case) -> ModelCost:
    """Of a model that is given nothing, with the tokens of all queries."""
    model, totals = pool.models[number], case.totals
    if totals.queries[number].sum():
        tokens = _mean(case, number, slice(None))
    else:
        queries = float(totals.queries.sum())
        tokens = (
            float(totals.input_tokens.sum()) / queries,
            float(totals.output_tokens.sum()) / queries,
        )
    in_batches = "batch" in model.lanes and pool.prices.has(model.id, "batch")
    return ModelCost(
        model.id,
        *tokens,
        live_usd=pool.usd(model.id, "live", *tokens),
        batch_usd=pool.usd(model.id, "batch", *tokens) if in_batches else None,
    )
