"""What the endpoint is told: one TOML file, read and validated once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from moa.config import (
    EngineConfig,
    LogConfig,
    ModelSource,
    PolicyConfig,
    PricesConfig,
    ReplayConfig,
)
from moa.toml_file import Section, describe_keys, each_once, read_toml

ROUTED = "moa"
"""The model's name that asks for routing; `moa:NAME` asks for a preset."""


class HttpConfig(Section):
    """Where the endpoint listens, and what it takes."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen at")
    port: int = Field(default=8000, ge=0, le=65535, description="0 is a free one; 0 to 65,535")
    max_body_bytes: int = Field(
        default=8 << 20, ge=1024, le=1 << 30, description="Of one request; 1,024 to 1,073,741,824"
    )
    max_messages: int = Field(default=1000, ge=1, description="Of one conversation; ≥ 1")
    max_image_bytes: int = Field(
        default=4 << 20, ge=1024, description="Of one image, as the request carries it; ≥ 1,024"
    )
    max_choices: int = Field(default=4, ge=1, le=16, description="The greatest `n`; 1 to 16")
    max_listed: int = Field(
        default=256, ge=1, le=10_000, description="Queries of one /v1/route; 1 to 10,000"
    )


class AccessConfig(Section):
    """Who may ask."""

    open: bool = Field(
        default=False, description="Answer without a key; only at an address of this machine"
    )
    tenants: str | None = Field(
        default=None, description="TOML file of the tenants, with the hashes of their keys"
    )
    tenants_env: str | None = Field(
        default=None, description="Environment variable that holds that TOML, instead of a file"
    )
    spent_folder: str | None = Field(
        default=None,
        description="Where the day's spend of each tenant is kept, for when its owner is started "
        "again; a path, s3://… or gs://…; none: it is forgotten then",
    )


class ScoringConfig(Section):
    """The trained router."""

    artifact: str = Field(
        default="moa/router/embedded", description="Folder of the artifact: a path or s3://…"
    )
    replicas: int = Field(
        default=0,
        ge=0,
        description="Processes that score, beside those that answer; 0: each of those scores for "
        "itself, as suits a hashing router; ≥ 0",
    )
    num_gpus: float = Field(default=0, ge=0, description="GPUs of one such process; ≥ 0")
    max_batch: int = Field(default=64, ge=1, description="Queries scored at once; ≥ 1")
    batch_wait_s: float = Field(
        default=0.004, ge=0, description="How long a query waits for others to be scored with; ≥ 0"
    )
    max_wait_s: float = Field(
        default=5,
        gt=0,
        description="That a request waits for such a process, before the default model is asked by "
        "the rule router_out; > 0",
    )
    model: ModelSource = ModelSource()
    engine: EngineConfig = EngineConfig()


class CallsConfig(Section):
    """How vendors are called. Somebody waits for the answers."""

    max_in_flight: int = Field(
        default=256, ge=1, le=10_000, description="Calls under way per account; 1 to 10,000"
    )
    max_waiting: int = Field(
        default=256,
        ge=1,
        description="Requests that wait for one model's turn; more are refused with 429; ≥ 1",
    )
    max_wait_s: float = Field(
        default=10, gt=0, description="That a request waits for its turn at one model, in s; > 0"
    )
    first_piece_s: float = Field(
        default=60, gt=0, description="Until the first piece of a streamed answer, in s; > 0"
    )
    silence_s: float = Field(
        default=60, gt=0, description="Between two pieces of a streamed answer, in s; > 0"
    )
    total_s: float = Field(
        default=600, gt=0, le=3600, description="Of one request with its answer; > 0, ≤ 3600"
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="Calls to the last model that is left; 1 to 20"
    )
    patience_s: float = Field(
        default=15, gt=0, description="That failed calls to the last model may take, in s; > 0"
    )
    fallback: bool = Field(default=True, description="Ask the next best model when one fails")
    reserve: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the accounts' limits that jobs of the cluster leave to the endpoint; "
        "0 to below 1",
    )


class StickinessConfig(Section):
    """Whether a conversation stays with the model that began it."""

    mode: Literal["off", "cache", "always"] = Field(
        default="cache",
        description="cache: while what the vendor has cached makes up for another model's worth; "
        "always: as long as the model can; off: each turn for itself",
    )
    warm_s: float = Field(
        default=300, ge=0, description="How long a vendor keeps a prompt in its cache, in s; ≥ 0"
    )
    conversations: int = Field(default=50_000, ge=1, description="That are remembered; ≥ 1")


class QueryLogConfig(Section):
    """Opt-in: what was asked and answered, as the nightly job and the training read it."""

    folder: str | None = Field(
        default=None, description="A path, s3://… or gs://…; none: nothing is kept but feedback"
    )
    rows: int = Field(default=1000, ge=1, description="Of a file, at most; ≥ 1")
    every_s: float = Field(default=60, gt=0, description="Between two files, in s; > 0")


class FeedbackConfig(Section):
    """Where grades of completions go."""

    folder: str | None = Field(
        default=None, description="A path, s3://… or gs://…; none: feedback is refused with 404"
    )
    secret_env: str | None = Field(
        default=None,
        description="Environment variable with the secret that signs completion ids; without one "
        "it is drawn at the start, and feedback for earlier ids is refused",
    )


class ServeConfig(Section):
    """How Ray Serve runs it."""

    haproxy: bool = Field(
        default=True,
        description="On a Ray of the endpoint's own, requests go to the replicas through HAProxy "
        "and not through Serve's proxy, which costs more than all the rest; a cluster is told by "
        "RAY_SERVE_ENABLE_HA_PROXY=1 in its nodes' environment",
    )
    num_cpus: float = Field(default=1, ge=0, description="CPUs that one ingress reserves; ≥ 0")
    min_replicas: int = Field(default=1, ge=1, description="Of the ingress; ≥ 1")
    max_replicas: int = Field(default=1, ge=1, description="Of the ingress; ≥ min_replicas")
    target_ongoing: float = Field(
        default=64, gt=0, description="Requests under way per ingress that autoscaling aims at; > 0"
    )
    upscale_delay_s: float = Field(
        default=10, ge=0, description="How long there are more before there is another one; ≥ 0"
    )
    downscale_delay_s: float = Field(
        default=300, ge=0, description="How long there are fewer before there is one less; ≥ 0"
    )
    surge_percent: int = Field(
        default=100,
        ge=0,
        le=100,
        description="Replicas that an update may start before as many old ones go, in % of them; "
        "0: the old ones go first, where there is no room for more; 0 to 100",
    )
    max_ongoing: int = Field(
        default=512,
        ge=1,
        description="Requests under way in one ingress, at most; more are refused with 503; ≥ 1",
    )
    drain_s: float = Field(
        default=600,
        ge=10,
        description="That a replica has to end its streams when it goes, in s; ≥ 10",
    )
    health_every_s: float = Field(default=10, gt=0, description="Between health checks; > 0")

    @model_validator(mode="after")
    def _some(self) -> ServeConfig:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}"
            )
        return self


class EndpointConfig(Section):
    """All that `jobs/serve_router.py` is told."""

    catalog: str = Field(description="TOML file of the accounts and models that there are")
    pool: list[str] = Field(
        min_length=1, description="Catalog ids of the models to choose from; at least 1, each once"
    )
    policy: PolicyConfig
    presets: dict[str, PolicyConfig] = Field(
        default_factory=dict, description="Other policies, asked for as model 'moa:NAME'"
    )
    prices: PricesConfig = PricesConfig()
    router: ScoringConfig = ScoringConfig()
    calls: CallsConfig = CallsConfig()
    http: HttpConfig = HttpConfig()
    access: AccessConfig = AccessConfig()
    stickiness: StickinessConfig = StickinessConfig()
    query_log: QueryLogConfig = QueryLogConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    serve: ServeConfig = ServeConfig()
    max_usd_per_query: Decimal | None = Field(
        default=None,
        strict=False,
        gt=0,
        description="No model is asked whose answer is expected to cost more, in USD; > 0; by "
        "default there is no limit",
    )
    replay: ReplayConfig | None = Field(
        default=None, description="When given, nothing is called but a server on localhost"
    )
    log: LogConfig = LogConfig()

    _each_once = field_validator("pool")(each_once)

    @model_validator(mode="after")
    def _guarded(self) -> EndpointConfig:
        """No key, no answer: but on this machine, when it is said so."""
        given = (self.access.tenants is not None) + (self.access.tenants_env is not None)
        if self.access.open and given:
            raise ValueError("access.open and tenants are both given: give one of them")
        if not self.access.open and given != 1:
            raise ValueError(
                "give access.tenants (a file) or access.tenants_env (a variable), one of them; or "
                "access.open = true with http.host at an address of this machine"
            )
        if self.access.open and not is_local(self.http.host):
            raise ValueError(
                f"access.open and http.host {self.http.host!r}: without keys the endpoint listens "
                "at 127.0.0.1, ::1 or localhost only"
            )
        return self


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def load_endpoint_config(path: str | Path, overrides: Sequence[str] = ()) -> EndpointConfig:
    """Read and check the config of the endpoint.

    Raises:
        ConfigError: with every problem of the file on a line of its own.
    """
    return read_toml(EndpointConfig, path, overrides)


def describe() -> str:
    """Every key of the config as a Markdown table."""
    return describe_keys(EndpointConfig)
