"""The endpoint on a local Ray: replicas come, go and die under load, and clients see nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import ray
from openai import AsyncOpenAI
from ray import serve

from moa.serving.config import EndpointConfig
from moa.serving.deployment import replayed_vendors, start
from tests.serving.conftest import ROOT, STRAIGHT, config_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
HELLO: Any = [{"role": "user", "content": "What is the sum of the first ten primes?"}]
SLOW_VENDORS = "replay.script={latency={median_s=0.2,per_output_token_s=0.02}}"


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local",
        num_cpus=6,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


@pytest.fixture(scope="module")
def config(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> EndpointConfig:
    """Of an endpoint that runs: two ingress replicas."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("endpoint")
    made = config_of(
        f"http.port={port}",
        f"feedback.folder={folder}/feedback",
        f"router.artifact={artifact(folder, 'first')}",
        f"replay.recordings={ROOT}/moa/recordings",
        "serve.min_replicas=2",
        "serve.max_replicas=2",
        "serve.num_cpus=0.5",
        "serve.drain_s=30",
        "serve.health_every_s=1",
        SLOW_VENDORS,
    )
    start(made)
    return made


def artifact(folder: Path, name: str) -> Path:
    """A copy of the embedded router, with a version of its own."""
    copy = folder / name
    shutil.copytree(ROOT / "moa/router/embedded", copy)
    document = (copy / "artifact.json").read_text()
    (copy / "artifact.json").write_text(document + " " * len(name))
    return copy


@asynccontextmanager
async def client_of(config: EndpointConfig, retries: int = 0) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://127.0.0.1:{config.http.port}/v1"
    async with AsyncOpenAI(api_key="x", base_url=url, max_retries=retries) as client:
        yield client


def ledger(config: EndpointConfig) -> list[dict[str, Any]]:
    assert config.replay is not None
    found: list[dict[str, Any]] = ray.get(replayed_vendors(config.replay).ledger.remote())
    return found


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.1)


async def test_the_endpoint_answers_on_serve(config: EndpointConfig) -> None:
    async with client_of(config) as client:
        raw = await client.chat.completions.with_raw_response.create(model="moa", messages=HELLO)
        stream = await client.chat.completions.create(model="moa", messages=HELLO, stream=True)
        at = [time.monotonic() async for _ in stream]

    assert raw.headers["x-moa-model"] == raw.parse().model
    assert at[-1] - at[0] > 0.1  # it came in pieces


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_seen_upstream(
    config: EndpointConfig, stream: bool
) -> None:
    before = len(ledger(config))
    document = {"model": STRAIGHT, "messages": HELLO, "stream": stream}
    url = f"http://127.0.0.1:{config.http.port}/v1/chat/completions"

    async def ask() -> None:
        async with aiohttp.ClientSession() as http, http.post(url, json=document) as answer:
            async for _ in answer.content:
                pass

    asking = asyncio.create_task(ask())
    await until(lambda: len(ledger(config)) > before)
    await asyncio.sleep(0.4)
    asking.cancel()

    await until(lambda: ledger(config)[before]["fate"] == "client_left")


async def test_a_router_is_replaced_under_load_and_nothing_is_lost(
    config: EndpointConfig, tmp_path: Path
) -> None:
    newer = artifact(tmp_path, "second")
    changed = config.router.model_copy(update={"artifact": str(newer)})

    async with client_of(config) as client:
        versions: list[str] = []
        load = [asyncio.create_task(_load(client, versions, n, seconds=12)) for n in range(6)]
        await asyncio.sleep(2)
        await asyncio.to_thread(start, config.model_copy(update={"router": changed}))
        await asyncio.gather(*load)

    assert len(set(versions)) == 2
    assert versions[0] != versions[-1]


async def test_replicas_are_replaced_one_by_one_and_no_stream_is_cut(
    config: EndpointConfig,
) -> None:
    other = config.model_copy(update={"max_usd_per_query": Decimal(5)})

    async with client_of(config) as client:
        seen: list[str] = []
        load = [asyncio.create_task(_load(client, seen, n, seconds=25)) for n in range(4)]
        await asyncio.sleep(2)
        before = replicas()
        await asyncio.to_thread(start, other)
        await asyncio.gather(*load)

    await until(lambda: not (replicas() & before), 40)
    assert len(seen) > 20


async def test_a_killed_replica_costs_no_client_of_openai_its_answer(
    config: EndpointConfig,
) -> None:
    async with client_of(config, retries=4) as client:
        seen: list[str] = []
        load = [asyncio.create_task(_load(client, seen, n, seconds=12)) for n in range(6)]
        await asyncio.sleep(2)
        os.kill(min(replicas()), signal.SIGKILL)
        results = await asyncio.gather(*load, return_exceptions=True)

    # A stream that was in its middle ends with an error: nobody can say its rest.
    broken = [one for one in results if isinstance(one, BaseException)]
    sys.stdout.write(f"{len(broken)} of 3 streams broke\n")
    assert len(broken) <= 3
    assert all(number % 2 for number, one in enumerate(results) if isinstance(one, BaseException))
    await until(lambda: len(replicas()) == 2, 60)


async def _load(client: AsyncOpenAI, seen: list[str], number: int, *, seconds: float) -> None:
    """Ask again and again; odd ones stream. Any error ends it."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        create = client.chat.completions.with_raw_response.create
        if number % 2:
            async with client.chat.completions.with_streaming_response.create(
                model="moa", messages=HELLO, stream=True
            ) as answer:
                text = await answer.text()
                assert text.endswith("data: [DONE]\n\n"), text[-200:]
                seen.append(answer.headers["x-moa-router-version"])
        else:
            raw = await create(model="moa", messages=HELLO)
            assert raw.parse().choices[0].message.content
            seen.append(raw.headers["x-moa-router-version"])


def replicas() -> set[int]:
    """Process ids of this test's ingress replicas."""
    mine = psutil.Process().children(recursive=True)
    found = set()
    for process in mine:
        try:
            if "ServeReplica:moa:ingress" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found
