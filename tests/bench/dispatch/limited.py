"""W3: is the permitted rate used, and never exceeded? On one account, and on three."""

from __future__ import annotations

from collections.abc import Sequence

from moa.replay.process import ReplayServer, replay_server
from tests.bench.dispatch.figures import Figure, Result, Target
from tests.bench.dispatch.ideal import wall_s
from tests.bench.dispatch.process import OURS, SDK, SDK_SECOND, measure
from tests.bench.dispatch.work import Work

CALLS_AN_ACCOUNT = {1: 3_000, 3: 2_000}
"""Number of accounts → calls of each."""
RPM = 6_000
BURST_S = 1
IN_FLIGHT = 256
SCRIPT = {
    "limits": {"openai": {"rpm": RPM, "burst_s": BURST_S}},
    "latency": {"median_s": 0.2, "sigma": 0.5},
}
_SHARE = Target(reach=0.97, beyond=0.985, at_least=True)
_REFUSED = Target(reach=5, beyond=0)
_NONE = Target(reach=0, beyond=0)


def limited(scale: float) -> list[Result]:
    """One account, then three."""
    with replay_server(synthetic=True) as server:
        return [
            _limited(server, 1, (OURS, SDK, SDK_SECOND), scale),
            _limited(server, 3, (OURS, SDK), scale),
        ]


def _limited(server: ReplayServer, accounts: int, sides: Sequence[str], scale: float) -> Result:
    each = round(CALLS_AN_ACCOUNT[accounts] * scale)
    work = Work("openai", server.url, accounts * each, IN_FLIGHT, accounts=accounts, rpm=RPM)
    per_s = accounts * RPM / 60
    share, sent, refused, lost, minute, second = {}, {}, {}, {}, {}, {}
    for side in sides:
        measured = measure(side, work, server, SCRIPT)
        summary = server.summary(window_s=60)
        share[side] = measured.answered / per_s / wall_s(summary)
        arrived_s = [call["arrived_s"] for call in server.ledger()]
        sent[side] = len(arrived_s) / per_s / (arrived_s[-1] - arrived_s[0])
        refused[side] = summary["by_status"].get("429", 0)
        lost[side] = measured.lost
        minute[side] = _peak(summary)
        second[side] = _peak(server.summary(window_s=1))
    figures = [
        Figure("answers, of those permitted", share, target=_SHARE),
        Figure("calls, 429s too, of those permitted", sent),
        Figure("429s", refused, digits=0, target=_REFUSED),
        Figure("lost", lost, digits=0, target=_NONE),
        Figure("most in 60 s, an account", minute, digits=0),
        Figure("most in 1 s, an account", second, digits=0),
    ]
    ideal_s = each / RPM * 60
    title = f"W3: {accounts} x {each:,} queries at {RPM:,} a minute, ideally {ideal_s:g} s"
    late = "an answer comes after its call: the last one 0.2 to 0.8 s, which nobody can make good"
    note = "the SDK's retries are its own; its limiter is aiolimiter's, of a minute or of a second"
    return Result(title, figures, [late, note])


def _peak(summary: dict[str, dict[str, dict[str, int]]]) -> int:
    """Of requests that got no 429, in any window, of the account that had most."""
    return max(peak["requests"] for peak in summary["peaks"].values())
