"""Who may ask, and how much: tenants by the hashes of their keys.

[tenants.search]
key_sha256 = ["9f86d0…"]   # printf %s "$KEY" | sha256sum; two while one is being replaced
rpm = 600
tpm = 200_000
usd_per_day = 50
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from pydantic import Field, field_validator

from moa.errors import ConfigError, Refusal
from moa.serving.config import AccessConfig
from moa.toml_file import Section, check, read_toml

_HASH = re.compile(r"[0-9a-f]{64}")
LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whoever holds one of its keys."""

    name: str
    rpm: int | None = None
    """Requests a minute; `None`: any number."""
    tpm: int | None = None
    """Tokens a minute, prompt and output together."""
    usd_per_day: Decimal | None = None
    """From midnight to midnight, UTC."""
    models: frozenset[str] | None = None
    """Catalog ids that it may use; `None`: the pool."""
    enabled: bool = True

    @property
    def is_limited(self) -> bool:
        """Whether it has to be counted."""
        return self.rpm is not None or self.tpm is not None or self.usd_per_day is not None


OPEN = Tenant("open")
"""Everybody, where no keys are wanted."""


class _Entry(Section):
    key_sha256: list[str] = Field(
        min_length=1, max_length=8, description="SHA-256 of each of its keys, 64 hex digits"
    )
    rpm: int | None = Field(default=None, ge=1, description="Requests a minute; ≥ 1")
    tpm: int | None = Field(default=None, ge=1, description="Tokens a minute; ≥ 1")
    usd_per_day: Decimal | None = Field(
        default=None, strict=False, ge=0, description="Of a day (UTC), in USD; ≥ 0"
    )
    models: list[str] | None = Field(default=None, description="Catalog ids; by default the pool")
    enabled: bool = Field(default=True, description="false: its keys are refused with 403")

    @field_validator("key_sha256")
    @classmethod
    def _hashes(cls, hashes: list[str]) -> list[str]:
        if not all(_HASH.fullmatch(one) for one in hashes):
            raise ValueError("should be SHA-256 in 64 lower-case hex digits, never the key itself")
        return hashes


class _File(Section):
    tenants: dict[str, _Entry] = Field(min_length=1, description="By name")


class Tenants:
    """All that may ask."""

    def __init__(self, by_hash: Mapping[str, Tenant], *, is_open: bool = False) -> None:
        self._by_hash = dict(by_hash)
        self._open = is_open

    def of(self, authorization: str | None) -> Tenant:
        """Whose request it is.

        Args:
            authorization: the header's value.

        Raises:
            Refusal: 401 or 403.
        """
        if self._open:
            return OPEN
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or len(key) > LONGEST_KEY:
            raise _unknown("no key was given: send 'Authorization: Bearer KEY'")
        hashed = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, tenant in self._by_hash.items():  # all of them, whichever it is
            if hmac.compare_digest(known, hashed):
                found = tenant
        if found is None:
            raise _unknown("this key is not known here")
        if not found.enabled:
            raise Refusal(
                "this key is disabled: ask whoever runs the endpoint",
                status=403,
                kind="permission_error",
                code="key_disabled",
            )
        return found


def _unknown(message: str) -> Refusal:
    return Refusal(message, status=401, kind="authentication_error", code="invalid_api_key")


def read_tenants(access: AccessConfig, environ: Mapping[str, str]) -> Tenants:
    """The tenants that the config names.

    Raises:
        ConfigError: the file or the variable is missing or wrong; its hashes are not shown.
    """
    if access.open:
        return Tenants({}, is_open=True)
    if access.tenants is not None:
        file = read_toml(_File, access.tenants)
    else:
        name = access.tenants_env or ""
        try:
            document = tomllib.loads(environ[name])
        except KeyError:
            raise ConfigError(f"access.tenants_env: {name} is not set in the environment") from None
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"access.tenants_env: {name} holds no TOML") from None
        file = check(_File, document, where=name)
    by_hash: dict[str, Tenant] = {}
    for name, entry in file.tenants.items():
        for hashed in entry.key_sha256:
            if hashed in by_hash:
                raise ConfigError(f"tenants.{name}: has a key of {by_hash[hashed].name!r}")
            by_hash[hashed] = _tenant(name, entry)
    return Tenants(by_hash)


def _tenant(name: str, entry: _Entry) -> Tenant:
    models = None if entry.models is None else frozenset(entry.models)
    return Tenant(name, entry.rpm, entry.tpm, entry.usd_per_day, models, entry.enabled)
