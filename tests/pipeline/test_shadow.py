"""Another router beside the run's own: compared, never acted on, and never in the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from moa.pipeline.job import Job
from moa.pipeline.shadow import shadow_backlog, shadow_of, shadow_problem
from moa.pipeline.stop import Stop
from moa.router.artifact import read_artifact, write_artifact
from moa.schema import SHADOW_DECISIONS
from moa.stages import Shadow
from moa.storage.run_folder import RunFolder
from moa.storage.shadow_folder import ShadowFolder
from tests.reports.recorded_night import RECORDINGS, answer, decided, recorded, report

QUERIES = 200
EMBEDDED = "moa/router/embedded"


@pytest.fixture
def candidate(tmp_path: Path) -> str:
    """The embedded router, of whose models two are taken for each other."""
    artifact = read_artifact(EMBEDDED)
    tensors = dict(artifact.tensors)
    heads = tensors["heads.grade"].copy()
    heads[:, [1, 2]] = heads[:, [2, 1]]
    description = artifact.description.model_dump(exclude={"format", "sha256"})
    changed = {**tensors, "heads.grade": heads}
    write_artifact(tmp_path / "candidate", description, changed, ("", ""))
    return str(tmp_path / "candidate")


@pytest.fixture
def night(tmp_path: Path, candidate: str) -> Job:
    log = pq.read_table(RECORDINGS / "demo_backlog.parquet").slice(400, QUERIES)
    job = decided(tmp_path, log, f"router.shadow={candidate}", "queries.part_rows=60")
    answer(job)
    return job


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        logging_level=logging.WARNING,
    )  # fmt: skip
    yield
    ray.shutdown()


def decide_in_process(job: Job, *, parts: int | None = None) -> None:
    stage = Shadow(job.config.router, job.deciding, shadow_of(job), job.run_folder)
    names = RunFolder(job.run_folder).decided_parts()[:parts]
    assert len(list(stage(pa.table({"part": [str(name) for name in names]})))) == len(names)


def test_a_shadow_decides_as_a_run_with_it_would(
    tmp_path: Path, night: Job, candidate: str
) -> None:
    decide_in_process(night)

    folder = tmp_path / "with it"
    folder.mkdir()
    log = pq.read_table(tmp_path / "log.parquet")
    real = decided(folder, log, f"router.artifact={candidate}", "queries.part_rows=60")
    ours, theirs = RunFolder(night.run_folder), RunFolder(real.run_folder)
    shadow = ShadowFolder(night.run_folder)
    for part in ours.decided_parts():
        found, wanted = shadow.read(part), theirs.read_decisions(part)
        assert found.schema.equals(SHADOW_DECISIONS)
        for name in ("query_id", "model", "expected_grade", "expected_cost_usd", "novelty"):
            assert found[name].equals(wanted[name]), name
        assert found["router_version"].equals(wanted["router_version"])
        assert found["current_model"].equals(ours.read_decisions(part)["model"])


def test_the_report_says_where_a_shadow_differs_and_who_was_right(night: Job) -> None:
    decide_in_process(night)
    facts = {"artifact": "a", "version": "v", "seconds": 1.0, "failure": None}
    ShadowFolder(night.run_folder).note(facts)

    found = report(night).shadow

    assert found is not None
    run, shadow = RunFolder(night.run_folder), ShadowFolder(night.run_folder)
    rows = [row for part in run.decided_parts() for row in shadow.read(part).to_pylist()]
    elsewhere = [row for row in rows if row["model"] != row["current_model"]]
    assert (found.queries, found.elsewhere) == (QUERIES, len(elsewhere))
    assert len(elsewhere) > 30
    assert sum(number for _, _, number in found.moves) <= len(elsewhere)

    def grade(row: dict[str, str], whose: str) -> float:
        return float(recorded()[row["query_id"], row[whose]]["grade"])

    lead = [grade(row, "model") - grade(row, "current_model") for row in elsewhere]
    assert found.graded_queries == len(elsewhere)
    assert found.grade_difference is not None
    assert found.grade_difference.value == pytest.approx(np.mean(lead), abs=1e-6)
    assert [one.judge for one in found.judged] == ["current", "shadow"]
    by_current, by_shadow = found.judged
    value = float(night.config.policy.willingness_to_pay or 0)
    for one, better in ((by_current, -1), (by_shadow, 1)):  # each router prefers its own choices
        usd = float(one.shadow_usd - one.current_usd) / QUERIES
        assert better * (value * (one.shadow_grade - one.current_grade) - usd) > 0


@pytest.mark.slow
def test_a_shadow_goes_on_where_it_was_and_another_one_begins_anew(
    night: Job, local_ray: None
) -> None:
    decide_in_process(night, parts=2)
    folder = ShadowFolder(night.run_folder)
    version = shadow_of(night).router_version
    folder.note({"artifact": "a", "version": version, "seconds": 5.0, "failure": "stopped"})
    kept = Path(night.run_folder, "shadow", f"{folder.parts()[0]}.parquet")
    written = kept.stat().st_mtime_ns

    with Stop() as stop:
        shadow_backlog(night, stop)

    parts = RunFolder(night.run_folder).decided_parts()
    facts = folder.facts()
    assert folder.parts() == parts
    assert len(parts) > 2
    assert kept.stat().st_mtime_ns == written
    assert facts is not None
    assert facts["failure"] is None
    assert facts["seconds"] > 5
    router = night.config.router.model_copy(update={"shadow": EMBEDDED})
    other = replace(night, config=night.config.model_copy(update={"router": router}))

    with Stop() as stop:
        shadow_backlog(other, stop)

    versions = {v for part in parts for v in folder.read(part)["router_version"].to_pylist()}
    assert versions == {night.router_version}


def test_a_shadow_that_is_not_there_stops_nothing_and_is_told(night: Job) -> None:
    router = night.config.router.model_copy(update={"shadow": "nowhere/at all"})
    job = replace(night, config=night.config.model_copy(update={"router": router}))

    with Stop() as stop:
        shadow_backlog(job, stop)
    found = report(job).shadow

    assert found is not None
    assert found.failure is not None
    assert "nowhere/at all" in found.failure
    assert (found.queries, found.version) == (0, None)
    (warning,) = shadow_problem(job)
    assert "The run goes on without it" in warning
    assert shadow_problem(night) == []


@pytest.mark.slow
def test_a_shadow_that_breaks_in_the_middle_stops_nothing_and_is_told(
    night: Job, local_ray: None
) -> None:
    part = RunFolder(night.run_folder).decided_parts()[1]
    damaged = Path(night.run_folder, "queries", f"{part}.parquet")
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no Parquet")

    with Stop() as stop:
        shadow_backlog(night, stop)

    facts = ShadowFolder(night.run_folder).facts()
    assert facts is not None
    assert facts["failure"]
    damaged.write_bytes(whole)
    found = report(night).shadow
    assert found is not None
    assert found.failure == facts["failure"]
    assert found.queries < QUERIES
