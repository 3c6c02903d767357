"""`jobs/grade_outcomes.py` on runs whose completions crash their grader, and killed by SIGKILL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moa.storage.object_store import Folder
from moa.storage.outcome_table import GRADES, QUERIES, read_log
from tests.jobs.conftest import RAY, ROOT, Start
from tests.pipeline.answered_run import MODEL, Asked, answered_run

OWN = """
import os

def grade(completion, reference):
    with open(os.environ["GRADED"], "a") as log:
        log.write(completion + "\\n")
    if completion == "crash":
        os.kill(os.getpid(), 9)
    if completion == "wait":
        open(os.environ["GATE"]).read()
    return float(completion == reference)
"""
CONFIG = """
run = "{folder}/run"
table = "{table}"
workers = 1
[[graders]]
grader = "own_grader:grade"
options = {{ limit_s = 120.0 }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "own_grader.py").write_text(OWN)
    path = tmp_path / "grade.toml"
    path.write_text(CONFIG.format(folder=tmp_path, table=tmp_path / "table"))
    return path


def start(config: Path, *overrides: str) -> Start:
    folder = config.parent
    own = {
        "PYTHONPATH": str(folder), "GRADED": str(folder / "graded.log"),
        "GATE": str(folder / "gate"), "RAY_ADDRESS": "local",
    }  # fmt: skip
    sets = [flag for one in overrides for flag in ("--set", one)]
    process = subprocess.Popen(
        [sys.executable, "jobs/grade_outcomes.py", "--config", str(config), *sets],
        cwd=ROOT,
        env={**os.environ, **RAY, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Start(process)


def graded(config: Path) -> list[str]:
    """Completions in the order in which their grading began."""
    return (config.parent / "graded.log").read_text().split()


def test_what_crashes_its_grader_costs_one_item(config: Path) -> None:
    asked = [Asked("a?"), Asked("b?", completion="crash"), Asked("c?", completion="7"), Asked("d?")]
    answered_run(f"{config.parent}/run", asked)

    status, out, _ = start(config).wait()

    assert status == 0, out
    assert "4 completions: 3 graded, 1 without a grade" in out
    assert "1 without: its process was ended by SIGKILL" in out
    assert f"{MODEL:28}       3 graded, mean 0.667" in out
    table = Folder(str(config.parent / "table"))
    rows = {row["query_id"]: row for row in read_log(table, GRADES).to_pylist()}
    assert [rows[f"night/q{n}"]["grade"] for n in range(4)] == [1.0, None, 0.0, 1.0]
    assert table.names(QUERIES) == ["date=2026-11-24/night.parquet"]
    assert table.names(GRADES) == ["date=2026-11-24/night.parquet"]
    assert table.names("grading") == []


@pytest.mark.slow
def test_killed_it_goes_on_and_grades_nothing_twice(config: Path) -> None:
    os.mkfifo(config.parent / "gate")
    asked = [Asked(f"{n}?", completion=f"c{n}") for n in range(6)] + [
        Asked("w?", completion="wait")
    ]
    answered_run(f"{config.parent}/run", asked, part_rows=3)
    first = start(config)
    assert first.process.stdout is not None
    said = _until(first, "grading.part", times=2)
    assert sum("grading.part" in line for line in said) == 2, f"it ended too soon: {said}"

    first.kill(family=True)
    assert not (config.parent / "table" / QUERIES).exists()
    (config.parent / "gate").unlink()
    (config.parent / "gate").touch()
    status, out, _ = start(config).wait()

    assert status == 0, out
    assert "3 parts (2 by an earlier start)" in out
    begun = graded(config)
    assert sorted(one for one in begun if one != "wait") == [f"c{n}" for n in range(6)]
    assert "wait" in begun
    grades = pq.read_table(config.parent / "table" / GRADES)
    assert len(grades) == len(asked)


def _until(started: Start, text: str, *, times: int) -> list[str]:
    """Its lines until so many have the text."""
    assert started.process.stdout is not None
    lines: list[str] = []
    for line in started.process.stdout:
        lines.append(line)
        if sum(text in one for one in lines) == times:
            break
    return lines


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run=nowhere", "nowhere: no run has begun here"),
        ("graders=[{grader='poems'}]", "'poems' is none; there are"),
        ("graders=[{grader='no_such_module:grade'}]", "there is no module 'no_such_module'"),
        ("graders=[{grader='exact', options={depth=3}}]", "options of 'exact'"),
        ("held_out_share=1.0", "less than 1"),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    config: Path, override: str, said: str
) -> None:
    answered_run(f"{config.parent}/run", [Asked("a?")])

    status, out, _ = start(config, override).wait()

    assert status == 2
    assert said in out
    assert not (config.parent / "table" / QUERIES).exists()
