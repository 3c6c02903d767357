"""Each side in a process of its own, so that its CPU and its memory are its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import uvloop

from moa.replay.process import ReplayServer
from tests.bench.dispatch.ours import Ours
from tests.bench.dispatch.peers import Bare, Sdk
from tests.bench.dispatch.work import Side, Tally, Work

BARE, OURS, SDK, SDK_AIOHTTP = "bare loop", "dispatcher", "SDK", "SDK, aiohttp"
SDK_SECOND = "SDK, 1 s limiter"
SPAWN = multiprocessing.get_context("spawn")

_SIDES: Mapping[str, Callable[[Work], Side]] = {
    BARE: Bare,
    OURS: Ours,
    SDK: Sdk,
    SDK_AIOHTTP: partial(Sdk, on_aiohttp=True),
    SDK_SECOND: partial(Sdk, limiter_s=1),
}
_ON_UVLOOP = (BARE, OURS)
"""Ray's actors run on it; a plain script does not."""


class Measured(NamedTuple):
    """What a side took and gave."""

    calls: int
    answered: int
    lost: int
    failed: dict[str, int]
    cpu_s: float
    """User and system, all threads."""
    wall_s: float
    peak_rss_mb: float

    @property
    def cpu_ms(self) -> float:
        """A call."""
        return self.cpu_s / self.calls * 1e3


def measure(
    name: str, work: Work, server: ReplayServer, script: Mapping[str, object] | None = None
) -> Measured:
    """Have a side do its work; the server plays the script once the side is warm."""
    server.reset()
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(name, work, there))
    process.start()
    there.close()
    try:
        here.recv()
        server.reset()
        server.set_script(script or {})
        here.send("go")
        measured: Measured = here.recv()
    except EOFError:
        raise SystemExit(f"{name}: its process ended early") from None
    process.join()
    return measured


def _serve(name: str, work: Work, connection: Connection) -> None:
    run = uvloop.run if name in _ON_UVLOOP else asyncio.run
    connection.send(run(_measured(_SIDES[name], work, connection)))


async def _measured(open_side: Callable[[Work], Side], work: Work, go: Connection) -> Measured:
    side = open_side(work)
    side.prepare(work.prompts(warm_up=True))
    await side.run()
    side.prepare(work.prompts())
    go.send("warm")
    go.recv()
    cpu_s, started = _cpu_s(), time.perf_counter()
    tally: Tally = await side.run()
    spent_s, wall_s = _cpu_s() - cpu_s, time.perf_counter() - started
    await side.close()
    peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Measured(
        work.calls, tally.answered, tally.lost, dict(tally.failed), spent_s, wall_s, peak_rss_mb
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
