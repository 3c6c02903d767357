"""How long a job is reckoned to take, and what it takes, where requests a minute bind.

    python -m tests.bench.bench_sizing                 # 3 minutes
    python -m tests.bench.bench_sizing --rpm 1200      # a trial: printed, not kept

The demo's job on its 1,158 recorded queries, at a replay server whose models have such a limit. The
reckoning knows the whole log, or a sample of 300 (the first ones of each row group), and nothing of
the run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from moa.pipeline.sized import size_run
from moa.pipeline.sizing_config import SizeRunConfig
from moa.reports.sizing import document
from tests.bench.results import record
from tests.jobs.conftest import JobUnderTest, job_in

ROWS, RPM, SAMPLE = 1158, 240, 300


def main() -> None:
    """Reckon, run, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rpm", type=int, default=RPM, help="of each model")
    rpm = parser.parse_args().rpm
    with (
        tempfile.TemporaryDirectory() as folder,
        job_in(Path(folder), rows=ROWS, part_rows=300, limits=f"rpm = {rpm}") as job,
    ):
        whole, sampled = _reckoned(job, ROWS), _reckoned(job, SAMPLE)
        began = time.monotonic()
        status, _, said = job.start().wait(900)
        if status:
            raise SystemExit(said[-4000:])
        found = {
            **_compared(whole, job, time.monotonic() - began),
            "sampled_calls_s": round(sampled["spans_s"]["calls"]["expected"], 1),
            "sampled_usd": round(sampled["cost_usd"]["calls"]["expected"], 4),
        }
    for name, value in found.items():
        print(f"{name:24} {value}")
    if rpm == RPM:
        record("sizing", {"rpm": rpm, "rows": ROWS, "sample": SAMPLE, **found})


def _reckoned(job: JobUnderTest, rows: int) -> dict[str, Any]:
    config = SizeRunConfig(job=str(job.config), sample_rows=rows, machines="configured")
    (size,) = document(size_run(config))["sizes"]
    return dict(size)


def _compared(size: dict[str, Any], job: JobUnderTest, wall_s: float) -> dict[str, Any]:
    outcomes = pq.read_table(job.folder / "outcomes", columns=["finished_at", "cost_usd"])
    first, last = (moment.as_py() for moment in pc.min_max(outcomes["finished_at"]).values())
    calls_s, told_s = (last - first).total_seconds(), size["spans_s"]["calls"]["expected"]
    usd, told_usd = float(pc.sum(outcomes["cost_usd"]).as_py()), size["cost_usd"]["calls"]
    return {
        "binds": ", ".join(size["binds"]),
        "calls_s": round(calls_s, 1),
        "calls_reckoned_s": round(told_s, 1),
        "calls_ratio": round(calls_s / told_s, 3),
        "wall_s": round(wall_s, 1),
        "wall_reckoned_s": round(size["ends_in_s"]["expected"], 1),
        "wall_ratio": round(wall_s / size["ends_in_s"]["expected"], 3),
        "usd": round(usd, 4),
        "usd_reckoned": round(told_usd["expected"], 4),
        "usd_held": told_usd["low"] <= usd <= told_usd["high"],
    }


if __name__ == "__main__":
    main()
