"""A report of what is no run is refused in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("run", "said"),
    [("README.md", "Not a directory"), ("tests", "no run has begun here")],
)
def test_what_is_no_run_is_told_in_a_line(run: str, said: str) -> None:
    command = [sys.executable, "jobs/report_costs.py", run]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
