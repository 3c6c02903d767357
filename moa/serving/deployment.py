"""The endpoint on Ray Serve: ingress replicas, router replicas, and the actors that they share.

serve run moa.serving.deployment:build config=jobs/configs/serve.toml
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from moa.cluster.quotas import owners_of
from moa.cluster.ray_meters import RayRegistry
from moa.errors import ConfigError
from moa.log import configure
from moa.router.artifact import read_artifact
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.facts import installed
from moa.serving.config import EndpointConfig, is_local, load_endpoint_config
from moa.serving.endpoint import Endpoint
from moa.serving.haproxy import free_port
from moa.serving.http_app import make_app
from moa.serving.process import open_endpoint, url_at
from moa.serving.router_replicas import RemoteScorer, RouterReplica
from moa.serving.scoring import LocalScorer
from moa.serving.setup import Setup, check_endpoint
from moa.serving.shared_actors import (
    RemoteLimits,
    replayed_vendors,
    shared_conversations,
    shared_state,
)
from moa.serving.tenants import Tenants

APP = "moa"
ROOM_TO_REFUSE = 4096
"""Requests that Serve lets through beyond those that one ingress takes: the app refuses them with
an error object, where Serve's own refusal is plain text. HAProxy has no more connections than that.
"""
KEEP_ALIVE_S = 120

log = structlog.get_logger()


class Ingress:
    """One process that answers. Everything of it lives in the event loop of its requests."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, document: str, router: DeploymentHandle[Any] | None
    ) -> None:
        config = EndpointConfig.model_validate_json(document)
        configure(config.log.style)
        await asyncio.to_thread(_check_reach, config)
        setup = await asyncio.to_thread(check_endpoint, config, environ=os.environ)
        self._tenants = await asyncio.to_thread(setup.tenants, os.environ)
        scorer: LocalScorer | RemoteScorer
        if router is None:
            scorer = await asyncio.to_thread(LocalScorer.load, config.router, setup.pool)
        else:
            scorer = RemoteScorer(router, setup.pool, config.router.max_wait_s)
        self._endpoint = await _open(setup, scorer)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.endpoint, self.tenants)

    def endpoint(self) -> Endpoint:
        """That it is."""
        return self._endpoint

    def tenants(self) -> Tenants:
        """Who may ask."""
        return self._tenants

    async def check_health(self) -> None:
        """The router works, not only the process. One in other processes has checks of its own:
        while it is out requests go to the default model, and a new ingress would not help.

        Raises:
            RuntimeError: it does not.
        """
        if isinstance(self._endpoint.scorer, LocalScorer):
            self._endpoint.scorer.check()

    async def __del__(self) -> None:
        if hasattr(self, "_endpoint"):  # else it was never whole
            await self._endpoint.close()


async def _open(setup: Setup, scorer: LocalScorer | RemoteScorer) -> Endpoint:
    """An endpoint that shares its limits, its secret and its replayed vendors with the others."""
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
        conversations=shared_conversations(setup.config),
        registry=RayRegistry(),
    )


def _check_reach(config: EndpointConfig) -> None:
    """Serve may have been started by somebody else, with another address than the config's.

    Raises:
        ConfigError: answers without a key could be had from elsewhere.
    """
    host = _listens_at()[0]
    if config.access.open and not is_local(host):
        raise ConfigError(
            f"access.open, and Serve listens at {host}: without keys it has to be 127.0.0.1, ::1 "
            "or localhost (http_options of `serve start` or of the deployed file); or give "
            "access.tenants"
        )


def _listens_at() -> tuple[str, int]:
    """Serve, as it was started: it keeps that as long as it runs."""
    client = _get_global_client()
    assert client is not None
    options = client.http_config
    return str(options.host), int(options.port)


