"""What goes wrong, and how long things take: the replay server's script, as JSON or as objects.

    Script(sequences={"openai": [{"status": 429, "retry_after_s": 2}, "ok"]})
    Script(seed=7, latency={"median_s": 0.8, "sigma": 0.5}, faults={"status_500": 0.02})
    Script(limits={"openai": {"rpm": 6000}, "anthropic/claude-3-haiku": {"input_tpm": 50_000}})
    Script(limits={"google/gemini-1.5-pro": {"rpm": 150, "rpd": 50}}, flex_unavailable=1)
    Script(batch={"time_scale": 14_400, "fates": ["expires", "expires", "stuck"]})

Shares are drawn by seed, prompt, model and the number of the attempt, so a rerun meets the same
faults whatever the order of its calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import orjson
from pydantic import BeforeValidator, Field, JsonValue, model_validator

from moa.catalog import Wire
from moa.errors import ConfigError
from moa.replay.wire import DAY_S, Quota
from moa.toml_file import Section, check

Kind = Literal["ok", "error", "reset", "hang", "cut_json", "empty", "refusal", "length"]


class Step(Section):
    """What happens to one call."""

    kind: Kind = Field(
        default="ok",
        description="ok: answered; error: `status`; reset: the connection is reset; hang: nothing "
        "more comes; cut_json: the body ends early; empty: no text; refusal; length: cut by the "
        "output limit",
    )
    status: int = Field(default=200, ge=200, le=599, description="HTTP status; 200, or 400 to 599")
    message: str = Field(default="", description="In place of the vendor's usual words")
    code: str | None = Field(default=None, description="In place of the vendor's usual code")
    retry_after_s: float | None = Field(
        default=None, ge=0, description="Said with an error; of a day's quota, a day by default"
    )
    quota: Quota = Field(
        default="minute",
        description="What a 429 is about: the minute's rate, the day's quota, money that is spent, "
        "flex without capacity; Gemini says the last two by a 402 and a 503",
    )
    after: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="Share of the answer that comes before the error (in a stream), the reset or "
        "the hang; 0: not even headers; 0 to below 1",
    )
    latency_s: float | None = Field(
        default=None, ge=0, description="In place of the drawn latency, in seconds"
    )
    text: str | None = Field(default=None, description="In place of the recorded completion")

    @model_validator(mode="before")
    @classmethod
    def _status_is_an_error(cls, value: JsonValue) -> JsonValue:
        if isinstance(value, dict) and value.get("status", 200) != 200:
            return {"kind": "error", **value}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Step:
        if (self.kind == "error") != (self.status >= 400):
            raise ValueError("kind error goes with a status of 400 to 599, other kinds with 200")
        return self


def _named(value: JsonValue) -> JsonValue:
    return {"kind": value} if isinstance(value, str) else value


AnyStep = Annotated[Step, BeforeValidator(_named)]
"""A step, or the name of its kind."""


class Latency(Section):
    """Time to an answer: lognormal, or constant where `sigma` is 0."""

    median_s: float = Field(default=0, ge=0, le=3600, description="Median, in seconds")
    sigma: float = Field(default=0, ge=0, le=5, description="Of the logarithm; 0 is constant")
    per_output_token_s: float = Field(
        default=0,
        ge=0,
        description="Added per output token, in seconds; a stream spreads it over its events",
    )


_SHARE = Field(default=0.0, ge=0, le=1, description="Share of the calls; 0 to 1")


class Faults(Section):
    """Which share of the calls meets what. Together at most 1."""

    status_500: float = _SHARE
    status_503: float = _SHARE
    status_529: float = _SHARE
    rate_limited: float = _SHARE
    """A 429 that no limit asked for; see `burst_s`."""
    reset: float = _SHARE
    """The connection is reset before the answer."""
    reset_in_body: float = _SHARE
    hang: float = _SHARE
    cut_json: float = _SHARE
    empty: float = _SHARE
    refusal: float = _SHARE
    slow: float = _SHARE
    """`slow_s` is added; a stream spreads it over its events."""

    retry_after_s: float = Field(default=1, ge=0, description="What a drawn 429 says")
    burst_s: float = Field(
        default=0, ge=0, description="Every call to that model is refused so long after a drawn 429"
    )
    slow_s: float = Field(default=10, ge=0, description="Added to a slow answer, in seconds")

    @model_validator(mode="after")
    def _at_most_all(self) -> Faults:
        total = sum(getattr(self, name) for name in SHARES)
        if total > 1 + 1e-9:
            raise ValueError(f"the shares sum to {total:g}: at most 1")
        return self


SHARES = (
    "status_500", "status_503", "status_529", "rate_limited", "reset", "reset_in_body", "hang",
    "cut_json", "empty", "refusal", "slow",
)  # fmt: skip


class Outage(Section):
    """A time in which a provider answers nothing else."""

    provider: Wire
    from_s: float = Field(default=0, ge=0, description="Seconds since the script was set")
    to_s: float = Field(gt=0, description="Seconds since the script was set")
    step: AnyStep = Step(kind="error", status=503)

    @model_validator(mode="after")
    def _forward(self) -> Outage:
        if self.to_s <= self.from_s:
            raise ValueError(f"to_s {self.to_s:g} is not after from_s {self.from_s:g}")
        return self


class VendorLimits(Section):
    """What the vendor allows one key on one model."""

    rpm: float | None = Field(default=None, gt=0, description="Requests per minute")
    input_tpm: float | None = Field(default=None, gt=0, description="Input tokens a minute")
    output_tpm: float | None = Field(default=None, gt=0, description="Output tokens a minute")
    tpm: float | None = Field(default=None, gt=0, description="Input and output together")
    rpd: int | None = Field(
        default=None, ge=1, description="Requests a day; the day outlasts the script"
    )
    burst_s: float = Field(
        default=60, gt=0, description="Depth of the buckets: so many seconds' worth at once"
    )


BatchFate = Literal["ok", "expires", "stuck", "invalid", "queue_full"]


class Batches(Section):
    """What becomes of the batches that are submitted under this script, and of their requests.

    Seconds are the vendor's own: with a `time_scale` of 3,600 an hour of them passes in a second.
    Counts and lists are of each vendor's own batches.
    """

    time_scale: float = Field(
        default=1, ge=1, le=1e6, description="Seconds of the vendor's clock in a real one"
    )
    waits_s: float = Field(
        default=0.1, ge=0, description="From submission until it runs, or is found to be invalid"
    )
    takes_s: float = Field(
        default=0.1, ge=0, description="From there until its end; requests end evenly in between"
    )
    per_request_s: float = Field(default=0, ge=0, description="Added to that for each request")
    finalizes_s: float = Field(
        default=0, ge=0, description="From its last request's end until its results are there"
    )
    cancel_takes_s: float = Field(
        default=0, ge=0, description="Requests that end while it is being cancelled are kept"
    )
    expires_after_s: float = Field(
        default=DAY_S, gt=0, description="From submission until what has not ended by then expires"
    )
    fails_retryably: float = Field(
        default=0, ge=0, le=1, description="Share of the requests that fail by the vendor's fault"
    )
    fails_fatally: float = Field(
        default=0, ge=0, le=1, description="Share of the requests that would fail again"
    )
    fates: list[BatchFate] = Field(
        default_factory=list,
        description="Of the next batches, in order; then ok. expires: it ends when it expires; "
        "stuck: only a cancel ends it; invalid: it fails when it is looked through; queue_full: "
        "too much is waiting already",
    )
    unfinished_when_expired: float = Field(
        default=0.5, ge=0, le=1, description="Share of the requests that an expired one leaves"
    )
    finished_when_stuck: float = Field(
        default=0, ge=0, le=1, description="Share of the requests that a stuck one has answered"
    )
    queue_tokens: dict[str, int] = Field(
        default_factory=dict,
        description="Input tokens that may be in batches at once, by catalog id or API name",
    )
    lost_uploads: int = Field(
        default=0, ge=0, description="So many of the next files are kept, and nobody is told"
    )
    lost_submissions: int = Field(
        default=0, ge=0, description="So many of the next batches begin, and nobody is told"
    )

    @model_validator(mode="after")
    def _at_most_all(self) -> Batches:
        if self.fails_retryably + self.fails_fatally > 1 + 1e-9:
            raise ValueError("fails_retryably and fails_fatally are together at most 1")
        return self


class Behaviour(Section):
    """How one provider differs from the rest."""

    latency: Latency | None = None
    faults: Faults | None = None
    batch: Batches | None = None


class Script(Section):
    """All that the server does besides answering at once."""

    seed: int = 0
    latency: Latency = Latency()
    faults: Faults = Faults()
    providers: dict[Wire, Behaviour] = Field(
        default_factory=dict, description="Latency, faults and batches of one provider"
    )
    outages: list[Outage] = Field(default_factory=list)
    sequences: dict[Wire, list[AnyStep]] = Field(
        default_factory=dict,
        description="What happens to a provider's next calls, in order; then as usual",
    )
    queries: dict[str, AnyStep] = Field(
        default_factory=dict,
        description="What always happens to a query: by its id, or by `prompt_key` of its prompt",
    )
    limits: dict[str, VendorLimits] = Field(
        default_factory=dict,
        description="By catalog id, by API name, or by provider (each of its models)",
    )
    flex_unavailable: float = Field(
        default=0, ge=0, le=1, description="Share of the flex calls that find no capacity; 0 to 1"
    )
    batch: Batches = Batches()
    usage_factor: float = Field(
        default=1,
        gt=0,
        le=100,
        description="Every answer is billed so many times the tokens that it was recorded with; "
        "> 0, ≤ 100",
    )
    refused_keys: list[str] = Field(default_factory=list, description="Keys that are not valid")
    synthetic: bool | None = Field(
        default=None,
        description="Invent an answer to prompts that were not recorded; by default as started",
    )

    def latency_of(self, provider: Wire) -> Latency:
        """The provider's own, or everybody's."""
        own = self.providers.get(provider)
        return (own and own.latency) or self.latency

    def faults_of(self, provider: Wire) -> Faults:
        """The provider's own, or everybody's."""
        own = self.providers.get(provider)
        return (own and own.faults) or self.faults

    def batch_of(self, provider: Wire) -> Batches:
        """The provider's own, or everybody's."""
        own = self.providers.get(provider)
        return (own and own.batch) or self.batch


def parse_script(document: Mapping[str, object]) -> Script:
    """Check a script given as JSON, as in the config's `replay.script`.

    Raises:
        ConfigError: with every problem on a line of its own.
    """
    return check(Script, document, where="the replay script")


def parse_script_json(text: bytes) -> Script:
    """Check a script given as bytes of JSON.

    Raises:
        ConfigError: it is no JSON object, or with every problem on a line of its own.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"the replay script is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError('the replay script is no JSON object, such as {"seed": 7}')
    return parse_script(document)
