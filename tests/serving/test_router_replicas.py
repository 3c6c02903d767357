"""Routers in processes of their own: scored together, killed, stopped, replaced by others."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import ray
from ray import serve

from moa.request import ChatRequest
from moa.router.artifact import CARDS, read_artifact, write_artifact
from moa.serving.config import ScoringConfig
from moa.serving.scoring import Ask, LocalScorer
from tests.jobs.conftest import ROOT
from tests.serving.on_ray import HELLO, EndpointOnRay, artifact, deployed_endpoint, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
POOL = [
    "openai/gpt-4o",
    "openai/gpt-4o-mini",
    "anthropic/claude-3.5-sonnet",
    "anthropic/claude-3-haiku",
    "google/gemini-1.5-pro",
    "google/gemini-1.5-flash",
]
MAX_WAIT_S = 2


class Decided(NamedTuple):
    """What an answer says of its decision."""

    version: str
    rule: str
    grades: dict[str, float]
    """By model."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointOnRay]:
    """Two ingress replicas, and two that score for them."""
    folder = tmp_path_factory.mktemp("endpoint")
    with deployed_endpoint(
        folder,
        f"router.artifact={artifact(folder, 'first')}",
        "router.replicas=2",
        "router.batch_wait_s=0.02",
        f"router.max_wait_s={MAX_WAIT_S}",
        "serve.min_replicas=2",
        "serve.max_replicas=2",
        "serve.num_cpus=0.5",
        script={"synthetic": True},
    ) as endpoint:
        yield endpoint


async def test_what_is_asked_at_once_is_scored_together(running: EndpointOnRay) -> None:
    before = await asyncio.to_thread(scorings, running)
    async with aiohttp.ClientSession() as http:
        for _ in range(5):
            await asyncio.gather(*(decide(http, running) for _ in range(64)))
    after = await asyncio.to_thread(scorings, running)

    asks, batches = after[0] - before[0], after[1] - before[1]
    assert asks >= 320
    assert batches < asks / 4, "from both ingress replicas, by both router replicas"


async def test_a_killed_router_replica_costs_no_request_and_no_decision(
    running: EndpointOnRay,
) -> None:
    async with aiohttp.ClientSession() as http:
        decided: list[Decided] = []
        over = asyncio.Event()
        asking = [
            asyncio.create_task(keep_deciding(http, running, decided, over)) for _ in range(12)
        ]
        await asyncio.to_thread(until, lambda: len(decided) > 50)
        killed = min(running.replicas("router"))
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: len(running.replicas("router") - {killed}) == 2, 60)
        over.set()
        await asyncio.gather(*asking)

    assert len(decided) > 100
    assert "router_out" not in {one.rule for one in decided}


async def test_while_no_router_replica_answers_the_default_model_does(
    running: EndpointOnRay,
) -> None:
    stopped = running.replicas("router")
    async with aiohttp.ClientSession() as http:
        assert (await health(http, running))[0] == 200
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            status, body = await health(http, running)
            clock = asyncio.get_running_loop().time
            began_at = clock()
            out = await asyncio.gather(*(decide(http, running) for _ in range(50)))
            took_s = clock() - began_at
            document = {"model": "moa", "messages": HELLO, "moa": True}
            async with http.post(f"{running.url}/v1/chat/completions", json=document) as answer:
                answered = answer.status, await answer.json()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert (status, body["error"]["code"]) == (503, "router_out")
        assert {(one.rule, one.version) for one in out} == {("router_out", "")}
        assert took_s < 5 * MAX_WAIT_S, "they wait beside each other, not one after the other"
        assert answered[0] == 200, answered
        explained = answered[1]["moa"]
        assert (explained["rule"], explained["router_version"]) == ("router_out", None)

        async with asyncio.timeout(60):
            while (await health(http, running))[0] != 200:  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.2)
        assert (await decide(http, running)).rule != "router_out"


