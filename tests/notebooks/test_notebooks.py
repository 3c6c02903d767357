"""Notebooks run from their first cell to their last, and keep no outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.schema import LOGGED_GRADES
from moa.storage.outcome_table import Night, OutcomeTable

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def outcome_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of recorded answers; a tenth was explored, and a few have no grade."""
    folder = tmp_path_factory.mktemp("outcomes")
    backlog = pq.read_table(ROOT / "moa/recordings/demo_backlog.parquet").slice(0, 300)
    recorded = pq.read_table(ROOT / "moa/recordings/graded_outcomes.parquet").to_pylist()
    grades = {(row["query_id"], row["model"]): row for row in recorded}
    models = ("openai/gpt-4o", "openai/gpt-4o-mini")
    for day in (1, 2):
        began = datetime(2026, 11, day, tzinfo=UTC)
        night = Night(f"night-{day}", began)
        queries, rows = [], []
        for number, query in enumerate(backlog.to_pylist()):
            model = models[(number + day) % 2]
            if (graded := grades.get((query["query_id"], model))) is None:
                continue
            name, explored = f"{night.run_id}/{query['query_id']}", number % 10 == 0
            source = next(tag for tag in query["tags"] if tag.startswith("source:"))
            queries.append(
                {"query_id": name, "prompt": query["prompt"], "source": source,
                 "tags": query["tags"], "run_id": night.run_id}
            )  # fmt: skip
            missing = number % 50 == 0
            rows.append(
                {**graded, "query_id": name, "grade": None if missing else graded["grade"],
                 "reason": "no reference" if missing else None,
                 "propensity": 0.05 if explored else 0.95,
                 "rule": "explored" if explored else "best_value", "router_version": "b6891022224e",
                 "run_id": night.run_id, "cost_usd": Decimal("0.001"), "graded_at": began}
            )  # fmt: skip
        OutcomeTable(str(folder)).write(
            night,
            pa.Table.from_pylist(queries),
            pa.Table.from_pylist(rows, schema=LOGGED_GRADES),
            held_out_share=0.25,
        )
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, outcome_table: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--nbmake", "-c", os.devnull, str(notebook)]
    environ = {**os.environ, "OUTCOME_TABLE": str(outcome_table), "MPLBACKEND": "agg"}

    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_no_outputs_and_is_its_pair(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    command = [sys.executable, "-m", "jupytext", "--to", "py:percent", "--output", "-"]

    again = subprocess.run([*command, notebook], capture_output=True, text=True, check=True)

    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    written = notebook.with_suffix(".py").read_text()
    assert again.stdout.split("# %%", 1)[1] == written.split("# %%", 1)[1]
