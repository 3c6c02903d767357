"""The endpoint in one process, without Ray: for a laptop, and for tests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import uvicorn

from moa.cluster.meters import Registry, Tally
from moa.dispatch.heap import calm_collector
from moa.dispatch.quota import Owner
from moa.replay.process import ReplayServer, replay_server
from moa.serving.calls import Caller
from moa.serving.conversations import ConversationOwner
from moa.serving.endpoint import Endpoint
from moa.serving.http_app import make_app
from moa.serving.keeping import Keeper
from moa.serving.metrics import Meters
from moa.serving.routing import Scorer
from moa.serving.scoring import LocalScorer
from moa.serving.setup import Setup
from moa.serving.spent import KeptLimits
from moa.serving.tenant_lease import TenantLease
from moa.serving.tenant_limits import LimitOwner


def open_endpoint(
    setup: Setup,
    *,
    scorer: Scorer | None = None,
    owners: Mapping[str, Owner] | None = None,
    limits: LimitOwner | None = None,
    conversations: ConversationOwner | None = None,
    registry: Registry | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """An endpoint, inside a running event loop; what is not given it owns itself.

    Raises:
        ArtifactError: the router cannot be run here.
        ConfigError: a key is missing.
    """
    config = setup.config
    environ = os.environ if environ is None else environ
    endpoint = Endpoint(
        setup,
        scorer or LocalScorer.load(config.router, setup.pool),
        Caller(setup.providers(environ), setup.models, config.calls, owners=owners),
        TenantLease(limits or KeptLimits(config.access.spent_folder)),
        Keeper(config.query_log, config.feedback),
        Meters(registry or Tally()),
        conversations,
    )
    calm_collector()
    return endpoint


@contextlib.asynccontextmanager
async def running(setup: Setup, environ: Mapping[str, str]) -> AsyncIterator[Endpoint]:
    """An endpoint for as long as the block."""
    endpoint = open_endpoint(setup, environ=environ)
    try:
        yield endpoint
    finally:
        await endpoint.close()


@contextlib.contextmanager
def vendors(setup: Setup) -> Iterator[Setup]:
    """The same endpoint with its replayed vendors running, where the config wants them replayed."""
    replay = setup.config.replay
    if replay is None:
        yield setup
        return
    with replay_server(
        script=replay.script, recordings=replay.recordings, synthetic=replay.synthetic
    ) as server:
        yield setup.replayed(base_urls(setup, server))


async def serve_alone(
    setup: Setup, environ: Mapping[str, str], *, on_start: Callable[[str], object]
) -> None:
    """Serve until this process is told to end; then until the last stream has ended.

    Args:
        setup: of the endpoint.
        environ: with the keys.
        on_start: told the address.
    """
    http = setup.config.http
    tenants = setup.tenants(environ)
    with vendors(setup) as ready:
        async with running(ready, environ) as endpoint:
            app = make_app(lambda: endpoint, lambda: tenants)
            settings = uvicorn.Config(
                app,
                host=http.host,
                port=http.port,
                log_config=None,
                access_log=False,
                timeout_keep_alive=120,
                timeout_graceful_shutdown=round(setup.config.serve.drain_s),
            )
            await _Server(settings, on_start).serve()


class _Server(uvicorn.Server):
    """Says when it listens, and where."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], object]) -> None:
        super().__init__(config)
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server.capture_signals`, which raises the signal again when all is served:
        that would end the process before the endpoint has written what it holds.
        """
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        if self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(url_at(host, port))


def url_at(host: str, port: int) -> str:
    """Of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def base_urls(setup: Setup, server: ReplayServer) -> dict[str, str]:
    """Where the replay server stands in for each account."""
    return {name: server.base_url(account.wire) for name, account in setup.accounts.items()}
