"""`ray job submit` against a running cluster, which is started in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import QUERIES, RAY, ROOT, JobUnderTest, cluster

OPTIONS = (
    "num_cpus=5, include_dashboard=True, dashboard_host='127.0.0.1', dashboard_port=0, "
    "object_store_memory=1 << 30"
)


@pytest.fixture
def address() -> Iterator[str]:
    """For job submission."""
    with cluster(OPTIONS, says="context.dashboard_url") as dashboard:
        yield f"http://{dashboard}"


@pytest.mark.slow
def test_a_submitted_job_runs_on_the_cluster(job: JobUnderTest, address: str) -> None:
    command = [
        str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address,
        "--working-dir", ".", "--",
        sys.executable, "jobs/route_batch.py", "--config", str(job.config),
    ]  # fmt: skip

    done = _run(command)
    while "No available agent" in done.stderr:  # it comes up after the dashboard, and tells nobody
        done = _run(command)

    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert re.search(r"report: \S+/report\.html", done.stdout)
    assert pq.read_table(job.folder / "outcomes").num_rows == QUERIES
    assert len(job.server.ledger()) == QUERIES


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **RAY}, capture_output=True, text=True, timeout=250
    )
