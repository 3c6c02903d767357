"""Two jobs and somebody who waits for answers, on one account of one cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.conftest import KEYS, RAY, ROOT, JobUnderTest, cluster, job_in

pytestmark = pytest.mark.alone

RPM = 2400
MODEL = "openai/gpt-4o-mini"
OPTIONS = "num_cpus=8, include_dashboard=False, object_store_memory=1 << 30"


@pytest.fixture
def address() -> Iterator[str]:
    """Of a cluster that outlives the jobs, for RAY_ADDRESS."""
    with cluster(OPTIONS, says="context.address_info['gcs_address']") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_together_they_stay_inside_the_limits_and_use_them(tmp_path: Path, address: str) -> None:
    with job_in(tmp_path, rows=4000, part_rows=500, limits=f"rpm = {RPM}") as job:
        job.server.set_script({"synthetic": True, "latency": {"median_s": 0.2, "sigma": 0.3}})
        asking = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.interactive", str(job.config)],
            cwd=ROOT,
            env={**os.environ, **RAY, **KEYS, "RAY_ADDRESS": address},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            begin(job, address)
            until_busy(job)
            time.sleep(75)  # as long as a minute's window needs to be full, at any place of it
            peak = job.server.summary(window_s=60)["peaks"][MODEL]["requests"]
        finally:
            asking.terminate()
            said, _ = asking.communicate()
            stop_all(job)

        answered, slowest_s = said.split()[-2:]
        assert 0.97 * RPM <= peak <= RPM
        assert int(answered) > 100
        assert float(slowest_s) < 10, "calls that somebody waits for go before the jobs'"


def begin(job: JobUnderTest, address: str) -> None:
    """Two jobs with the same account, on the same cluster, with one model each."""
    for name in ("a", "b"):
        job.start(f"run.id={name}", f"pool=['{MODEL}']", RAY_ADDRESS=address)


def until_busy(job: JobUnderTest) -> None:
    """Both dispatch; the server's ledger is the only one who knows."""
    give_up_at = time.monotonic() + 120
    while len(job.server.ledger()) < RPM / 4:
        assert time.monotonic() < give_up_at
        assert all(start.process.poll() is None for start in job.starts)
        time.sleep(0.5)  # another process counts the calls, so it has to be asked


def stop_all(job: JobUnderTest) -> None:
    """The backlog is longer than the test."""
    for start in job.starts:
        start.kill(family=True)
