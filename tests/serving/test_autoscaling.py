"""Ingress replicas come with the load and go when it has gone, and no stream is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.serving.on_ray import EndpointOnRay, deployed_endpoint, load, nothing_was_lost, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointOnRay]:
    """One ingress replica, or two where each would have more than four requests under way."""
    folder = tmp_path_factory.mktemp("endpoint")
    with deployed_endpoint(
        folder,
        "serve.max_replicas=2",
        "serve.num_cpus=0.5",
        "serve.target_ongoing=4",
        "serve.upscale_delay_s=1",
        "serve.downscale_delay_s=3",
        RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1",
        RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1",
    ) as endpoint:
        yield endpoint


async def test_replicas_follow_the_load_and_no_stream_is_cut(running: EndpointOnRay) -> None:
    """The load goes on, a little of it, while one of the two goes."""
    assert len(running.replicas("ingress")) == 1
    much_is_over, over = asyncio.Event(), asyncio.Event()
    async with running.client(retries=2) as client:
        seen: list[str] = []
        little = [asyncio.create_task(load(client, seen, 1, over)) for _ in range(2)]
        much = [asyncio.create_task(load(client, seen, n, much_is_over)) for n in range(14)]
        await asyncio.to_thread(until, lambda: len(running.replicas("ingress")) == 2, 90)
        both = running.replicas("ingress")
        much_is_over.set()
        await asyncio.gather(*much)
        await asyncio.to_thread(until, lambda: len(running.replicas("ingress")) == 1, 90)
        over.set()
        await asyncio.gather(*little)

    assert running.replicas("ingress") < both
    nothing_was_lost(running, 0, len(seen))
