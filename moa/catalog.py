"""The models that could be called, and the accounts that they are called through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Wire = Literal["openai", "anthropic", "gemini"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may use of one model per minute; `None` is unlimited."""

    rpm: float | None = None
    input_tpm: float | None = None
    output_tpm: float | None = None
    tpm: float | None = None
    """Input and output together, where a vendor counts them so."""
    max_in_flight: int | None = None


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
    """Provider id in genai-prices."""
    price_ref: str
    """Model reference in genai-prices."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Accounts by name and models by id."""

    accounts: dict[str, Account]
    models: dict[str, Model]
