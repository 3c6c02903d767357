"""The endpoint on a Ray cluster: replicas come, go and die under load, and clients see nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import openai
import psutil
import pytest

from moa.storage.object_store import Folder
from tests.router.test_promotions import promote
from tests.serving.conftest import STRAIGHT
from tests.serving.on_ray import (
    HELLO,
    SLOW,
    EndpointOnRay,
    artifact,
    deployed_endpoint,
    load,
    nothing_was_lost,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointOnRay]:
    """Two ingress replicas, which score for themselves."""
    folder = tmp_path_factory.mktemp("endpoint")
    with deployed_endpoint(
        folder,
        f"router.artifact={artifact(folder, 'first')}",
        "serve.min_replicas=2",
        "serve.max_replicas=2",
        "serve.num_cpus=0.5",
        "serve.max_ongoing=8",
    ) as endpoint:
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


def test_the_proxy_asks_nobody_but_this_ray(running: EndpointOnRay) -> None:
    """Another one on the machine has its own replicas, and its own proxy of Serve."""
    family = psutil.Process(running.pid).children(recursive=True)
    listening = {
        str(one.laddr.port)
        for process in family
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    asked = {name: at.rpartition(":")[2] for name, at in running.servers().items()}

    assert any("fallback" in name for name in asked)
    assert "8500" not in asked.values()
    assert set(asked.values()) <= listening


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
    before, calls = running.replicas("ingress"), len(running.server.ledger())

    async with running.client(retries=2) as client:
        versions: list[str] = []
        over = asyncio.Event()
        asking = [asyncio.create_task(load(client, versions, n, over)) for n in range(6)]
        await asyncio.to_thread(until, lambda: len(versions) >= 6)
        deployed = await asyncio.to_thread(running.deploy, f"router.artifact={newer}")
        await asyncio.to_thread(until, lambda: not (running.replicas("ingress") & before), 60)
        over.set()
        await asyncio.gather(*asking)

    assert deployed.returncode == 0, deployed.stderr[-3000:]
    assert len(set(versions)) == 2
    assert versions[0] != versions[-1]
    nothing_was_lost(running, calls, len(versions))


async def test_an_update_that_cannot_start_says_why_and_what_was_there_goes_on(
    running: EndpointOnRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_WHO_DEPLOYS_HAS_IT", "x" * 32)
    over = asyncio.Event()
    seen: list[str] = []
    calls = len(running.server.ledger())

    async with running.client(retries=2) as client:
        asking = [asyncio.create_task(load(client, seen, n, over)) for n in range(2)]
        failed = await asyncio.to_thread(
            running.deploy, "feedback.secret_env=ONLY_WHO_DEPLOYS_HAS_IT"
        )
        answered = len(seen)
        await asyncio.to_thread(until, lambda: len(seen) > answered)
        over.set()
        await asyncio.gather(*asking)

    nothing_was_lost(running, calls, len(seen))
    assert failed.returncode == 2, failed.stderr[-3000:]
    assert "ONLY_WHO_DEPLOYS_HAS_IT holds fewer than 16 bytes" in failed.stderr
    assert "Traceback" not in failed.stderr


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
    victim = await one_of_two(running)
    async with running.client(retries=4) as client:
        seen: list[str] = []
        over = asyncio.Event()
        asking = [asyncio.create_task(load(client, seen, n, over)) for n in range(6)]
        await asyncio.to_thread(until, lambda: len(seen) >= 6)
        os.kill(victim.pid, signal.SIGKILL)
        await is_replaced(running, victim)
        over.set()
        results = await asyncio.gather(*asking, return_exceptions=True)

    # A stream that was in its middle ends with an error: nobody can say its rest.
    broken = [one for one in results if isinstance(one, BaseException)]
    sys.stdout.write(f"{len(broken)} of 3 streams broke\n")
    assert len(broken) <= 3
    assert all(number % 2 for number, one in enumerate(results) if isinstance(one, BaseException))


async def test_without_retries_a_killed_replica_costs_what_it_had_taken_and_says_so(
    running: EndpointOnRay,
) -> None:
    """They may have been sent to a vendor: whoever sent them again would pay twice."""
    victim = await one_of_two(running)
    running.server.set_script({"synthetic": True, "latency": {"median_s": 5}})
    asked = len(running.server.ledger())
    async with running.client() as client:
        asking = [
            asyncio.create_task(client.chat.completions.create(model=STRAIGHT, messages=HELLO))
            for _ in range(8)
        ]
        await asyncio.to_thread(until, lambda: len(running.server.ledger()) == asked + 8)
        os.kill(victim.pid, signal.SIGKILL)
        ended = await asyncio.gather(*asking, return_exceptions=True)
        running.server.set_script(SLOW)
        after = await client.chat.completions.create(model=STRAIGHT, messages=HELLO)

    lost = [one for one in ended if isinstance(one, BaseException)]
    assert 0 < len(lost) < 8
    for error in lost:  # HAProxy cuts where its own connection to the replica was not a new one
        cut = isinstance(error, openai.APIConnectionError)
        assert cut or (isinstance(error, openai.APIStatusError) and error.code == "no_replica")
    assert len(running.server.ledger()) == asked + 9, "nothing was sent again"
    assert after.choices[0].message.content
    await is_replaced(running, victim)


async def test_a_router_that_is_promoted_is_loaded_once_it_is_deployed_and_not_before(
    running: EndpointOnRay, tmp_path: Path
) -> None:
    """A replica that is started again in between is of the version that was deployed."""
    routers = Folder(str(tmp_path / "routers"))
    first = promote(routers, str(artifact(tmp_path, "candidate")))
    deployed = await asyncio.to_thread(running.deploy, f"router.artifact={routers.url}")
    assert deployed.returncode == 0, deployed.stderr[-3000:]
    second = promote(routers, str(artifact(tmp_path, "its successor")))

    victim = await one_of_two(running)
    os.kill(victim.pid, signal.SIGKILL)
    await is_replaced(running, victim)
    assert await versions_in_use(running) == {first}

    again = await asyncio.to_thread(running.deploy, f"router.artifact={routers.url}")
    assert again.returncode == 0, again.stderr[-3000:]
    await asyncio.to_thread(until, lambda: len(running.replicas("ingress")) == 2, 60)
    assert await versions_in_use(running) == {second}


class Victim(NamedTuple):
    """One of two ingress replicas."""

    pid: int
    reachable: set[str]
    """Names of both, as HAProxy knows them."""


async def one_of_two(running: EndpointOnRay) -> Victim:
    """Whom to kill, once no others are left from an update."""
    await asyncio.to_thread(
        until, lambda: len(running.reachable()) == len(running.replicas("ingress")) == 2, 60
    )
    return Victim(min(running.replicas("ingress")), running.reachable())


async def is_replaced(running: EndpointOnRay, killed: Victim) -> None:
    """Wait until another is in its place."""
    await asyncio.to_thread(
        until, lambda: len(found := running.reachable()) == 2 and found != killed.reachable, 90
    )


async def versions_in_use(running: EndpointOnRay) -> set[str]:
    """Of the routers of all ingress replicas: asked so often that none is left out."""
    async with running.client(retries=8) as client:
        answers = [
            await client.chat.completions.with_raw_response.create(model="moa", messages=HELLO)
            for _ in range(10)
        ]
    return {answer.headers["x-moa-router-version"] for answer in answers}
