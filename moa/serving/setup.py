"""An endpoint as configured, with all that must be true before its first request checked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from moa.catalog import Account, Model, load_catalog
from moa.errors import ConfigError
from moa.prices import PriceTable
from moa.providers.accounts import check_abilities, check_credentials, fingerprint, open_provider
from moa.providers.provider import Provider
from moa.replay.recordings import Recordings
from moa.replay.script import parse_script
from moa.router.facts import RouterFacts, installed, read_facts, router_folder
from moa.serving.config import ROUTED, EndpointConfig
from moa.serving.routing import Routing
from moa.serving.tenants import Tenants, read_tenants
from moa.storage.object_store import Folder

_LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Setup:
    """All that an endpoint needs, read and checked. Without keys: each process reads its own."""

    config: EndpointConfig
    accounts: Mapping[str, Account]
    models: tuple[Model, ...]
    """Pool order."""
    prices: PriceTable
    router_version: str
    default_model: str
    """Catalog id, for queries that are too novel to judge."""
    secret: bytes = field(repr=False)
    """Signs completion ids; equal in all processes."""
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Account → where the replay server stands in for it."""

    @property
    def pool(self) -> tuple[str, ...]:
        """The catalog ids, in pool order."""
        return tuple(model.id for model in self.models)

    def routing(self) -> Routing:
        """What all its decisions have in common."""
        config = self.config
        presets = {f"{ROUTED}:{name}": policy for name, policy in config.presets.items()}
        return Routing(
            self.models,
            {ROUTED: config.policy, **presets},
            self.prices,
            self.default_model,
            config.stickiness,
            config.max_usd_per_query,
        )

    def tenants(self, environ: Mapping[str, str]) -> Tenants:
        """Who may ask."""
        return read_tenants(self.config.access, environ)

    def replayed(self, base_urls: Mapping[str, str]) -> Setup:
        """The same, with replayed vendors."""
        return replace(self, base_urls=base_urls)

    def signed(self, secret: bytes) -> Setup:
        """The same, with the secret that all processes share."""
        return replace(self, secret=secret)

    def providers(self, environ: Mapping[str, str]) -> dict[str, Provider]:
        """Opened, by account."""
        keys = self._environ(environ)
        return {
            name: open_provider(account, environ=keys, base_url=self.base_urls.get(name))
            for name, account in self.accounts.items()
        }

    def identities(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Whose limits each account uses."""
        keys = self._environ(environ)
        return {
            name: fingerprint(account, keys, self.base_urls.get(name))
            for name, account in self.accounts.items()
        }

    def _environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment with the keys; the replay server takes any."""
        keys = {a.api_key_env: "replay" for a in self.accounts.values() if a.api_key_env}
        return {**environ, **(keys if self.config.replay is not None else {})}


def check_endpoint(config: EndpointConfig, *, environ: Mapping[str, str]) -> Setup:
    """Read and check everything that the config names; nothing is called.

    The setup's own config is as given, but names the router that counts now: whatever is started by
    it later, at whatever time, loads no other one.

    Raises:
        ConfigError: a model that the catalog or the router does not know, a missing key or price,
            tenants that cannot be read, a folder that cannot be written.
        ArtifactError: the router is damaged.
    """
    catalog = load_catalog(config.catalog)
    models = tuple(catalog.of(config.pool, key="pool", path=config.catalog))
    accounts = {model.provider: catalog.accounts[model.provider] for model in models}
    check_abilities(models, accounts)
    if config.replay is None:
        _check_keys(accounts, environ)
    else:
        Recordings.load(Path(config.replay.recordings))
        parse_script(config.replay.script)
    config = with_router_of_now(config)
    facts = read_facts(config.router.artifact)
    default = default_model(config, facts)
    read_tenants(config.access, environ)
    kept = {config.query_log.folder, config.feedback.folder, config.access.spent_folder}
    for folder in kept - {None}:
        Folder(str(folder)).check()
    return Setup(
        config=config,
        accounts=accounts,
        models=models,
        prices=PriceTable.build(models, as_of=_price_date(config)),
        router_version=facts.version,
        default_model=default,
        secret=_secret(config, environ),
    )


def with_router_of_now(config: EndpointConfig) -> EndpointConfig:
    """The same, with the promoted router where a folder of promotions was named.

    Raises:
        ArtifactError: what was promoted is not there.
    """
    url = config.router.artifact
    folder = router_folder(url)
    if folder == installed(url):  # as it is: other nodes have their installation elsewhere
        return config
    return config.model_copy(
        update={"router": config.router.model_copy(update={"artifact": folder})}
    )


def default_model(config: EndpointConfig, facts: RouterFacts) -> str:
    """Where queries go that are too novel to judge.

    Raises:
        ConfigError: it is not in the pool, or the router does not know the pool.
    """
    facts.check_pool(config.pool)
    named = config.policy.default_model
    if named is not None and named not in config.pool:
        raise ConfigError(
            f"policy.default_model {named!r} is not in the pool {config.pool}: add it, or name one "
            "of the pool"
        )
    return named or facts.best_constant(config.pool).model


def _check_keys(accounts: Mapping[str, Account], environ: Mapping[str, str]) -> None:
    missing = []
    for account in accounts.values():
        try:
            check_credentials(account, environ)
        except ConfigError as error:
            missing.append(str(error))
    if missing:
        raise ConfigError("\n  ".join(missing))


def _price_date(config: EndpointConfig) -> date | None:
    day = config.prices.as_of
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    if day is not None and day > tomorrow:
        raise ConfigError(f"prices.as_of is {day}, and nobody knows the prices after {tomorrow}")
    return day


def _secret(config: EndpointConfig, environ: Mapping[str, str]) -> bytes:
    name = config.feedback.secret_env
    if name is None:
        return secrets.token_bytes(32)
    secret = environ.get(name, "").encode()
    if len(secret) < _LEAST_SECRET:
        raise ConfigError(f"feedback.secret_env: {name} holds fewer than {_LEAST_SECRET} bytes")
    return secret
