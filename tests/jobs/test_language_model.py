"""The nightly job on a router whose backbone is a language model, hosted by vLLM."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.router.facts import read_facts
from moa.storage.run_folder import RunFolder
from tests.jobs.conftest import ROOT, JobUnderTest
from tests.router.language_models import make_qwen, need

need("vllm", "torch", "transformers")
pytestmark = pytest.mark.slow

FEW = 300


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router on a tiny Qwen2, trained on a few of the recordings; its model is in its folder."""
    folder = tmp_path_factory.mktemp("router")
    model = make_qwen(folder / "qwen")
    recordings = folder / "recordings"
    recordings.mkdir()
    queries = pq.read_table(ROOT / "moa/recordings/queries.parquet")
    queries = queries.filter(pc.field("source") == "zeroeval-gsm").slice(0, FEW)
    graded = pq.read_table(ROOT / "moa/recordings/graded_outcomes.parquet")
    graded = graded.filter(pc.field("query_id").isin(queries["query_id"].combine_chunks()))
    pq.write_table(queries, recordings / "queries.parquet")
    pq.write_table(graded, recordings / "graded_outcomes.parquet")
    backbone = (
        f'{{kind="language_model", folder="{model}", name="model", copy_model=true, '
        'pooling="last", max_tokens=96, dtype="float32", '
        f"engine={{kv_cache_memory_bytes={32 << 20}}}}}"
    )
    overrides = (
        f"recordings={recordings}", f"artifact={folder / 'artifact'}", f"backbone={backbone}",
        "folds=3",
    )  # fmt: skip
    # In a process of its own: an engine that ends takes others of its process along.
    trained = subprocess.run(
        [
            sys.executable, "jobs/train_router.py", "--config", "jobs/configs/train_router.toml",
            *(flag for one in overrides for flag in ("--set", one)),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    return folder / "artifact"


def settings(artifact: Path) -> tuple[str, ...]:
    return (f"router.artifact={artifact}", f"router.engine.kv_cache_memory_bytes={32 << 20}")


def test_a_language_model_decides_a_backlog(job: JobUnderTest, artifact: Path) -> None:
    said = job.run(*settings(artifact))

    assert "240 queries: 240 answered" in said
    run = RunFolder(str(job.folder))
    decisions = pa.concat_tables(run.read_decisions(part) for part in run.decided_parts())
    grades = np.array(decisions["expected_grade"].to_pylist())
    assert grades.shape == (240, 6)
    assert len(np.unique(grades[:, 0].round(6))) > 100
    assert set(decisions["router_version"].to_pylist()) == {read_facts(str(artifact)).version}


def test_a_killed_engine_is_started_again(job: JobUnderTest, artifact: Path) -> None:
    start = job.start(*settings(artifact))
    decided_at_least(job, 1)

    start.kill_one("MapWorker(MapBatches(Score)")
    status, out, err = start.wait()

    assert status == 0, err[-3000:]
    assert "240 queries: 240 answered" in out


def test_another_model_than_the_router_was_trained_on_is_refused(
    job: JobUnderTest, artifact: Path, tmp_path: Path
) -> None:
    other = make_qwen(tmp_path / "other", num_hidden_layers=2)

    status, _, err = job.start(*settings(artifact), f"router.model.folder={other}").wait()

    assert status == 2
    assert "its weights (*.safetensors, config.json) have SHA-256" in err
    assert "Traceback" not in err


def decided_at_least(job: JobUnderTest, parts: int) -> None:
    """Wait until so many parts are decided."""
    run = RunFolder(str(job.folder))
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if len(run.decided_parts()) >= parts:
            return
        time.sleep(0.05)  # the job is another process: its files are all that is seen of it
    raise AssertionError("nothing was decided")
