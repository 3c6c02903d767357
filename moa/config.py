"""What the nightly job is told: one TOML file, read and validated once.

Money is USD and durations are seconds. Relative paths start at the current directory. Keys are
named here (`catalog.toml` says in which environment variable each is), never held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field, JsonValue, field_validator, model_validator

from moa.dispatch_config import DispatchConfig
from moa.plan_config import PlanConfig
from moa.toml_file import Section, day, describe_keys, each_once, read_toml


class RunConfig(Section):
    """Which run this is, and where it lives."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="Name of the run: 1 to 128 letters, digits, '.', '_', '-'; started again "
        "under the same id, a run continues",
    )
    folder: str = Field(
        min_length=1,
        description="Folder of all runs: a path, s3://… or gs://…; the run is FOLDER/ID",
    )
    seed: int = Field(default=0, ge=0, description="Of all that is drawn at random; ≥ 0")


class QueryLogConfig(Section):
    """Where the backlog is, and how it names things."""

    path: str | list[str] = Field(
        description="File, folder or glob (`*` inside a folder, `**` across folders), or a list of "
        "them: local, s3://… or gs://…"
    )
    format: Literal["parquet", "openai_batch"] | None = Field(
        default=None, description="Of the files; by default known by their extension"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Our column name → the log's name, where they differ"
    )
    dedupe: bool = Field(
        default=False, description="Answer and pay equal requests under different ids once"
    )
    part_rows: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Rows that are scored, decided and handed to dispatch together; 1 to 1,000,000",
    )

    @field_validator("path")
    @classmethod
    def _somewhere(cls, path: str | list[str]) -> str | list[str]:
        if not path or not all(one.strip() for one in ([path] if isinstance(path, str) else path)):
            raise ValueError("an empty path names no file: give one, or leave it out of the list")
        return path


class PricesConfig(Section):
    """Which day's prices the decisions and the bill use."""

    as_of: date | None = Field(
        default=None,
        description="Day whose list prices count, as YYYY-MM-DD, tomorrow at the latest; by "
        "default the day (UTC) on which the run first starts, kept in its folder",
    )

    _day = field_validator("as_of", mode="before")(day)


class ModelSource(Section):
    """Where the files of a language model are looked for. The artifact has their hashes."""

    folder: str | None = Field(
        default=None,
        description="The model's folder: a path, s3://… or gs://…; by default the one of the "
        "model's name in the artifact's folder, then a local one of that name, then the Hugging "
        "Face cache",
    )
    cache: str = Field(
        default="~/.cache/moa-router/models",
        min_length=1,
        description="Local folder that models are copied to from buckets, once",
    )
    download: bool = Field(
        default=False, description="Fetch a model that is nowhere else from the Hugging Face hub"
    )


class EngineConfig(Section):
    """How vLLM runs a language model: speed and memory, no meaning."""

    tensor_parallel_size: int = Field(
        default=1, ge=1, le=64, description="GPUs that share the weights of one replica; 1 to 64"
    )
    gpu_memory_utilization: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of a GPU's memory that the engine takes; > 0, ≤ 1",
    )
    kv_cache_memory_bytes: int | None = Field(
        default=None,
        ge=1 << 20,
        description="Memory for keys and values, in bytes; ≥ 1,048,576; by default what "
        "gpu_memory_utilization leaves, and on a CPU 512 MiB",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Tokens that one step computes; ≥ 16; by default vLLM's choice",
    )
    enforce_eager: bool | None = Field(
        default=None,
        description="Do not compile the model: slower steps, a faster start; by default true on a "
        "CPU and false on a GPU",
    )
    enable_prefix_caching: bool = Field(
        default=True,
        description="Compute the template's beginning once, where model and pooling allow it",
    )


