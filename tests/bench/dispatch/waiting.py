"""W2: are the slots full? Slow answers, many in flight, against the best that could be done."""

from __future__ import annotations

from moa.replay.process import replay_server
from tests.bench.dispatch.figures import Figure, Result, Target
from tests.bench.dispatch.ideal import latencies_s, schedule_s, wall_s
from tests.bench.dispatch.process import BARE, OURS, SDK, SDK_AIOHTTP, measure
from tests.bench.dispatch.work import Work

CALLS = 5_000
IN_FLIGHT = 500
# With this seed no answer of many seconds comes last, behind which empty slots would not show.
SCRIPT = {"seed": 6, "latency": {"median_s": 0.8, "sigma": 0.5}}
_SHARE = Target(reach=0.96, beyond=0.98, at_least=True)


def waiting(scale: float) -> list[Result]:
    """Wall against the list schedule of the very latencies that the server had."""
    share, wall, cpu_ms, memory = {}, {}, {}, {}
    calls = round(CALLS * scale)
    with replay_server(synthetic=True) as server:
        work = Work("openai", server.url, calls, IN_FLIGHT)
        for side in (BARE, OURS, SDK, SDK_AIOHTTP):
            measured = measure(side, work, server, SCRIPT)
            assert measured.lost == 0, measured.failed
            wall[side] = wall_s(server.summary())
            share[side] = schedule_s(latencies_s(server.ledger()), IN_FLIGHT) / wall[side]
            cpu_ms[side], memory[side] = measured.cpu_ms, measured.peak_rss_mb
    figures = [
        Figure("share of the ideal", share, target=_SHARE),
        Figure("wall s", wall, digits=2),
        Figure("CPU ms a call", cpu_ms),
        Figure("peak RSS MB", memory, digits=0),
    ]
    title = f"W2: {calls:,} queries, {IN_FLIGHT} in flight, latency of median 0.8 s"
    return [Result(title, figures)]
