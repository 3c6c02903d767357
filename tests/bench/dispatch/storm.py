"""W4: a storm of faults. What is lost, what is bought twice, and how long it takes."""

from __future__ import annotations

from dataclasses import replace

from moa.replay.process import replay_server
from tests.bench.dispatch.figures import Figure, Result, Target
from tests.bench.dispatch.ideal import latencies_s, schedule_s
from tests.bench.dispatch.process import BARE, OURS, SDK, measure
from tests.bench.dispatch.work import Work

CALLS = 3_000
IN_FLIGHT = 256
BURST_S = 0.05
"""That each drawn 429 shuts the door for, and says so. One call in 250 draws one; with those that
it catches on their way, 7 in 100 of ours and 15 in 100 of the bare loop's calls are refused."""
TIMEOUT_S = 10.0
"""Of a call, for all: with the SDKs' 600 s it would not end today."""
ATTEMPTS = 6
SCRIPT = {
    "latency": {"median_s": 0.34, "sigma": 0.5},
    "faults": {
        "status_500": 0.02,
        "reset": 0.01,
        "hang": 0.01,
        "rate_limited": 0.004,
        "burst_s": BURST_S,
        "retry_after_s": BURST_S,
        "cut_json": 0.005,
    },
}
_ALL = Target(reach=1, beyond=1, at_least=True)
_WALL = Target(reach=11, beyond=9)
_NONE = Target(reach=0, beyond=0)


def storm(scale: float) -> list[Result]:
    """Every fault at once."""
    share, wall, lost, twice, excused = {}, {}, {}, {}, {}
    calls = round(CALLS * scale)
    with replay_server(synthetic=True) as server:
        work = Work("openai", server.url, calls, IN_FLIGHT, timeout_s=TIMEOUT_S)
        for side in (BARE, SDK, OURS):
            retrying = replace(work, attempts=ATTEMPTS) if side == BARE else work
            measured = measure(side, retrying, server, SCRIPT)
            summary = server.summary()
            fates = summary["by_fate"]
            share[side] = measured.answered / calls
            wall[side], lost[side] = measured.wall_s, measured.lost
            twice[side] = summary["queries_billed_twice"]
            excused[side] = fates.get("cut_json", 0) + fates.get("reset", 0)
            ideal_s = schedule_s(latencies_s(server.ledger()), IN_FLIGHT)
    beyond = {side: max(0, twice[side] - excused[side]) for side in twice}
    figures = [
        Figure("share answered", share, digits=4, target=_ALL),
        Figure("wall s", wall, digits=1, target=_WALL),
        Figure("lost", lost, digits=0, target=_NONE),
        Figure("bought twice", twice, digits=0),
        Figure("cut and reset answers", excused, digits=0),
        Figure("bought twice beyond these", beyond, digits=0, target=_NONE),
    ]
    title = f"W4: {calls:,} queries, {IN_FLIGHT} in flight, a storm; without it {ideal_s:.1f} s"
    notes = [
        f"2 % 500s, 1 % resets, 1 % hang, 0.4 % 429s, each with {BURST_S:g} s of them, 0.5 % cut",
        f"time-out {TIMEOUT_S:g} s; {ATTEMPTS} attempts of the bare loop, the SDK's as it has them",
    ]
    return [Result(title, figures, notes)]
