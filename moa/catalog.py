"""The models that could be called, and the accounts that they are called through."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Literal, get_args

import orjson
from pydantic import Field, field_validator, model_validator

from moa.errors import ConfigError
from moa.toml_file import Section, day, read_toml

Wire = Literal["openai", "anthropic", "gemini"]
Lane = Literal["live", "flex", "batch"]
LANES: tuple[Lane, ...] = get_args(Lane)
Ability = Literal[
    "image_urls", "images", "json_object", "json_schema", "logprobs", "penalties",
    "reasoning_effort", "seed", "stop", "temperature", "temperature_above_1", "tools", "top_p",
]  # fmt: skip
"""What a request can ask of a model; see `moa.request.ChatRequest.abilities`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may use of one model, per minute unless said; `None` is unlimited."""

    rpm: float | None = None
    input_tpm: float | None = None
    output_tpm: float | None = None
    tpm: float | None = None
    """Input and output together, where a vendor counts them so."""
    max_in_flight: int | None = None
    rpd: float | None = None
    """Requests a day."""
    batch_queue_tokens: float | None = None
    """Input tokens that may wait in batches that have not ended."""


@dataclass(frozen=True, slots=True)
class Account:
    """One key at one vendor, and which of the three wire formats it speaks."""

    name: str
    """The first part of the catalog ids of its models."""
    wire: Wire
    base_url: str | None = None
    """`None`: where the vendor's SDK would go, its environment variables included."""
    api_key_env: str | None = None
    """The environment variable that holds the key. Gemini: `None` is a service account."""
    project_env: str | None = None
    """Vertex: the environment variable that holds the Google Cloud project."""
    location: str | None = None
    """Vertex: the region."""
    batch_folder: str | None = None
    """Vertex: where its batches' files go, `gs://BUCKET/FOLDER`."""


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens, for calls whose prompt is longer than `above_input_tokens`."""

    input: Decimal
    output: Decimal
    """Reasoning is billed as output."""
    cached_input: Decimal
    """Prompt tokens that the vendor read from its cache."""
    cache_write: Decimal
    """Prompt tokens that the vendor wrote to its cache."""
    above_input_tokens: int = -1


@dataclass(frozen=True, slots=True)
class AgreedPrice:
    """What a lane of a model costs by the catalog, whatever a price list says."""

    lane: Lane
    rates: tuple[Rates, ...]
    """Ascending in `above_input_tokens`; the last one that a prompt exceeds holds for all of it."""
    source: str
    """Where the price can be looked up: an address, a contract."""
    valid_from: date | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalog."""

    id: str
    """`account/name`, for instance `anthropic/claude-opus-5-5`."""
    provider: str
    """The account's name."""
    api_name: str
    """What the vendor calls it on the wire."""
    context_window: int
    """Tokens of prompt and output together."""
    max_output_tokens: int
    abilities: frozenset[str]
    """See `moa.request.ChatRequest.abilities`."""
    limits: Limits
    price_provider: str
    """Provider id in genai-prices; empty when only `prices` count."""
    price_ref: str
    """Model reference in genai-prices."""
    prices: tuple[AgreedPrice, ...] = ()
    """In place of the price list, for the lanes that are in it."""
    lanes: tuple[Lane, ...] = ("live",)
    """How its calls can be bought; live is always one."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Accounts by name and models by id."""

    accounts: dict[str, Account]
    models: dict[str, Model]
    version: str = ""
    """Hash of all of it, 12 hex digits."""

    def of(self, names: Sequence[str], *, key: str, path: str) -> list[Model]:
        """Models by their ids, in that order.

        Args:
            names: catalog ids.
            key: of the config, that they were named under.
            path: of the catalog's file.

        Raises:
            ConfigError: the catalog has not one of them; with the nearest that it has.
        """
        for name in names:
            if name not in self.models:
                near = difflib.get_close_matches(name, self.models, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"{key}: {path} has no model {name!r}.{hint} It has {sorted(self.models)}"
                )
        return [self.models[name] for name in names]


_VARIABLE = r"^[A-Z_][A-Z0-9_]*$"
_DEAREST = 1_000_000
"""USD per million tokens: whoever writes more has mistaken the unit."""