class RouterConfig(Section):
    """The trained router, and the machines that it runs on."""

    artifact: str = Field(
        default="moa/router/embedded",
        description="Folder of the artifact, a path or s3://…; or of promotions "
        "(jobs/promote_router.py), of which a run takes the last when it begins, and keeps it",
    )
    replicas: int = Field(default=1, ge=1, description="Actors that score, each with a router; ≥ 1")
    num_gpus: float = Field(
        default=0, ge=0, description="GPUs of one replica; below 1 they share one; ≥ 0"
    )
    usd_per_hour: Decimal = Field(
        strict=False,
        ge=0,
        description="What the machine of one replica costs, in USD per hour; the report takes it "
        "off the saving; ≥ 0, and 0 must be written",
    )
    shadow: str | None = Field(
        default=None,
        description="Folder of another router's artifact, a path or s3://…: once all queries have "
        "their outcomes it scores and decides, too, and the report compares; nobody acts on it",
    )
    model: ModelSource = ModelSource()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _a_gpu_each(self) -> RouterConfig:
        size = self.engine.tensor_parallel_size
        if size > 1 and self.num_gpus != size:
            raise ValueError(
                f"engine.tensor_parallel_size is {size} and num_gpus {self.num_gpus:g}: one "
                "replica needs as many GPUs as share its weights"
            )
        # vLLM takes its share of the whole GPU, whoever else is there.
        share = self.engine.gpu_memory_utilization
        if 0 < self.num_gpus < 1 and share > self.num_gpus:
            raise ValueError(
                f"num_gpus is {self.num_gpus:g}, so that replicas share a GPU, and "
                f"engine.gpu_memory_utilization {share:g}: one replica may take at most "
                f"{self.num_gpus:g} of its memory"
            )
        return self


class PolicyConfig(Section):
    """Which model a query goes to, given what to expect of each."""

    willingness_to_pay: Decimal | None = Field(
        default=None,
        strict=False,
        ge=0,
        description="USD per unit of grade: what a certainly right instead of a certainly wrong "
        "answer is worth; 0 picks the cheapest; ≥ 0. Either this or quality_floor",
    )
    quality_floor: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least expected grade, to be met at least cost; 0 to 1. Either this or "
        "willingness_to_pay",
    )
    max_novelty: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Queries less like the training data than this go to default_model; 0 to 1, "
        "and 1 never abstains",
    )
    default_model: str | None = Field(
        default=None,
        description="Catalog id for queries that are too novel to judge; by default the pool's "
        "best single model on the router's training data",
    )

    @model_validator(mode="after")
    def _one_criterion(self) -> PolicyConfig:
        if (self.willingness_to_pay is None) == (self.quality_floor is None):
            given = "neither is" if self.willingness_to_pay is None else "both are"
            raise ValueError(
                f"{given} given of willingness_to_pay (USD per unit of grade, ≥ 0) and "
                "quality_floor (a grade, 0 to 1): give exactly one"
            )
        return self


class ExploreConfig(Section):
    """Some queries go to a model that is drawn, so that logs do not only tell of the router's own
    habits. A bound on the whole would depend on which part is decided first; one a query does not.
    """

    share: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="Of the queries that are explored: whichever can take one may be drawn for it, "
        "each as likely; > 0, ≤ 1",
    )
    max_usd_per_query: Decimal | None = Field(
        default=None,
        strict=False,
        gt=0,
        description="No model is drawn that is expected to cost more for the query, in USD; > 0; "
        "by default dispatch.max_usd_per_query",
    )


class ReportConfig(Section):
    """What the cost report shows beside the bill."""

    title: str | None = Field(default=None, description="Of the page; by default the run's id")
    graded_outcomes: str | None = Field(
        default=None,
        description="Parquet of GRADED_OUTCOMES: known grades of this backlog, to say what each "
        "single model would have scored; or TABLE/graded_outcomes.parquet of an outcome table, for "
        "those of this run; a path or s3://…",
    )


