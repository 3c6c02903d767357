"""The endpoint on a Ray cluster: replicas come, go and die under load, and clients see nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import openai
import psutil
import pytest

from tests.serving.conftest import STRAIGHT
from tests.serving.on_ray import (
    HELLO,
    SLOW,
    EndpointOnRay,
    artifact,
    endpoint_on_ray,
    load,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointOnRay]:
    """Two ingress replicas, which score for themselves."""
    folder = tmp_path_factory.mktemp("endpoint")
    with endpoint_on_ray(folder) as endpoint:
        endpoint.overrides += [
            f"router.artifact={artifact(folder, 'first')}",
            "serve.min_replicas=2",
            "serve.max_replicas=2",
            "serve.num_cpus=0.5",
            "serve.max_ongoing=8",
        ]
        endpoint.server.set_script(SLOW)
        deployed = endpoint.deploy()
        assert deployed.returncode == 0, deployed.stderr[-3000:]
        yield endpoint


async def test_the_endpoint_answers_on_serve(running: EndpointOnRay) -> None:
    async with running.client() as client:
        raw = await client.chat.completions.with_raw_response.create(model="moa", messages=HELLO)
        stream = await client.chat.completions.create(model="moa", messages=HELLO, stream=True)
        at = [time.monotonic() async for _ in stream]

    assert raw.headers["x-moa-model"] == raw.parse().model
    assert at[-1] - at[0] > 0.1  # it came in pieces


def test_nothing_of_the_proxy_listens_elsewhere(running: EndpointOnRay) -> None:
    listening = {
        (one.laddr.ip, one.laddr.port)
        for pid in running.haproxies()
        for one in psutil.Process(pid).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }

    assert len(listening) == 3  # the endpoint, HAProxy's statistics, its metrics
    assert {host for host, _ in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_seen_upstream(
    running: EndpointOnRay, stream: bool
) -> None:
    before = len(running.server.ledger())
    document = {"model": STRAIGHT, "messages": HELLO, "stream": stream}

    async def ask() -> None:
        url = f"{running.url}/v1/chat/completions"
        async with aiohttp.ClientSession() as http, http.post(url, json=document) as answer:
            async for _ in answer.content:
                pass

    asking = asyncio.create_task(ask())
    await asyncio.to_thread(until, lambda: len(running.server.ledger()) > before)
    await asyncio.sleep(0.4)
    asking.cancel()

    await asyncio.to_thread(until, lambda: running.server.ledger()[before]["fate"] == "client_left")


async def test_more_than_it_takes_is_refused_with_an_error_object(running: EndpointOnRay) -> None:
    document = {"model": STRAIGHT, "messages": HELLO}

    async def ask(http: aiohttp.ClientSession) -> tuple[int, str, dict[str, object]]:
        async with http.post(f"{running.url}/v1/chat/completions", json=document) as answer:
            return answer.status, answer.headers.get("Retry-After", ""), await answer.json()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        answers = await asyncio.gather(*(ask(http) for _ in range(300)))

    refused = [answer for answer in answers if answer[0] != 200]
    assert {status for status, *_ in answers} == {200, 503}
    assert len(answers) - len(refused) >= 8
    for _, retry_after, body in refused:
        assert retry_after == "1"
        assert body["error"]["code"] == "busy"  # type: ignore[index]


async def test_a_router_is_replaced_under_load_and_nothing_is_lost(
    running: EndpointOnRay, tmp_path: Path
) -> None:
    newer = artifact(tmp_path, "second")
    before = running.replicas("ingress")

    async with running.client() as client:
        versions: list[str] = []
        asking = [asyncio.create_task(load(client, versions, n, seconds=20)) for n in range(6)]
        await asyncio.sleep(2)
        deployed = await asyncio.to_thread(running.deploy, f"router.artifact={newer}")
        await asyncio.gather(*asking)

    assert deployed.returncode == 0, deployed.stderr[-3000:]
    assert len(set(versions)) == 2
    assert versions[0] != versions[-1]
    await asyncio.to_thread(until, lambda: not (running.replicas("ingress") & before), 40)


async def test_a_connection_that_is_kept_outlives_the_replicas_behind_it(
    running: EndpointOnRay,
) -> None:
    """What of HAProxy was before an update knows the old replicas only."""
    before = running.replicas("ingress")
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=120)
    async with aiohttp.ClientSession(connector=connector) as http:
        async with http.get(f"{running.url}/v1/models") as first:
            await first.read()
        deployed = await asyncio.to_thread(running.deploy, "max_usd_per_query=5")
        await asyncio.to_thread(until, lambda: not (running.replicas("ingress") & before), 60)
        async with http.get(f"{running.url}/v1/models") as second:
            status = second.status

    assert deployed.returncode == 0, deployed.stderr[-3000:]
    assert status == 200


async def test_a_killed_replica_costs_no_client_of_openai_its_answer(
    running: EndpointOnRay,
) -> None:
    async with running.client(retries=4) as client:
        seen: list[str] = []
        asking = [asyncio.create_task(load(client, seen, n, seconds=12)) for n in range(6)]
        await asyncio.sleep(2)
        os.kill(min(running.replicas("ingress")), signal.SIGKILL)
        results = await asyncio.gather(*asking, return_exceptions=True)

    # A stream that was in its middle ends with an error: nobody can say its rest.
    broken = [one for one in results if isinstance(one, BaseException)]
    sys.stdout.write(f"{len(broken)} of 3 streams broke\n")
    assert len(broken) <= 3
    assert all(number % 2 for number, one in enumerate(results) if isinstance(one, BaseException))
    await asyncio.to_thread(until, lambda: len(running.replicas("ingress")) == 2, 60)


async def test_without_retries_a_killed_replica_costs_what_it_had_taken_and_says_so(
    running: EndpointOnRay,
) -> None:
    """They may have been sent to a vendor: whoever sent them again would pay twice."""
    asked = len(running.server.ledger())
    async with running.client() as client:
        asking = [
            asyncio.create_task(client.chat.completions.create(model=STRAIGHT, messages=HELLO))
            for _ in range(8)
        ]
        await asyncio.to_thread(until, lambda: len(running.server.ledger()) == asked + 8)
        os.kill(min(running.replicas("ingress")), signal.SIGKILL)
        ended = await asyncio.gather(*asking, return_exceptions=True)
        after = await client.chat.completions.create(model=STRAIGHT, messages=HELLO)

    lost = [one for one in ended if isinstance(one, BaseException)]
    assert 0 < len(lost) < 8
    for error in lost:  # HAProxy cuts where its own connection to the replica was not a new one
        cut = isinstance(error, openai.APIConnectionError)
        assert cut or (isinstance(error, openai.APIStatusError) and error.code == "no_replica")
    assert len(running.server.ledger()) == asked + 9, "nothing was sent again"
    assert after.choices[0].message.content
    await asyncio.to_thread(until, lambda: len(running.replicas("ingress")) == 2, 60)