class _AccountEntry(Section):
    wire: Wire = Field(description="openai (any compatible server too), anthropic or gemini")
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]\S*$",
        description="Where the API is: http://HOST… or https://HOST…",
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=_VARIABLE,
        description="Name of the environment variable that holds the key, in capitals; never "
        "the key",
    )
    project_env: str | None = Field(
        default=None,
        pattern=_VARIABLE,
        description="Vertex: name of the environment variable that holds the project",
    )
    location: str | None = Field(default=None, description="Vertex: the region, or global")
    batch_folder: str | None = Field(
        default=None,
        pattern=r"^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/\S*)?$",
        description="Vertex: where its batches' files go, gs://BUCKET/FOLDER",
    )


class LimitsEntry(Section):
    """What an account may use of one model, as TOML has it."""

    rpm: float | None = Field(default=None, gt=0, description="Requests per minute; > 0")
    input_tpm: float | None = Field(default=None, gt=0, description="Input tokens a minute; > 0")
    output_tpm: float | None = Field(default=None, gt=0, description="Output tokens a minute; > 0")
    tpm: float | None = Field(
        default=None, gt=0, description="Input and output tokens together, a minute; > 0"
    )
    max_in_flight: int | None = Field(default=None, ge=1, description="Calls at once; ≥ 1")
    rpd: float | None = Field(default=None, gt=0, description="Requests a day; > 0")
    batch_queue_tokens: float | None = Field(
        default=None, gt=0, description="Input tokens in batches that have not ended; > 0"
    )

    def limits(self) -> Limits:
        """As the rest of the project knows it."""
        return Limits(**self.model_dump())


class _RatesEntry(Section):
    input_usd_per_mtok: Decimal = Field(
        strict=False, ge=0, le=_DEAREST, description="USD per million input tokens; 0 to 1,000,000"
    )
    output_usd_per_mtok: Decimal = Field(
        strict=False, ge=0, le=_DEAREST, description="USD per million output tokens; 0 to 1,000,000"
    )
    cached_input_usd_per_mtok: Decimal | None = Field(
        default=None,
        strict=False,
        ge=0,
        le=_DEAREST,
        description="By default as input; 0 to 1,000,000",
    )
    cache_write_usd_per_mtok: Decimal | None = Field(
        default=None,
        strict=False,
        ge=0,
        le=_DEAREST,
        description="By default as input; 0 to 1,000,000",
    )

    def rates(self, above_input_tokens: int = -1) -> Rates:
        """As the rest of the project knows it."""
        cached, written = self.cached_input_usd_per_mtok, self.cache_write_usd_per_mtok
        return Rates(
            input=self.input_usd_per_mtok,
            output=self.output_usd_per_mtok,
            cached_input=self.input_usd_per_mtok if cached is None else cached,
            cache_write=self.input_usd_per_mtok if written is None else written,
            above_input_tokens=above_input_tokens,
        )


class _LongContextEntry(_RatesEntry):
    above_input_tokens: int = Field(
        ge=1, description="A longer prompt is billed like this, all of it; ≥ 1"
    )


class _PriceEntry(_RatesEntry):
    long_context: list[_LongContextEntry] = Field(
        default_factory=list, description="Other rates for longer prompts"
    )
    source: str = Field(min_length=1, description="Where this price stands: an address, a contract")
    valid_from: date | None = Field(default=None, description="Since when, as YYYY-MM-DD")

    _day = field_validator("valid_from", mode="before")(day)

    @field_validator("long_context")
    @classmethod
    def _each_once(cls, tiers: list[_LongContextEntry]) -> list[_LongContextEntry]:
        starts = [tier.above_input_tokens for tier in tiers]
        twice = sorted({start for start in starts if starts.count(start) > 1})
        if twice:
            raise ValueError(f"two rates above {twice[0]:,} input tokens: leave one")
        return tiers

    def price(self, lane: Lane) -> AgreedPrice:
        """As the rest of the project knows it."""
        longer = sorted(self.long_context, key=lambda entry: entry.above_input_tokens)
        tiers = (entry.rates(entry.above_input_tokens) for entry in longer)
        return AgreedPrice(lane, (self.rates(), *tiers), self.source, self.valid_from)


