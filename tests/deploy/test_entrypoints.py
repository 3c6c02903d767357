"""What the manifests have pods do is done here: the same lines, in the same layout of folders."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from moa.serving.haproxy import free_port
from tests.deploy.manifests import KUBERAY, environ, pods, ray_pods, written
from tests.jobs.conftest import KEYS, RAY, ROOT, recorded_backlog

RUN_ID = "nightly-2026-11-26"
QUERIES = 60
BIN = Path(sys.executable).parent


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """As /app of the images."""
    return app_at(tmp_path / "app")


def app_at(folder: Path) -> Path:
    """As /app of the images, with the demo's config where the manifests mount the night's."""
    (folder / "config").mkdir(parents=True)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    (folder / "moa").symlink_to(ROOT / "moa")
    text = (ROOT / "jobs/configs/demo.toml").read_text()
    assert "jobs/configs/demo_catalog.toml" in text
    text = text.replace("jobs/configs/demo_catalog.toml", "config/catalog.toml")
    (folder / "config/nightly.toml").write_text(text)
    shutil.copy(ROOT / "jobs/configs/demo_catalog.toml", folder / "config/catalog.toml")
    return folder


def submitter(log: Path) -> dict[str, str]:
    """The submitter's environment, the bucket a folder with the backlog of the night."""
    (container,) = written("nightly.yaml")["spec"]["submitterPodTemplate"]["spec"]["containers"]
    env = environ(container, {"batch.kubernetes.io/job-name": RUN_ID})
    assert env["QUERY_LOG"].startswith("s3://")
    return env | {"QUERY_LOG": str(log)}


def backlog_at(folder: Path) -> None:
    folder.mkdir(parents=True)
    pq.write_table(recorded_backlog(QUERIES), folder / "backlog.parquet")