def application(config: EndpointConfig) -> serve.Application:
    """The endpoint as Serve runs it. Whatever changes, an update starts new replicas and drains the
    old ones: Serve takes replicas that are changed in place out of use meanwhile.

    Args:
        config: of a `Setup`: replicas that are started again later read it again.

    Raises:
        ConfigError: a language model would have to run where requests are answered.
    """
    knobs, router = config.serve, config.router
    artifact = read_artifact(installed(router.artifact))
    if isinstance(artifact.description.backbone, LanguageModelSpec) and not router.replicas:
        raise ConfigError(
            "router.replicas is 0, and the router is a language model: give it 1 or more, for each "
            "answer would wait while another one's query is read"
        )
    document = config.model_dump_json()
    common: dict[str, Any] = {
        "logging_config": {"enable_access_log": False},
        "graceful_shutdown_timeout_s": knobs.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": knobs.health_every_s,
        "health_check_timeout_s": max(30.0, knobs.health_every_s),
        "max_surge_percent": knobs.surge_percent,
    }
    scoring = None
    if router.replicas:
        kind: Any = serve.deployment(RouterReplica)
        scoring = kind.options(
            name="router",
            num_replicas=router.replicas,
            ray_actor_options={"num_gpus": router.num_gpus, "num_cpus": 1},
            max_ongoing_requests=4 * router.max_batch,
            **common,
        ).bind(document)
    answering: Any = serve.deployment(serve.ingress()(Ingress))
    ingress = answering.options(
        name="ingress",
        ray_actor_options={"num_cpus": knobs.num_cpus},
        max_ongoing_requests=knobs.max_ongoing + ROOM_TO_REFUSE,
        max_queued_requests=ROOM_TO_REFUSE,
        **_replicas(config),
        **common,
    )
    return ingress.bind(document, scoring)  # type: ignore[no-any-return]


def _replicas(config: EndpointConfig) -> dict[str, Any]:
    knobs = config.serve
    if knobs.min_replicas == knobs.max_replicas:
        return {"num_replicas": knobs.min_replicas}
    scaling = {
        "min_replicas": knobs.min_replicas,
        "max_replicas": knobs.max_replicas,
        "target_ongoing_requests": knobs.target_ongoing,
        "upscale_delay_s": knobs.upscale_delay_s,
        "downscale_delay_s": knobs.downscale_delay_s,
    }
    return {"autoscaling_config": scaling}


def build(args: Mapping[str, str]) -> serve.Application:
    """For `serve run`, `serve build` and `serve deploy`.

    Args:
        args: `config` is the TOML file, the rest overrides its keys. But `revision`, which may be
            anything: `serve deploy` builds again only what has other arguments than before, though
            the TOML file, or the router that counts, may be another.

    Raises:
        ConfigError: as `check_endpoint` and `application`.
    """
    overrides = [
        f"{key}={value}" for key, value in args.items() if key not in ("config", "revision")
    ]
    config = load_endpoint_config(args["config"], overrides)
    return application(check_endpoint(config, environ=os.environ).config)


def start(config: EndpointConfig) -> str:
    """Start Serve where the config says, and deploy; again, it is a rolling update.

    Returns:
        Where it listens.

    Raises:
        ConfigError: Serve runs already, and listens elsewhere; no replica has started; or as
            `application`.
    """
    app = application(config)
    serve.start(
        http_options={
            "host": config.http.host,
            "port": config.http.port or free_port(),
            "request_timeout_s": config.calls.total_s + 60,
            "keep_alive_timeout_s": KEEP_ALIVE_S,
        }
    )
    host, port = _listens_at()
    if host != config.http.host or config.http.port not in (0, port):
        raise ConfigError(
            f"http: {config.http.host}:{config.http.port} is wanted, and this cluster's Serve "
            f"listens at {host}:{port} as long as it runs: set http.host and http.port so, or end "
            "it by `serve shutdown`"
        )
    _deploy(app)
    return url_at(host, port)


def _deploy(app: serve.Application) -> None:
    try:
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[APP].deployments.values()
        messages = [one.message for one in deployments if one.message] or [str(error)]
        reasons = {text.strip().splitlines()[-1] for text in messages}  # before it are tracebacks
        raise ConfigError(
            f"no replica of this configuration has started: {'; '.join(sorted(reasons))}. What was "
            "deployed before goes on; the cluster's logs have the rest"
        ) from None


def stop(config: EndpointConfig) -> None:
    """End the endpoint and Serve, once the last stream has ended: Serve's own shutdown would end
    the proxy first.
    """
    serve.delete(APP, _blocking=False)
    give_up_at = time.monotonic() + config.serve.drain_s
    while APP in serve.status().applications and time.monotonic() < give_up_at:
        time.sleep(0.2)  # Serve tells who asks, and nobody else
    serve.shutdown()  # type: ignore[no-untyped-call]