class ReplayConfig(Section):
    """Calls go to a server on localhost that answers from recordings, instead of to the vendors."""

    recordings: str = Field(description="Folder of the recordings")
    synthetic: bool = Field(
        default=False, description="Answer prompts that were never recorded, too, with made-up text"
    )
    script: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Latency, faults and limits of the server; see moa/replay/script.py",
    )


class LogConfig(Section):
    """How events are written."""

    style: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines anywhere else"
    )


class RunLogConfig(LogConfig):
    """How events are written, and where numbers are."""

    metrics_port: int | None = Field(
        default=None,
        ge=1024,
        le=65_535,
        description="Of the metrics page, of a Ray of the job's own; a cluster's nodes have theirs",
    )
    metrics_linger_s: float = Field(
        default=0,
        ge=0,
        le=600,
        description="How long that Ray stays when all is answered, for the last numbers to be "
        "fetched; Ray takes up to 10 s to show them; seconds",
    )


class RouteBatchConfig(Section):
    """All that `jobs/route_batch.py` is told."""

    catalog: str = Field(description="TOML file of the accounts and models that there are")
    pool: list[str] = Field(
        min_length=1, description="Catalog ids of the models to choose from; at least 1, each once"
    )
    run: RunConfig
    queries: QueryLogConfig
    prices: PricesConfig = PricesConfig()
    router: RouterConfig
    policy: PolicyConfig
    explore: ExploreConfig | None = Field(
        default=None, description="When given, some queries go to a model that is drawn at random"
    )
    plan: PlanConfig | None = Field(
        default=None,
        description="When given, all queries are scored and planned before the first is sent",
    )
    dispatch: DispatchConfig = DispatchConfig()
    report: ReportConfig = ReportConfig()
    replay: ReplayConfig | None = Field(
        default=None, description="When given, nothing is called but a server on localhost"
    )
    log: RunLogConfig = RunLogConfig()

    _each_once = field_validator("pool")(each_once)

    @model_validator(mode="after")
    def _shares_of_the_pool(self) -> RouteBatchConfig:
        strangers = sorted(set(self.plan.shares if self.plan else ()) - set(self.pool))
        if strangers:
            raise ValueError(
                f"plan.shares names {', '.join(strangers)}, not in the pool {self.pool}: add it "
                "there, or leave it out here"
            )
        return self


NOT_HASHED: dict[str, Any] = {
    "run": {"id", "folder"},
    "router": {"replicas", "num_gpus", "usd_per_hour", "model", "engine", "shadow"},
    "dispatch": {
        "replicas", "num_cpus", "max_in_flight", "total_timeout_s", "max_attempts",
        "give_up_after_s", "waiting_usd_per_hour", "unknown_calls", "max_usd_per_query",
        "budget_usd",
    },
    "plan": True,
    "replay": {"script"},
    "report": True,
    "log": True,
}  # fmt: skip
"""What may change while a run goes on: its place, speed, patience, budget, plan and looks, and how
simulated vendors fare. The rest says which model is asked what, and would make two runs of one."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RouteBatchConfig:
    """Read and check the config of the nightly job.

    Args:
        path: a TOML file.
        overrides: `section.key=value`, as given to `--set`.

    Raises:
        ConfigError: with every problem of the file on a line of its own.
    """
    return read_toml(RouteBatchConfig, path, overrides)


def resolved(config: BaseModel) -> dict[str, Any]:
    """Every key with its value, defaults included, as JSON holds it."""
    return config.model_dump(mode="json")


def config_hash(config: RouteBatchConfig) -> str:
    """SHA-256 of all that decides what is asked of whom, 64 hex digits; see `NOT_HASHED`.

    `prices.as_of` counts as it is written: a run that leaves it out keeps its hash overnight.
    What the named files hold is not looked at: catalog, router and prices have own versions.
    """
    decisive = config.model_dump(mode="json", exclude=NOT_HASHED)
    return hashlib.sha256(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS)).hexdigest()


def describe() -> str:
    """Every key of the config as a Markdown table."""
    return describe_keys(RouteBatchConfig)
