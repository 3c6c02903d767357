"""The endpoint on Ray Serve: ingress replicas, router replicas, and the owners that they share.

serve run moa.serving.deployment:build config=jobs/configs/serve.toml
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import ray
import structlog
from fastapi import FastAPI
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from moa.cluster.quotas import NAMESPACE, owners_of
from moa.config import ReplayConfig
from moa.errors import EngineError, Refusal
from moa.log import configure
from moa.replay.process import replay_server
from moa.router.facts import read_facts
from moa.router.router import Scores
from moa.serving.config import EndpointConfig, load_endpoint_config
from moa.serving.endpoint import Endpoint
from moa.serving.http_app import make_app
from moa.serving.process import open_endpoint
from moa.serving.ray_metrics import RayRegistry
from moa.serving.scoring import LocalScorer
from moa.serving.setup import Setup, check_endpoint
from moa.serving.spent import KeptLimits
from moa.serving.tenant_limits import Need, Verdict
from moa.serving.tenants import Tenant, Tenants

APP = "moa"
PROTOCOL = 1
"""Of the shared actors: they outlive the replicas, and perhaps their version."""
ENGINE_FAILED = 70
"""Exit status of a router replica whose engine has failed."""
OWNER_S = 10.0
"""That the owner of the tenants' limits may take."""
SCORING_S = 20.0
"""That a router replica may take before the default model is asked instead."""

log = structlog.get_logger()


class SharedState(KeptLimits):
    """The owner of the tenants' limits, and of the secret that signs completion ids."""

    def __init__(self, folder: str | None) -> None:
        super().__init__(folder)
        self._secret = secrets.token_bytes(32)

    async def secret(self) -> bytes:
        """Drawn once."""
        return self._secret


class RemoteLimits:
    """See `moa.serving.tenant_limits.LimitOwner`."""

    def __init__(self, actor: ActorHandle[SharedState]) -> None:
        self._actor = actor

    async def lease(self, tenant: Tenant, needed: Need, unused: Need) -> Verdict:
        """See `LimitOwner.lease`."""
        try:
            async with asyncio.timeout(OWNER_S):
                verdict: Verdict = await self._actor.lease.remote(tenant, needed, unused)
        except (RayError, TimeoutError) as error:
            log.error("limits.no_answer", error=type(error).__name__)
            raise Refusal(
                "the owner of this key's limits does not answer",
                status=503,
                kind="api_error",
                code="limits_out",
                retry_after_s=5.0,
            ) from None
        return verdict


class ReplayedVendors:
    """The replay server in an actor: of a demonstration, for all its replicas."""

    def __init__(self, replay: ReplayConfig) -> None:
        self._stack = ExitStack()
        self._server = self._stack.enter_context(
            replay_server(
                script=replay.script, recordings=replay.recordings, synthetic=replay.synthetic
            )
        )

    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    def base_url(self, wire: Any) -> str:  # noqa: ANN401 - a Wire
        """See `ReplayServer.base_url`."""
        return self._server.base_url(wire)

    def ledger(self) -> list[dict[str, Any]]:
        """See `ReplayServer.ledger`."""
        return self._server.ledger()


def shared(kind: type, name: str, *args: object) -> ActorHandle[Any]:
    """An actor that all replicas find by its name, started where there is none."""
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 1000,
    }
    make: Any = ray.remote(**options)(kind)
    actor: ActorHandle[Any] = make.remote(*args)
    return actor


def shared_state(config: EndpointConfig) -> ActorHandle[SharedState]:
    """See `SharedState`."""
    return shared(SharedState, f"endpoint-{PROTOCOL}", config.access.spent_folder)


def replayed_vendors(replay: ReplayConfig) -> ActorHandle[ReplayedVendors]:
    """See `ReplayedVendors`."""
    return shared(ReplayedVendors, f"replayed-vendors-{PROTOCOL}", replay)