def as_kuberay_submits(entrypoint: str, env: dict[str, str]) -> str:
    """The line that the job's supervisor gets. KubeRay puts the entrypoint into a line for
    `bash -ce`, and `ray job submit` quotes the words that it gets from there.
    """
    join = "import shlex, sys; print(shlex.join(sys.argv[1:]))"
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(join)} {entrypoint.strip()} ;"
    done = subprocess.run(
        ["/bin/bash", "-ce", "--", line], env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def on_the_cluster(line: str, app: Path) -> subprocess.CompletedProcess[str]:
    """As the supervisor runs it: by a shell, in the container's working directory."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        line, shell=True, cwd=app, capture_output=True, text=True, timeout=240,
        env={**env, **KEYS, **RAY, "PATH": f"{BIN}:{env['PATH']}"},
    )  # fmt: skip


def assert_finished(app: Path, run_id: str) -> None:
    run = app / "runs" / run_id
    manifest = json.loads((run / "manifest.json").read_text())
    assert sum(manifest["outcomes"].values()) == QUERIES
    assert pq.read_table(run / "outcomes").num_rows == QUERIES


@pytest.fixture
def night(tmp_path: Path) -> str:
    """The line that runs it; its backlog is where that says."""
    log = tmp_path / "log"
    backlog_at(log / RUN_ID)
    return as_kuberay_submits(written("nightly.yaml")["spec"]["entrypoint"], submitter(log))


def test_the_night_runs_under_the_name_of_its_rayjob(app: Path, night: str) -> None:
    done = on_the_cluster(night, app)

    assert done.returncode == 0, done.stderr[-4000:]
    assert_finished(app, RUN_ID)


@pytest.mark.slow
def test_the_night_of_kuberays_own_schedule_runs(app: Path, tmp_path: Path) -> None:
    option = yaml.safe_load((KUBERAY / "options/ray_cron_job/ray_cron_job.yaml").read_text())
    entrypoint = option["metadata"]["annotations"]["moa-router/entrypoint"]
    line = as_kuberay_submits(entrypoint, submitter(tmp_path / "log"))
    run_id = next(word.split("=")[1] for word in shlex.split(line) if word.startswith("run.id="))
    assert run_id.startswith("nightly-20")
    backlog_at(tmp_path / "log" / run_id)

    done = on_the_cluster(line, app)

    assert done.returncode == 0, done.stderr[-4000:]
    assert_finished(app, run_id)


@pytest.mark.slow
def test_a_cluster_without_a_worker_gets_one_and_runs_the_night_that_kuberays_line_submits(
    app: Path, tmp_path: Path
) -> None:
    backlog_at(tmp_path / "log" / RUN_ID)
    there = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-cluster-and-no-other-" * 2,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    node = {**os.environ, **KEYS, **RAY, **there}
    env = {**os.environ, **submitter(tmp_path / "log"), **there}
    stranger = {**env, "RAY_AUTH_TOKEN": "another-" * 8}

    with ray_head(app, node) as (gcs, at), submitted(at, env) as submission:
        with ray_node(["--num-cpus=6", f"--address={gcs}"], app, node):
            said, _ = submission.communicate(timeout=250)
            status = by_bash(f"ray job status --address {at} {SUBMISSION_ID}", env)
        refused = by_bash(f"ray job list --address {at}", stranger)

    assert submission.returncode == 0, said[-4000:]
    assert "report.html" in said, said[-4000:]
    assert "succeeded" in status.stdout.lower()
    assert_finished(app, RUN_ID)
    assert refused.returncode != 0


SUBMISSION_ID = "nightly-2026-11-26-abcde"
SUBMISSION = """\
if ! ray job status --address {at} {id} >/dev/null 2>&1 ; \
then ray job submit --address {at} --no-wait --submission-id {id} \
--entrypoint-num-cpus {cpus:f} -- {entrypoint} ; fi ; \
ray job logs --address {at} --follow {id}"""
"""What KubeRay 1.7 has a submitter run in K8sJobMode, by `BuildJobSubmitCommand`."""


@contextmanager
def ray_head(app: Path, env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A head as KubeRay starts it, without CPUs: addresses of its GCS and of its dashboard."""
    gcs, dashboard = free_port(), free_port()
    # A folder of its own: Ray looks there for the cluster that a submitted job belongs to.
    with TemporaryDirectory(prefix="ray-") as folder:
        options = [
            "--head", "--num-cpus=0", f"--port={gcs}", f"--temp-dir={folder}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={free_port()}",
        ]  # fmt: skip
        with ray_node(options, app, env):
            yield f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"


@contextmanager
def ray_node(options: list[str], app: Path, env: dict[str, str]) -> Iterator[None]:
    """A node of a Ray cluster in processes of its own, once it has started."""
    command = [
        "ray", "start", "--block", "--node-ip-address=127.0.0.1", *options,
        f"--object-store-memory={100 << 20}", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=app, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert any("Ray runtime started" in line for line in process.stdout)
            yield
        finally:
            for one in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.kill()


@contextmanager
def submitted(at: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The submitter, once the job is submitted; where no agent was there yet, again, as its
    Kubernetes Job does.
    """
    spec = written("nightly.yaml")["spec"]
    cpus, entrypoint = spec["entrypointNumCpus"], spec["entrypoint"].strip()
    line = SUBMISSION.format(at=at, id=SUBMISSION_ID, cpus=cpus, entrypoint=entrypoint)
    while True:
        with subprocess.Popen(
            ["/bin/bash", "-ce", "--", line], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said = ""
            for text in process.stdout:
                said += text
                if "submitted successfully" in text:
                    yield process
                    return
        assert "No available agent" in said, said


def by_bash(line: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-ce", "--", line], env=env, capture_output=True, text=True, timeout=250
    )


def test_the_endpoint_is_built_where_its_manifest_says(app: Path) -> None:
    text = (ROOT / "jobs/configs/serve.toml").read_text()
    text = text.replace("jobs/configs/demo_catalog.toml", "config/catalog.toml")
    text = text.replace("open = true", 'tenants = "secrets/tenants.toml"')
    (app / "config/endpoint.toml").write_text(text)
    (app / "secrets").mkdir()
    (app / "secrets/tenants.toml").write_text(f'[tenants.search]\nkey_sha256 = ["{"0" * 64}"]\n')
    (served,) = yaml.safe_load(written("endpoint.yaml")["spec"]["serveConfigV2"])["applications"]
    module, name = served["import_path"].split(":")
    script = (
        f"from {module} import {name} as build\n"
        f"print(build({served['args']!r})._bound_deployment.name)\n"
    )

    done = on_the_cluster(shlex.join(["python", "-c", script]), app)

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split()[-1] == "ingress"


def test_a_pod_of_the_endpoint_goes_when_its_last_stream_has_ended() -> None:
    (container,) = ray_pods(written("endpoint.yaml"))["ingress"]["spec"]["containers"]
    python, script, _, serve, replicas = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (python, serve) == ("python", "8000")
    port = free_port()
    command = [sys.executable, script.replace("/scripts", str(KUBERAY / "base"))]

    with socket.create_server(("127.0.0.1", port)) as server:
        stream = socket.create_connection(("127.0.0.1", port))
        served, _ = server.accept()
        waiting = subprocess.Popen([*command, "0", str(port), replicas])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=3)
        stream.close()
        served.close()

    assert waiting.wait(timeout=60) == 0


def test_all_that_the_endpoints_pods_run_is_mounted() -> None:
    for pod in pods(written("endpoint.yaml")):
        (container,) = pod["spec"]["containers"]
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for word in hook[1:2]:
            assert str(Path(word).parent) in mounts
            assert (KUBERAY / "base" / Path(word).name).exists()
