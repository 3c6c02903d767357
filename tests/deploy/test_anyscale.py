"""`deploy/anyscale`: fields that Anyscale knows, and command lines that run."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_entrypoints import app, assert_finished, backlog_at, on_the_cluster
from tests.jobs.conftest import ROOT

ANYSCALE = ROOT / "deploy/anyscale"
WORKLOAD = {
    "name", "image_uri", "containerfile", "compute_config", "working_dir", "excludes",
    "requirements", "env_vars", "py_modules", "py_executable", "cloud", "project",
    "registry_login_secret", "ray_version", "connections", "priority",
}  # fmt: skip
JOB = WORKLOAD | {"entrypoint", "max_retries", "job_queue_config", "timeout_s", "tags"}
NODE = {
    "instance_type", "resources", "required_resources", "labels", "required_labels",
    "advanced_instance_config", "flags", "cloud_deployment",
}  # fmt: skip
KNOWN = {
    "job": JOB,
    "schedule": {"job_config", "cron_expression", "timezone"},
    "compute": {
        "cloud", "cloud_resource", "head_node", "worker_nodes", "min_resources", "max_resources",
        "zones", "enable_cross_zone_scaling", "advanced_instance_config", "flags",
        "auto_select_worker_config",
    },
}  # fmt: skip
"""Source: the dataclasses of the package anyscale 0.26.112, read on 2026-11-26: `job/models.py`,
`_private/workload/workload_config.py`, `schedule/models.py`, `compute_config/models.py`. Its own
classes judge in `test_anyscales_own_classes_take_the_files`, where there is a Python with them.
"""
JUDGE = """\
import sys, yaml
from anyscale.compute_config.models import ComputeConfig
from anyscale.job.models import JobConfig
from anyscale.schedule.models import ScheduleConfig
kinds = {"compute": ComputeConfig, "job": JobConfig, "schedule": ScheduleConfig}
for name, kind in kinds.items():
    document = yaml.safe_load(open(f"{sys.argv[1]}/{name}.yaml"))
    kind.from_dict(document)
    try:
        kind.from_dict({**document, "no_such_field": 1})
    except TypeError:
        continue
    raise AssertionError(f"{name}: anything goes")
"""

__all__ = ["app"]


def written(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ANYSCALE / f"{name}.yaml").read_text())
    return document


def job_of(name: str) -> dict[str, Any]:
    document = written(name)
    job: dict[str, Any] = document.get("job_config", document)
    return job


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_has_fields_that_anyscale_knows(name: str) -> None:
    document = written(name)

    assert document.keys() <= KNOWN[name]
    assert document.get("job_config", {}).keys() <= JOB
    assert document.get("head_node", {}).keys() <= NODE
    for group in document.get("worker_nodes", []):
        assert group.keys() <= NODE | {"name", "min_nodes", "max_nodes", "market_type"}


@pytest.mark.slow
def test_anyscales_own_classes_take_the_files() -> None:
    python = os.environ.get("MOA_ANYSCALE_PYTHON")
    if python is None:
        pytest.skip("MOA_ANYSCALE_PYTHON names no Python with the package anyscale, of 319 MB")

    done = subprocess.run([python, "-c", JUDGE, str(ANYSCALE)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ["job", "schedule"])
def test_no_key_is_in_a_file(name: str) -> None:
    """Anyscale keeps `env_vars` as they are."""
    assert job_of(name)["env_vars"].keys() <= {"RUN_ID", "RAY_USAGE_STATS_ENABLED"}


def test_the_schedule_runs_what_the_job_runs() -> None:
    job, nightly = job_of("job"), job_of("schedule")

    entrypoint = nightly["entrypoint"].partition("&& ")[2]
    assert entrypoint == job["entrypoint"]
    left_out = {"entrypoint", "env_vars"}
    assert {k: v for k, v in nightly.items() if k not in left_out} == {
        k: v for k, v in job.items() if k not in left_out
    }


def test_all_tries_of_a_night_begin_on_its_date() -> None:
    """A schedule passes no date, so a try that began after midnight would be another run."""
    document = written("schedule")
    minute, hour, *days = document["cron_expression"].split()
    job = document["job_config"]

    begins_s = int(hour) * 3600 + int(minute) * 60
    assert days == ["*", "*", "*"]
    assert document["timezone"] == "UTC"
    assert begins_s + (1 + job["max_retries"]) * job["timeout_s"] < 24 * 3600


@pytest.mark.slow
def test_the_schedules_command_line_runs_the_night(app: Path, tmp_path: Path) -> None:
    """The job's is a part of it."""
    for day in (datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)):  # it may be midnight
        backlog_at(tmp_path / "log" / f"nightly-{day:%Y-%m-%d}")
    job = job_of("schedule")
    assert "s3://example-llm-logs/nightly" in job["entrypoint"]
    line = job["entrypoint"].replace("s3://example-llm-logs/nightly", str(tmp_path / "log"))
    variables = "".join(f"export {key}={value}; " for key, value in job["env_vars"].items())

    done = on_the_cluster(f"{variables}{line}", app)

    assert done.returncode == 0, done.stderr[-4000:]
    (run,) = (app / "runs").iterdir()
    assert_finished(app, run.name)
