"""The nightly job and the endpoint on one cluster and one account: they share its limits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.jobs.conftest import job_in
from tests.serving.on_ray import endpoint_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]
RPM = 600
MODEL = "openai/gpt-4o-mini"
WINDOW_S = 75
"""As long as a minute's window needs to be full, at any place of it."""


async def test_the_endpoint_is_answered_the_night_has_the_rest_and_no_minute_is_exceeded(
    tmp_path: Path,
) -> None:
    (tmp_path / "night").mkdir()
    (tmp_path / "day").mkdir()
    with (
        job_in(tmp_path / "night", rows=4000, part_rows=500, limits=f"rpm = {RPM}") as job,
        endpoint_on_ray(tmp_path / "day") as running,
    ):
        job.server.set_script({"synthetic": True, "latency": {"median_s": 0.2, "sigma": 0.3}})
        deployed = running.deploy(f"catalog={tmp_path}/night/catalog.toml", f"pool=['{MODEL}']")
        assert deployed.returncode == 0, deployed.stderr[-3000:]
        start = job.start("run.id=night", f"pool=['{MODEL}']", RAY_ADDRESS=running.address)
        async with asyncio.timeout(150):  # until the job is busy; its vendor is who knows
            while len(job.server.ledger()) < RPM / 4:
                assert start.process.poll() is None
                await asyncio.sleep(0.5)
        async with running.client() as client:
            answered = await ask_for(client, WINDOW_S)
        peak = job.server.summary(window_s=60)["peaks"][MODEL]["requests"]
        start.kill(family=False)

    assert peak <= RPM, "in no minute, by both together"
    assert peak >= 0.9 * RPM, "the job takes what the endpoint leaves"
    assert answered > WINDOW_S, "of four a second, on a machine that is busy"


async def ask_for(client: AsyncOpenAI, seconds: float) -> int:
    """Four requests a second; how many, each of them answered at the first try: none has waited for
    its turn longer than the endpoint lets it, which is 10 s, behind a backlog of minutes.
    """

    async def ask(number: int) -> None:
        messages = [{"role": "user", "content": f"interactive {number}"}]
        await client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]

    asking: list[asyncio.Task[None]] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        asking.append(asyncio.create_task(ask(len(asking))))
        await asyncio.sleep(0.25)
    await asyncio.gather(*asking)
    return len(asking)
