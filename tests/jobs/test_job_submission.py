"""`ray job submit` against a running cluster, which is started in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import KEYS, QUERIES, RAY, ROOT, JobUnderTest

CLUSTER = """
import ray, time
context = ray.init(
    address="local", num_cpus=5, include_dashboard=True, dashboard_host="127.0.0.1",
    dashboard_port=0, object_store_memory=1 << 30, logging_level="error",
)
print("dashboard", context.dashboard_url, flush=True)
input()
"""


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address for job submission."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, **RAY, **KEYS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("dashboard"):
                    yield f"http://{line.split()[1]}"
                    break
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for one in family:
                if one.is_running():
                    one.kill()


@pytest.mark.slow
def test_a_submitted_job_runs_on_the_cluster(job: JobUnderTest, cluster: str) -> None:
    command = [
        str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster,
        "--working-dir", ".", "--",
        sys.executable, "jobs/route_batch.py", "--config", str(job.config),
    ]  # fmt: skip

    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **RAY}, capture_output=True, text=True, timeout=250
    )

    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert re.search(r"report: \S+/report\.html", done.stdout)
    assert pq.read_table(job.folder / "outcomes").num_rows == QUERIES
    assert len(job.server.ledger()) == QUERIES