class RouterReplica:
    """One process with a router, that scores what several ingress replicas ask at once."""

    def __init__(self, document: str) -> None:
        self._config = EndpointConfig.model_validate_json(document)
        configure(self._config.log.style)
        self._scorer: LocalScorer | None = None
        self.score.set_max_batch_size(self._config.router.max_batch)  # type: ignore[attr-defined]
        self.score.set_batch_wait_timeout_s(self._config.router.batch_wait_s)  # type: ignore[attr-defined]

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take another artifact; the old one scores until the new one can."""
        router = self._config.router.model_copy(update={"artifact": user_config["artifact"]})
        self._scorer = await asyncio.to_thread(LocalScorer.load, router, self._config.pool)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.004)
    async def score(self, texts: list[str]) -> list[Scores]:
        """Of each text, for the pool."""
        assert self._scorer is not None
        try:
            scores = await self._scorer.score(texts)
        except EngineError as error:
            log.error("router.engine_failed", error=str(error))
            os._exit(ENGINE_FAILED)  # Serve starts another
        return [Scores(*(part[row : row + 1] for part in scores)) for row in range(len(texts))]

    def check_health(self) -> None:
        """See `LocalScorer.check`."""
        if self._scorer is not None:
            self._scorer.check()


class RemoteScorer:
    """See `moa.serving.routing.Scorer`."""

    def __init__(self, handle: DeploymentHandle[Any], version: str) -> None:
        self._handle = handle
        self.version = version

    async def score(self, texts: Sequence[str]) -> Scores:
        """See `Scorer.score`."""
        asked = [self._handle.score.remote(text) for text in texts]
        try:
            async with asyncio.timeout(SCORING_S):
                rows = [await one for one in asked]
        except (RayError, RayServeException, TimeoutError) as error:
            raise EngineError(f"no router replica answers: {type(error).__name__}") from None
        return Scores(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


class Ingress:
    """One process that answers. Everything of it lives in the event loop of its requests."""

    def __init__(self, document: str, router: DeploymentHandle[Any] | None) -> None:
        self._config = EndpointConfig.model_validate_json(document)
        configure(self._config.log.style)
        self._router = router
        self._endpoint: Endpoint | None = None
        self._tenants: Tenants | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.endpoint, self.tenants)

    def endpoint(self) -> Endpoint:
        """As it is now."""
        assert self._endpoint is not None
        return self._endpoint

    def tenants(self) -> Tenants:
        """As they are now."""
        assert self._tenants is not None
        return self._tenants

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take another artifact, and read the tenants again; requests under way keep theirs."""
        router = self._config.router.model_copy(update={"artifact": user_config["artifact"]})
        config = self._config.model_copy(update={"router": router})
        setup = await asyncio.to_thread(check_endpoint, config, environ=os.environ)
        self._tenants = await asyncio.to_thread(setup.tenants, os.environ)
        scorer: LocalScorer | RemoteScorer
        if self._router is None:
            scorer = await asyncio.to_thread(LocalScorer.load, router, setup.pool)
        else:
            scorer = RemoteScorer(self._router, setup.router_version)
        if self._endpoint is not None:
            self._endpoint.use(scorer, setup.default_model)
            log.info("router.replaced", version=scorer.version)
            return
        self._endpoint = await self._open(setup, scorer)

    async def _open(self, setup: Setup, scorer: LocalScorer | RemoteScorer) -> Endpoint:
        state = shared_state(setup.config)
        if setup.config.feedback.secret_env is None:
            setup = setup.signed(await state.secret.remote())
        if setup.config.replay is not None:
            vendors = replayed_vendors(setup.config.replay)
            wires = {name: account.wire for name, account in setup.accounts.items()}
            urls = {name: await vendors.base_url.remote(wire) for name, wire in wires.items()}
            setup = setup.replayed(urls)
        owners = await asyncio.to_thread(owners_of, setup.identities(os.environ))
        return open_endpoint(
            setup,
            scorer=scorer,
            owners=owners,
            limits=RemoteLimits(state),
            registry=RayRegistry(),
        )

    async def check_health(self) -> None:
        """The router works, not only the process.

        Raises:
            RuntimeError: it does not.
        """
        if self._endpoint is None:
            return
        scorer = self._endpoint.scorer
        if isinstance(scorer, LocalScorer):
            scorer.check()

    async def __del__(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.close()


def application(config: EndpointConfig) -> serve.Application:
    """The endpoint as Serve runs it. What a rolling update changes without new processes is in
    `user_config`: the router's artifact, by its version.
    """
    knobs, artifact = config.serve, config.router.artifact
    document = config.model_copy(
        update={"router": config.router.model_copy(update={"artifact": ""})}
    ).model_dump_json()
    user_config = {
        "artifact": artifact,
        "version": read_facts(artifact).version,
        "tenants": _tenants_version(config),
    }
    common: dict[str, Any] = {
        "user_config": user_config,
        "logging_config": {"enable_access_log": False},
        "graceful_shutdown_timeout_s": knobs.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": knobs.health_every_s,
        "health_check_timeout_s": max(30.0, knobs.health_every_s),
    }
    router = None
    if config.router.replicas:
        scoring: Any = serve.deployment(RouterReplica)
        router = scoring.options(
            name="router",
            num_replicas=config.router.replicas,
            ray_actor_options={"num_gpus": config.router.num_gpus, "num_cpus": 1},
            max_ongoing_requests=4 * config.router.max_batch,
            **common,
        ).bind(document)
    answering: Any = serve.deployment(serve.ingress()(Ingress))
    ingress = answering.options(
        name="ingress",
        ray_actor_options={"num_cpus": knobs.num_cpus},
        # The app refuses above `max_ongoing` with an error object; Serve's own bound is behind it.
        max_ongoing_requests=knobs.max_ongoing + 64,
        max_queued_requests=knobs.max_queued or -1,
        **_replicas(config),
        **common,
    )
    return ingress.bind(document, router)  # type: ignore[no-any-return]


def _tenants_version(config: EndpointConfig) -> str:
    """Changes with the tenants' file, which then is read again."""
    if config.access.tenants is None:
        return ""
    return hashlib.sha256(Path(config.access.tenants).read_bytes()).hexdigest()[:12]


def _replicas(config: EndpointConfig) -> dict[str, Any]:
    knobs = config.serve
    if knobs.min_replicas == knobs.max_replicas:
        return {"num_replicas": knobs.min_replicas}
    scaling = {
        "min_replicas": knobs.min_replicas,
        "max_replicas": knobs.max_replicas,
        "target_ongoing_requests": knobs.target_ongoing,
    }
    return {"autoscaling_config": scaling}


def build(args: Mapping[str, str]) -> serve.Application:
    """For `serve run` and `serve deploy`: `config` is the TOML file, the rest is `key=value`.

    Raises:
        ConfigError: as `check_endpoint`.
    """
    overrides = [f"{key}={value}" for key, value in args.items() if key != "config"]
    config = load_endpoint_config(args["config"], overrides)
    check_endpoint(config, environ=os.environ)
    return application(config)


def start(config: EndpointConfig) -> None:
    """Start Serve where the config says, and deploy; again, it is a rolling update."""
    serve.start(
        http_options={
            "host": config.http.host,
            "port": config.http.port,
            "request_timeout_s": config.calls.total_s + 60,
            "keep_alive_timeout_s": int(timedelta(minutes=2).total_seconds()),
        }
    )
    serve.run(application(config), name=APP, route_prefix="/")
