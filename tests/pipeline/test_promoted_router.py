"""A run takes the router that counts when it begins, and keeps it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from moa.config import load_config
from moa.pipeline.job import Job, check_job
from moa.router.artifact import read_artifact
from moa.router.facts import read_facts
from moa.router.promotions import Promotion, add, keep, latest
from moa.storage.object_store import Folder
from moa.storage.run_folder import RunFolder
from tests.router.artifacts import another_router


def promote(folder: Folder, url: str) -> str:
    artifact, last = read_artifact(url), latest(folder)
    one = Promotion(
        number=last.number + 1 if last else 1, artifact=keep(artifact, folder),
        version=artifact.version, verdict=None, verdict_sha256=None,
        promoted_at=datetime.now(UTC), by="ops", reason="a test",
    )  # fmt: skip
    assert add(folder, one)
    return artifact.version


def checked(home: Path, run: str) -> Job:
    overrides = [f"router.artifact={home}/routers", f"run.folder={home}/runs", f"run.id={run}"]
    return check_job(load_config("jobs/configs/demo.toml", overrides), environ={})


def test_a_run_that_is_started_again_keeps_the_router_it_began_with(tmp_path: Path) -> None:
    routers = Folder(str(tmp_path / "routers"))
    first = promote(routers, "moa/router/embedded")
    begun = checked(tmp_path, "monday")
    RunFolder(begun.run_folder).begin(begun.facts(), identity=begun.identity())

    second = another_router(tmp_path / "other")
    promote(routers, str(tmp_path / "other"))
    again, new = checked(tmp_path, "monday"), checked(tmp_path, "tuesday")

    assert (again.router_version, new.router_version) == (first, second)
    assert again.identity() == begun.identity()
    assert read_facts(again.router.artifact).version == first
    assert read_facts(new.router.artifact).version == second
    assert again.config.router.artifact == str(tmp_path / "routers")


def test_an_artifact_of_its_own_is_used_as_it_is(tmp_path: Path) -> None:
    overrides = [f"run.folder={tmp_path}/runs"]
    job = check_job(load_config("jobs/configs/demo.toml", overrides), environ={})

    assert job.router == job.config.router
