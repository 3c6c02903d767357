"""A night submitted from outside of the cluster: by `ray job submit`, and by Airflow's task."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from moa.serving.haproxy import free_port
from tests.deploy.documents import blocks, commands
from tests.deploy.test_entrypoints import BIN, RUN_ID, app_at, assert_finished, backlog_at
from tests.jobs.conftest import RAY, ROOT

AIRFLOW = ROOT / "deploy/airflow"
STARTS = ("No available agent", "Failed to connect", "Connection refused")
"""What a cluster says that is not ready: its parts come up one by one, and tell nobody."""
TASK = """\
import logging, sys
from ray_submission import entrypoint, route_night
logging.basicConfig(level="INFO")
run_id, address, query_log, app, command = sys.argv[1:]
command = command or entrypoint(run_id, query_log=query_log, app=app)
route_night(run_id, command, address=address, every_s=0.5)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the cluster, for all nights of this file."""
    return app_at(tmp_path_factory.mktemp("cluster") / "app")


@pytest.fixture(scope="module")
def address(app: Path) -> Iterator[str]:
    """Of a cluster's job server; its nodes were started in /app. By `ray start`: of `ray.init` the
    node's agent, who takes jobs, has one port for all Rays of a machine.
    """
    dashboard, agent, client = free_port(), free_port(), free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=6",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--ray-client-server-port={client}", "--include-dashboard=true",
        f"--object-store-memory={1 << 30}", "--node-ip-address=127.0.0.1",
    ]  # fmt: skip
    env = {**os.environ, **RAY, "PATH": f"{BIN}:{os.environ['PATH']}"}  # `python`, as in images
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=app, env=env, stdout=quiet, stderr=quiet) as process:
        try:
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            ray = psutil.Process(process.pid)
            for one in (ray, *ray.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.kill()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nights' queries, in place of a bucket."""
    return tmp_path_factory.mktemp("queries") / "log"


def run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **RAY, "PATH": f"{BIN}:{os.environ['PATH']}", **environ}
    while True:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
        said = done.stdout + done.stderr
        if done.returncode == 0 or not any(one in said for one in STARTS):
            return done


def airflows_task(run_id: str, address: str, log: Path, app: Path, command: str = "") -> str:
    """What the task does, in a process as Airflow's; what it logs."""
    given = [run_id, address, str(log), str(app), command]
    done = run([sys.executable, "-c", TASK, *given], PYTHONPATH=str(AIRFLOW))
    return done.stderr if done.returncode == 0 else f"FAILED {done.stderr}"


@pytest.mark.slow
def test_airflows_task_submits_once_waits_and_goes_on(app: Path, address: str, log: Path) -> None:
    backlog_at(log / RUN_ID)

    failed = airflows_task(RUN_ID, address, log, app, "echo no disk; exit 3")
    retried = airflows_task(RUN_ID, address, log, app)
    again = airflows_task(RUN_ID, address, log, app)

    assert failed.startswith("FAILED")
    assert "no disk" in failed
    assert f"RuntimeError: {RUN_ID}: FAILED" in failed
    assert "report: " in retried
    assert_finished(app, RUN_ID)
    assert again.count("report: ") == 1  # of the submission before: nothing was started
    assert "has finished before" not in again


@pytest.mark.slow
def test_a_night_is_submitted_as_the_readme_says_and_not_twice(
    app: Path, address: str, log: Path
) -> None:
    run_id = "nightly-2026-11-27"
    backlog_at(log / run_id)
    (line,) = [
        one.text
        for block in blocks(ROOT / "deploy/README.md")
        for one in commands(block)
        if "job submit" in one.text and "--submission-id" in one.text
    ]
    line = line.replace("http://HEAD:8265", address).replace("/app", str(app))
    line = line.replace("s3://example-llm-logs/nightly", str(log))

    first, second = (run(["bash", "-c", line], RUN_ID=run_id) for _ in range(2))

    assert first.returncode == 0, (first.stdout + first.stderr)[-4000:]
    assert_finished(app, run_id)
    assert second.returncode != 0
    assert f"{run_id} already exists" in second.stdout + second.stderr


def test_airflows_folder_says_what_the_other_ways_say() -> None:
    """The same command line as KubeRay's and Anyscale's; the shell splits it into those words."""
    code = (
        "from ray_submission import *; print(entrypoint('nightly-1', query_log='s3://b/nightly/'))"
    )

    line = run([sys.executable, "-c", code], PYTHONPATH=str(AIRFLOW)).stdout

    assert shlex.split(line) == shlex.split(
        "cd /app && python jobs/route_batch.py --config config/nightly.toml "
        "--set run.id=nightly-1 --set queries.path=s3://b/nightly/nightly-1/"
    )


@pytest.mark.slow
def test_airflow_finds_one_dag_with_retries_that_meet_the_same_run(tmp_path: Path) -> None:
    python = os.environ.get("MOA_AIRFLOW_PYTHON")
    if python is None:
        pytest.skip("MOA_AIRFLOW_PYTHON names no Python with apache-airflow 3 and Ray")
    shutil.copytree(AIRFLOW, tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from airflow.dag_processing.dagbag import DagBag\n"
        "bag = DagBag(dag_folder='dags')\n"
        "(dag,) = bag.dags.values()\n"
        "(task,) = dag.tasks\n"
        "print(bag.import_errors, dag.dag_id, dag.catchup, dag.max_active_runs, task.retries)\n"
    )
    env = {
        "PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(tmp_path / "dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }  # fmt: skip

    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )

    assert done.stdout.splitlines()[-1:] == ["{} moa_nightly_backlog False 1 3"], done.stderr[
        -3000:
    ]