async def test_an_answer_names_the_router_that_scored_it_while_one_replaces_another(
    running: EndpointOnRay, tmp_path: Path
) -> None:
    """The new one has other grades, and a pool in another order and with one model less."""
    first = Path(running.overrides[2].partition("=")[2])
    second = pessimist(tmp_path / "second")
    smaller = POOL[:0:-1]
    async with aiohttp.ClientSession() as http:
        decided: list[Decided] = []
        over = asyncio.Event()
        asking = [
            asyncio.create_task(keep_deciding(http, running, decided, over)) for _ in range(6)
        ]
        await asyncio.to_thread(until, lambda: len(decided) >= 6)
        before = running.replicas("ingress") | running.replicas("router")
        deployed = await asyncio.to_thread(
            running.deploy, f"router.artifact={second}", f"pool={smaller!r}"
        )
        await asyncio.to_thread(
            until,
            lambda: not before & (running.replicas("ingress") | running.replicas("router")),
            60,
        )
        over.set()
        await asyncio.gather(*asking)
        last = await decide(http, running)

    assert deployed.returncode == 0, deployed.stderr[-3000:]
    truth = dict(map(grades_by, (first, second)))
    assert {one.version for one in decided} - {""} == truth.keys()
    for one in decided:
        if one.rule != "router_out":
            wanted = truth[one.version]
            assert one.grades == {name: wanted[name] for name in one.grades}
    assert list(last.grades) == smaller
    assert last.version == grades_by(second)[0]
    assert sum(one.rule == "router_out" for one in decided) < len(decided) / 20


async def decide(http: aiohttp.ClientSession, running: EndpointOnRay) -> Decided:
    document = {"messages": HELLO}
    async with http.post(f"{running.url}/v1/route", json=document) as answer:
        body = await answer.json()
        assert answer.status == 200, body
    (one,) = body["data"]
    return Decided(body["router_version"] or "", one["rule"], one["expected_grade"])


async def keep_deciding(
    http: aiohttp.ClientSession,
    running: EndpointOnRay,
    decided: list[Decided],
    over: asyncio.Event,
) -> None:
    while not over.is_set():
        decided.append(await decide(http, running))
        await asyncio.sleep(0.02)  # a load, not all that two cores can do


async def health(http: aiohttp.ClientSession, running: EndpointOnRay) -> tuple[int, Any]:
    async with http.get(f"{running.url}/healthz") as answer:
        return answer.status, await answer.json()


def scorings(running: EndpointOnRay) -> tuple[int, int]:
    """Asks and batches so far, of all router replicas."""
    ray.init(address=running.address, namespace="serve", log_to_driver=False)
    try:
        handle = serve.get_deployment_handle("router", "moa")
        by_replica: dict[str, tuple[int, int]] = {}
        while len(by_replica) < 2:  # whoever answers
            one = handle.scorings.remote().result(timeout_s=10)
            by_replica[one.replica] = (one.asks, one.batches)
    finally:
        ray.shutdown()
    asks, batches = zip(*by_replica.values(), strict=True)
    return sum(asks), sum(batches)


def pessimist(folder: Path) -> Path:
    """The embedded router, expecting less of each model."""
    embedded = read_artifact(str(ROOT / "moa/router/embedded"))
    description = embedded.description.model_dump(mode="json", exclude={"format", "sha256"})
    tensors = {**embedded.tensors, "heads.grade": embedded.tensors["heads.grade"] * 0.5}
    cards = [(ROOT / "moa/router/embedded" / name).read_text() for name in CARDS]
    write_artifact(folder, description, tensors, cards)
    return folder


def grades_by(folder: Path) -> tuple[str, dict[str, float]]:
    """Version and expected grades of a router, asked in this process."""
    scorer = LocalScorer.load(ScoringConfig(artifact=str(folder)), POOL)
    chat = ChatRequest.model_validate({"messages": HELLO})
    (scored,) = scorer.score_together([Ask((chat.text(),), tuple(POOL))])
    assert scored is not None
    grades = scored.scores.expected_grade[0]
    return scored.version, {name: round(float(g), 4) for name, g in zip(POOL, grades, strict=True)}
