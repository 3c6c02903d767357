"""W1: CPU of the caller per call when nothing is waited for: each side alone, and the whole job."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from moa.replay.process import replay_server
from tests.bench.backlog import generate
from tests.bench.dispatch.figures import Figure, Result, Target
from tests.bench.dispatch.process import BARE, OURS, SDK, SDK_AIOHTTP, Measured, measure
from tests.bench.dispatch.vendors import VENDORS
from tests.bench.dispatch.work import Work
from tests.bench.process_tree import Watch

CALLS = 20_000
NIGHT = 200_000
IN_FLIGHT = 64
WARM_UP_SHARE = 10
SDK_SHARE = 5
"""An SDK makes one call where others make so many: it takes ten times as long, and its CPU per call
does not depend on their number."""
MOST_WORDS = 12
"""Of a query of the job's: short ones, as the sides'."""
JOB = "whole job"
_QUICK = (BARE, OURS)
_ALONE = Target(reach=0.35, beyond=0.15)
_WHOLE = Target(reach=1.0, beyond=0.4)


def each_side(scale: float) -> list[Result]:
    """CPU per call of every side at every vendor."""
    figures = []
    with replay_server(synthetic=True) as server:
        for wire in VENDORS:
            spent: dict[str, Measured] = {}
            for side in (BARE, OURS, SDK, SDK_AIOHTTP):
                calls = round(CALLS * scale / (1 if side in _QUICK else SDK_SHARE))
                work = Work(wire, server.url, calls, IN_FLIGHT, warm_up=calls // WARM_UP_SHARE)
                spent[side] = measure(side, work, server)
                assert spent[side].lost == 0, spent[side].failed
            cpu = {side: one.cpu_ms for side, one in spent.items()}
            rate = {side: one.calls / one.wall_s for side, one in spent.items()}
            figures.append(Figure(f"{wire}: CPU ms a call", cpu, target=_ALONE))
            figures.append(Figure(f"{wire}: calls/s", rate, digits=0))
    title = f"W1: {round(CALLS * scale):,} short queries, no latency, no limits"
    return [Result(title, figures, ["the SDKs make a fifth of the calls"])]


class _JobRun(NamedTuple):
    cpu_s: float
    wall_s: float
    peak_pss_mb: float


def whole_job(scale: float) -> list[Result]:
    """CPU per call of the whole job on Ray: all of it, and without what its start costs."""
    most, least = round(CALLS * scale), round(CALLS * scale / 10)
    small, large = _job(least), _job(most)
    marginal = (large.cpu_s - small.cpu_s) / (most - least) * 1e3
    figures = [
        Figure("CPU ms a query", {JOB: large.cpu_s / most * 1e3}),
        Figure("the same, beyond its start", {JOB: marginal}, target=_WHOLE, judged=JOB),
        Figure(f"CPU s of {least:,} queries", {JOB: small.cpu_s}, digits=1),
        Figure(f"CPU s of {most:,} queries", {JOB: large.cpu_s}, digits=1),
        Figure("wall s", {JOB: large.wall_s}, digits=1),
        Figure("peak PSS MB", {JOB: large.peak_pss_mb}, digits=0),
    ]
    title = f"W1: jobs/route_batch.py on Ray, {most:,} generated queries, a pool of six models"
    note = "all processes but the replay server's: scan, score, decide, dispatch, report"
    return [Result(title, figures, [note])]


def long_job(scale: float) -> list[Result]:
    """The whole job on ten times the queries: what of its memory grows with them."""
    most, least = round(NIGHT * scale), round(NIGHT * scale / 10)
    small, large = _job(least), _job(most)
    figures = [
        Figure(f"peak PSS MB of {least:,} queries", {JOB: small.peak_pss_mb}, digits=0),
        Figure(f"peak PSS MB of {most:,} queries", {JOB: large.peak_pss_mb}, digits=0),
        Figure("times", {JOB: large.peak_pss_mb / small.peak_pss_mb}, digits=2),
        Figure("wall s", {JOB: large.wall_s}, digits=1),
        Figure("CPU ms a query", {JOB: large.cpu_s / most * 1e3}),
    ]
    return [Result(f"A long job: jobs/route_batch.py on Ray, {most:,} generated queries", figures)]


def _job(rows: int) -> _JobRun:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "log", rows, most_words=MOST_WORDS)
        settings = [
            f"queries.path={folder}/log",
            f"run.folder={folder}/runs",
            "run.id=bench",
            "replay.synthetic=true",
            "log.style=json",
        ]
        sets = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "jobs/route_batch.py", "--config", "jobs/configs/demo.toml"]
        environ = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            **os.environ,
        }
        with (Path(folder) / "said").open("w+b") as said:
            started = time.perf_counter()
            process = subprocess.Popen([*command, *sets], env=environ, stdout=said, stderr=said)
            watch = Watch(process.pid, apart="moa.replay")
            status = process.wait()
            wall_s = time.perf_counter() - started
            taken = watch.stop()
            if status:
                said.seek(0)
                raise SystemExit(f"the job ended with {status}:\n{said.read().decode()[-2000:]}")
    return _JobRun(taken.cpu_s, wall_s, taken.peak_pss_mb)
