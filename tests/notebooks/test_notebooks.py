"""Notebooks run from their first cell to their last, and keep no outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.conftest import Night, job_in
from tests.notebooks.conftest import ROOT, command

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLAIN = {"MPLBACKEND": "agg"}
COUNTS = """
import duckdb, json
found = duckdb.sql("SELECT count(*) FILTER (status = 'answered'), count(*) FILTER "
                   "(status = 'dead_letter'), sum(cost_usd) FROM outcomes").fetchall()[0]
print(json.dumps([found[0], found[1], str(found[2])]))
"""
"""What is asked of the views of `run_folder` once it has run."""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    notebook: Path, outcome_table: Path, run_folder: Path, judged: Path
) -> None:
    looks_at = {
        "OUTCOME_TABLE": outcome_table, "RUN": run_folder, "ROUTER": judged / "router",
        "EVALUATION": judged / "evaluation",
    }  # fmt: skip
    environ = {name: str(folder) for name, folder in looks_at.items()} | PLAIN
    words = ("-m", "pytest", "-q", "--nbmake", "-c", os.devnull, str(notebook))

    done = command(*words, environ=environ)

    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_what_was_sent_again_counts_once(tmp_path: Path) -> None:
    both, one = ({"outages": [{"provider": name, "to_s": 3600} for name in names]}
                 for names in (("openai", "anthropic"), ("anthropic",)))  # fmt: skip
    with job_in(tmp_path, rows=60) as under_test:
        under_test.server.set_script(both)
        under_test.run("dispatch.fallback=false", "dispatch.give_up_after_s=1")
        first = Night(under_test, under_test.folder.name)
        died = len(first.dead())
        under_test.server.set_script(one)
        first.redrive()

        shown = command(
            "-c", f"import runpy; runpy.run_path('run_folder.py')\n{COUNTS}",
            environ={"RUN": str(first.folder), **PLAIN}, cwd=ROOT / "notebooks",
        )  # fmt: skip

        report = first.report()
        assert shown.returncode == 0, shown.stderr[-3000:]
        assert 0 < report["dead_letters"] < died
        answered, dead, usd = json.loads(shown.stdout.splitlines()[-1])
        assert (answered, dead) == (report["answered"], report["dead_letters"])
        assert float(usd) == pytest.approx(float(report["cost_usd"]), abs=1e-12)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_no_outputs_and_is_its_pair(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    command = [sys.executable, "-m", "jupytext", "--to", "py:percent", "--output", "-"]

    again = subprocess.run([*command, notebook], capture_output=True, text=True, check=True)

    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    written = notebook.with_suffix(".py").read_text()
    assert again.stdout.split("# %%", 1)[1] == written.split("# %%", 1)[1]
