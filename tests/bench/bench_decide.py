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
import threading
import time
from pathlib import Path
from random import Random

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from moa.config import RouteBatchConfig, load_config
from moa.pipeline.graph import decide_backlog, scan_backlog
from moa.pipeline.job import check_job
from moa.pipeline.run import local_ray
from moa.storage.run_folder import RunFolder
from tests.bench.results import record

ROWS_PER_FILE = 100_000
ROWS_PER_GROUP = 50_000
WORDS = """
how many which of the following numbers is a prime function that returns list sorted by date explain
why integral from zero to one matrix rank graph shortest path email summary translate into French
quarterly report customers refund policy write python regex unit test
"""


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
        peaks = watch.stop()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        seconds = json.loads((Path(folder) / "seconds.json").read_text())
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, **peaks}


def generate(folder: Path, rows: int) -> None:
    """Prompts of 5 to 120 words, a hundredth of them equal to an earlier one."""
    folder.mkdir()
    random, words = Random(7), WORDS.split()
    for start in range(0, rows, ROWS_PER_FILE):
        numbers = range(start, min(start + ROWS_PER_FILE, rows))
        prompts = [" ".join(random.choices(words, k=random.randint(5, 120))) for _ in numbers]
        prompts[1::100] = prompts[0::100][: len(prompts[1::100])]
        table = pa.table({"query_id": [f"q{n:09d}" for n in numbers], "prompt": prompts})
        pq.write_table(table, folder / f"{start:09d}.parquet", row_group_size=ROWS_PER_GROUP)


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


class Watch:
    """Samples the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peak = self._largest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """The peaks, in MB."""
        self._ended.set()
        self._thread.join()
        return {"peak_pss_mb": self._peak / 1e6, "largest_process_mb": self._largest / 1e6}

    def _sample(self) -> None:
        while not self._ended.wait(0.5):
            sizes = []
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    sizes.append(process.memory_full_info().pss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self._peak = max(self._peak, sum(sizes))
            self._largest = max(self._largest, *sizes)


if __name__ == "__main__":
    main()
