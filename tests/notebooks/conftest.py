"""What the notebooks look at: nights that were graded, a run, a router that was judged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.reports.run_report import write_report
from moa.schema import LOGGED_GRADES
from moa.storage.outcome_table import Night, OutcomeTable
from moa.storage.run_folder import RunFolder
from tests.reports.recorded_night import answer, decided, log_of, of_sources

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "moa/recordings"
SOURCES = ("zeroeval-crux", "zeroeval-gsm")
"""That the router knows: few, so that it is trained in seconds."""


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


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 recorded queries that has ended; a tenth was explored."""
    queries = log_of(of_sources(SOURCES, "demo", most=60))
    job = decided(tmp_path_factory.mktemp("run"), queries, "explore.share=0.1")
    answer(job)
    written = write_report(job.run_folder)
    RunFolder(job.run_folder).finish({"summary": written.summary})
    return Path(job.run_folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`router/` and `evaluation/`, as the jobs leave them of two sources of the recordings."""
    folder = tmp_path_factory.mktemp("judged")
    queries = pq.read_table(RECORDINGS / "queries.parquet")
    queries = queries.filter(pc.is_in(queries["source"], pa.array(SOURCES)))
    grades = pq.read_table(RECORDINGS / "graded_outcomes.parquet")
    grades = grades.filter(pc.is_in(grades["query_id"], queries["query_id"].combine_chunks()))
    pq.write_table(queries, folder / "queries.parquet")
    pq.write_table(grades, folder / "graded_outcomes.parquet")
    both = [f"recordings={folder}", f"artifact={folder}/router"]
    text = (ROOT / "jobs/configs/evaluate_router.toml").read_text()
    alone = [
        line for line in text.splitlines() if not line.startswith(("train_config", "left_out"))
    ]
    (folder / "evaluate.toml").write_text("\n".join(alone))
    small = [f"output={folder}/evaluation", "replicates=100", "perturb=false"]

    trained = job("train_router", "jobs/configs/train_router.toml", *both, "folds=3")
    evaluated = job("evaluate_router", folder / "evaluate.toml", *both, *small)

    assert trained.returncode == 0, trained.stderr
    assert evaluated.returncode in (0, 1), evaluated.stderr  # of so few the gate may say no
    return folder


def job(name: str, config: str | Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a job."""
    sets = [flag for one in overrides for flag in ("--set", one)]
    return command("jobs/" + name + ".py", "--config", str(config), *sets)


def command(
    *words: str,
    environ: Mapping[str, str] = {},
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Run Python on these words; on one thread, as others work beside it."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
    )