class _ModelEntry(Section):
    api_name: str = Field(min_length=1, description="What the vendor calls it")
    context_window: int = Field(ge=1, description="Tokens of prompt and output together; ≥ 1")
    max_output_tokens: int = Field(ge=1, description="Most that it writes in one answer; ≥ 1")
    abilities: list[Ability] = Field(description="What a request may ask of it")
    lanes: list[Lane] = Field(
        default=["live"],
        description="How the vendor sells its answers: live, and flex or batch where it does; a "
        "plan buys the others only with `plan.lanes`",
    )
    limits: LimitsEntry = LimitsEntry()
    price_provider: str | None = Field(default=None, description="Provider id in genai-prices")
    price_ref: str | None = Field(
        default=None, description="Model reference in genai-prices; by default api_name"
    )
    prices: dict[Lane, _PriceEntry] = Field(
        default_factory=dict, description="Agreed prices by lane (live, flex, batch)"
    )

    @model_validator(mode="after")
    def _fits_its_window(self) -> _ModelEntry:
        if self.max_output_tokens > self.context_window:
            raise ValueError(
                f"max_output_tokens {self.max_output_tokens:,} is more than context_window "
                f"{self.context_window:,}, which holds prompt and output: correct one of them"
            )
        return self

    @field_validator("lanes")
    @classmethod
    def _live_and_others(cls, lanes: list[Lane]) -> list[Lane]:
        if "live" not in lanes or len(set(lanes)) < len(lanes):
            raise ValueError("should name each lane once, and live among them")
        return lanes

    @model_validator(mode="after")
    def _priced(self) -> _ModelEntry:
        if self.price_provider is None and "live" not in self.prices:
            raise ValueError(
                "no price: give price_provider (and price_ref) to look it up in genai-prices, or "
                "a table prices.live with input_usd_per_mtok, output_usd_per_mtok and source"
            )
        return self

    def model(self, name: str) -> Model:
        """As the rest of the project knows it."""
        return Model(
            id=name,
            provider=name.partition("/")[0],
            api_name=self.api_name,
            context_window=self.context_window,
            max_output_tokens=self.max_output_tokens,
            abilities=frozenset(self.abilities),
            limits=self.limits.limits(),
            price_provider=self.price_provider or "",
            price_ref=self.price_ref or self.api_name,
            prices=tuple(entry.price(lane) for lane, entry in self.prices.items()),
            lanes=tuple(self.lanes),
        )


class _CatalogFile(Section):
    accounts: dict[str, _AccountEntry] = Field(
        min_length=1, description="Keys at vendors, by a name of your own"
    )
    models: dict[str, _ModelEntry] = Field(min_length=1, description="By 'account/name'")


def load_catalog(path: str | Path) -> Catalog:
    """Read a catalog from TOML: `[accounts.NAME]` and `[models."account/name"]`.

    Raises:
        ConfigError: with every problem of the file on a line of its own.
    """
    file = read_toml(_CatalogFile, path)
    wrong = [line for name in file.accounts if (line := _bad_account(name))]
    wrong += [line for name in file.models if (line := _misnamed(name, file.accounts))]
    if wrong:
        raise ConfigError("\n  ".join([f"{path}: {len(wrong)} bad names", *wrong]))
    document = orjson.dumps(file.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return Catalog(
        accounts={name: Account(name, **a.model_dump()) for name, a in file.accounts.items()},
        models={name: entry.model(name) for name, entry in file.models.items()},
        version=hashlib.sha256(document).hexdigest()[:12],
    )


def _bad_account(name: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and name != "none":
        return None
    return (
        f"accounts.{name}: files of a run are named after it, so it has 1 to 64 letters, digits, "
        "'_' or '-', and is not 'none'"
    )


def _misnamed(name: str, accounts: dict[str, _AccountEntry]) -> str | None:
    account, _, rest = name.partition("/")
    if not account or not rest:
        return (
            f"models.{name}: write it as account/name, with one of the accounts {sorted(accounts)}"
        )
    if account not in accounts:
        return (
            f"models.{name}: there is no account {account!r}; add [accounts.{account}] or use one "
            f"of {sorted(accounts)}"
        )
    return None
