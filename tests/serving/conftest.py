"""An endpoint in this process, on a free port, with replayed vendors and OpenAI's own client."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from openai import AsyncOpenAI

from moa.catalog import Wire
from moa.cluster.meters import Tally
from moa.replay.process import ReplayServer
from moa.serving.config import EndpointConfig, load_endpoint_config
from moa.serving.endpoint import Endpoint
from moa.serving.http_app import make_app
from moa.serving.process import base_urls, open_endpoint
from moa.serving.setup import Setup, check_endpoint
from tests.providers.dialects import DIALECTS, Dialect
from tests.providers.vendor_server import VendorServer

ROOT = Path(__file__).parents[2]
KEY = "sk-test-d1ce5ca7"
OTHER_KEY = "sk-test-0ddba11"
STRAIGHT = "openai/gpt-4o-mini"
MODELS: dict[Wire, str] = {
    "openai": "openai/gpt-4o",
    "anthropic": "anthropic/claude-3.5-sonnet",
    "gemini": "google/gemini-1.5-pro",
}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: Any = [{"role": "user", "content": "How is the weather in Paris?"}]


@dataclass
class Serving:
    """An endpoint that listens."""

    base_url: str
    """Ends in `/v1`."""
    endpoint: Endpoint
    tally: Tally
    client: AsyncOpenAI
    http: aiohttp.ClientSession
    server: uvicorn.Server

    async def post(
        self, path: str, document: object = None, *, data: bytes | None = None, key: str = KEY
    ) -> tuple[int, dict[str, object], Mapping[str, str]]:
        """Status, JSON and headers."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = {"data": data} if data is not None else {"json": document}
        async with self.http.post(self.base_url + path, headers=headers, **body) as answer:
            return answer.status, await answer.json(), answer.headers


def config_of(*overrides: str) -> EndpointConfig:
    return load_endpoint_config(
        ROOT / "jobs/configs/serve.toml",
        [f"catalog={ROOT}/jobs/configs/demo_catalog.toml", *overrides],
    )


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@asynccontextmanager
async def serving(setup: Setup, environ: Mapping[str, str]) -> AsyncIterator[Serving]:
    """An endpoint for as long as the block."""
    async with AsyncExitStack() as stack:
        tally = Tally()
        endpoint = open_endpoint(setup, environ=environ, registry=tally)
        stack.push_async_callback(endpoint.close)
        tenants = setup.tenants(environ)
        app = make_app(lambda: endpoint, lambda: tenants)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # from now on clients wait instead of being refused
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        task = asyncio.create_task(server.serve(sockets=[listening]))

        async def stop() -> None:
            server.should_exit = server.force_exit = True
            await task

        stack.push_async_callback(stop)
        client = AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0)
        stack.push_async_callback(client.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Serving(url, endpoint, tally, client, http, server)


@pytest.fixture
async def start(
    provider_server: ReplayServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., object]]:
    """Start an endpoint with some keys of its config set anew, as often as one likes."""
    monkeypatch.chdir(ROOT)
    provider_server.set_script({"synthetic": True})
    async with AsyncExitStack() as stack:

        async def begin(*overrides: str, tenants: str | None = None) -> Serving:
            given = list(overrides)
            environ = {"PATH": ""}
            if tenants is not None:
                environ["TENANTS"] = tenants
                given += ["access.open=false", "access.tenants_env=TENANTS"]
            config = config_of(f"feedback.folder={tmp_path}/feedback", *given)
            setup = check_endpoint(config, environ=environ)
            setup = setup.replayed(base_urls(setup, provider_server))
            return await stack.enter_async_context(serving(setup, environ))

        yield begin


@pytest.fixture
async def served(start: Callable[..., object]) -> Serving:
    """An open endpoint as the demo has it."""
    made: Serving = await start()  # type: ignore[misc]
    return made


@pytest.fixture(params=list(MODELS))
def wire(request: pytest.FixtureRequest) -> Wire:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def dialect(wire: Wire) -> Dialect:
    return DIALECTS[wire]


@pytest.fixture
async def vendor() -> AsyncIterator[VendorServer]:
    async with VendorServer() as server:
        yield server


@pytest.fixture
async def begin_vendor_served(
    wire: Wire, vendor: VendorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Awaitable[Serving]]]:
    """Start an endpoint whose accounts are all at `vendor`, with some keys of its config set."""
    monkeypatch.chdir(ROOT)
    async with AsyncExitStack() as stack:

        async def begin(*overrides: str) -> Serving:
            config = config_of(f"feedback.folder={tmp_path}", *overrides)
            setup = check_endpoint(config, environ={})
            url = vendor.base_url + DIALECTS[wire].suffix
            setup = setup.replayed(dict.fromkeys(setup.accounts, url))
            return await stack.enter_async_context(serving(setup, {}))

        yield begin


@pytest.fixture
async def vendor_served(begin_vendor_served: Callable[..., Awaitable[Serving]]) -> Serving:
    """As the demo has it."""
    return await begin_vendor_served()
