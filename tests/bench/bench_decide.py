"""A generated backlog through scoring and decision: rate, and memory against the backlog's size.

    python -m tests.bench.bench_decide                   # 100,000 rows, beside a tenth of them
    python -m tests.bench.bench_decide --rows 1000000

Each run is the real graph on a local Ray in a process of its own; nothing is called. Memory is
sampled over the whole tree of processes every half second, as proportional set size (PSS): what
processes share is counted once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

from moa.config import RouteBatchConfig, load_config
from moa.pipeline.graph import decide_backlog, scan_backlog
from moa.pipeline.job import check_job
from moa.pipeline.run import local_ray
from moa.storage.run_folder import RunFolder
from tests.bench.backlog import generate
from tests.bench.process_tree import Watch
from tests.bench.results import record


def main() -> None:
    """Run the two sizes and say how memory and rate compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    figures = [measure(rows // 10), measure(rows)]
    print("      rows  seconds   rows/s  peak PSS MB  largest process MB")
    for one in figures:
        print(
            f"{one['rows']:>10,} {one['seconds']:>8.1f} {one['rows_per_s']:>8,.0f} "
            f"{one['peak_pss_mb']:>12,.0f} {one['largest_process_mb']:>19,.0f}"
        )
    grown = figures[1]["peak_pss_mb"] / figures[0]["peak_pss_mb"]
    print(f"ten times the rows took {grown:.2f} times the memory")
    record("decide", {"runs": figures, "memory_ratio": round(grown, 3)})


def measure(rows: int) -> dict[str, float]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "log", rows)
        process = multiprocessing.get_context("spawn").Process(target=decide, args=(folder,))
        process.start()
        assert process.pid is not None
        watch = Watch(process.pid)
        process.join()
        taken = watch.stop()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        seconds = json.loads((Path(folder) / "seconds.json").read_text())
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, **taken._asdict()}


def decide(folder: str) -> None:
    """Scan, score and decide."""
    config = config_of(folder)
    job = check_job(config, environ=os.environ)
    run = RunFolder(job.run_folder)
    run.begin(job.facts(), identity=job.identity())
    with local_ray(job):
        started = time.perf_counter()
        scan_backlog(job)
        rows = sum(
            sum(table.column("rows").to_pylist()) for table in decide_backlog(job, frozenset())
        )
        seconds = time.perf_counter() - started
    assert rows == run.scanned_queries()
    (Path(folder) / "seconds.json").write_text(json.dumps(seconds))


def config_of(folder: str) -> RouteBatchConfig:
    """The demo's, with the generated backlog."""
    return load_config(
        "jobs/configs/demo.toml",
        [
            f"queries.path={folder}/log",
            "queries.dedupe=true",
            f"run.folder={folder}/runs",
            "run.id=bench",
        ],
    )


if __name__ == "__main__":
    main()
