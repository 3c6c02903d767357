"""Accounts of the catalog → providers that can be called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from moa.catalog import Account, Model, Wire
from moa.errors import ConfigError
from moa.providers import (
    anthropic,
    anthropic_batch,
    anthropic_request,
    gemini,
    gemini_batch,
    gemini_request,
    openai,
    openai_batch,
    openai_request,
    vertex_batch,
)
from moa.providers.batch import BatchLimits, BatchProvider
from moa.providers.provider import Provider


class _Open(Protocol):
    def __call__(
        self, account: Account, *, environ: Mapping[str, str], base_url: str | None
    ) -> Provider: ...


_OPEN: dict[Wire, _Open] = {
    "openai": openai.open_openai,
    "anthropic": anthropic.open_anthropic,
    "gemini": gemini.open_gemini,
}

_CHECK: dict[Wire, Callable[[Account, Mapping[str, str]], None]] = {
    "openai": openai.check,
    "anthropic": anthropic.check,
    "gemini": gemini.check,
}

ABILITIES: dict[Wire, frozenset[str]] = {
    "openai": openai_request.ABILITIES,
    "anthropic": anthropic_request.ABILITIES,
    "gemini": gemini_request.ABILITIES,
}
"""The most that a model behind a wire can be said to do; see `ChatRequest.abilities`."""


def check_abilities(models: Sequence[Model], accounts: Mapping[str, Account]) -> None:
    """A catalog may say less of a model than its wire can express, never more.

    Raises:
        ConfigError: it says more.
    """
    for model in models:
        wire = accounts[model.provider].wire
        beyond = sorted(model.abilities - ABILITIES[wire])
        if beyond:
            raise ConfigError(
                f"{model.id}: the catalog says that it can do {', '.join(beyond)}, which calls "
                f"over the {wire} wire cannot ask for; it has "
                f"{', '.join(sorted(ABILITIES[wire]))}: take the rest out of its abilities"
            )


def open_provider(
    account: Account, *, environ: Mapping[str, str], base_url: str | None = None
) -> Provider:
    """A provider for `account`; it imports its vendor's SDK, which takes seconds once a process.

    Args:
        account: of the catalog.
        environ: where keys, projects and the SDKs' own variables are read from.
        base_url: stands in for the vendor (the replay server), in the form that the vendor's SDK
            takes: OpenAI's ends in `/v1`, the others have no version.

    Raises:
        ConfigError: a variable that the account needs is not set or holds no key, or a base URL or
            a proxy is none.
    """
    return _OPEN[account.wire](account, environ=environ, base_url=base_url)


_VARIABLES: dict[Wire, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "gemini": ("GOOGLE_CLOUD_PROJECT", "GOOGLE_GEMINI_BASE_URL"),
}
"""What says whose account it is where the catalog names nothing."""


def fingerprint(account: Account, environ: Mapping[str, str], base_url: str | None = None) -> str:
    """Whose limits a call uses, 16 hex digits: equal for two accounts with one key at one address,
    whatever they are called. The key cannot be found again from it.
    """
    named = (account.api_key_env or account.project_env, account.project_env)
    variables = [name for name in named if name] or list(_VARIABLES[account.wire])
    address = (base_url or account.base_url or "").rstrip("/")
    facts = [account.wire, address, account.location or ""]
    facts += [environ.get(name, "").strip() for name in variables]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def check_credentials(account: Account, environ: Mapping[str, str]) -> None:
    """Check that `open_provider` will find what it needs; nothing is called.

    What is not checked: that the vendor takes the key, and what `google.auth` finds on its own
    where GOOGLE_APPLICATION_CREDENTIALS is not set.

    Raises:
        ConfigError: naming the environment variable that is missing or wrong (a key, a proxy), or
            the base URL.
    """
    _CHECK[account.wire](account, environ)


BatchKind = Literal["openai", "anthropic", "gemini", "vertex"]
"""How batches are bought: Gemini's are bought in two ways."""

BATCH_LIMITS: dict[BatchKind, BatchLimits] = {
    "openai": openai_batch.LIMITS,
    "anthropic": anthropic_batch.LIMITS,
    "gemini": gemini_batch.LIMITS,
    "vertex": vertex_batch.LIMITS,
}
"""What each vendor takes in one batch."""


class _OpenBatches(Protocol):
    def __call__(
        self, account: Account, *, environ: Mapping[str, str], base_url: str | None
    ) -> BatchProvider: ...


_OPEN_BATCHES: dict[BatchKind, _OpenBatches] = {
    "openai": openai_batch.open_batches,
    "anthropic": anthropic_batch.open_batches,
    "gemini": gemini_batch.open_batches,
    "vertex": vertex_batch.open_batches,
}


def batch_kind(account: Account) -> BatchKind:
    """How an account's batches are bought."""
    return "vertex" if account.wire == "gemini" and gemini.on_vertex(account) else account.wire


def open_batches(
    account: Account, *, environ: Mapping[str, str], base_url: str | None = None
) -> BatchProvider:
    """The batches of `account`, over connections of their own.

    Args:
        account: of the catalog.
        environ: as for `open_provider`. Where files go to Google Cloud Storage, its client and
            `STORAGE_EMULATOR_HOST` are found in the process's own environment.
        base_url: as for `open_provider`.

    Raises:
        ConfigError: as `open_provider`, or the account lacks what batches need besides.
    """
    return _OPEN_BATCHES[batch_kind(account)](account, environ=environ, base_url=base_url)


def check_batches(account: Account, environ: Mapping[str, str]) -> None:
    """Check that `open_batches` will find what it needs; nothing is called.

    Raises:
        ConfigError: as `check_credentials`, or the account lacks what batches need besides.
    """
    check_credentials(account, environ)
    if batch_kind(account) == "vertex":
        vertex_batch.check(account, environ)
