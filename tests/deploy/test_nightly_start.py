"""`start_nightly.py`, run as the CronJob's pod runs it, against a server like Kubernetes' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.deploy import crd_schemas
from tests.deploy.api_server import CUT, DELETED, GONE, ApiServer, api_server
from tests.deploy.manifests import KUBERAY, Document, environ, pods, written

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: no certificate for TLS"
)
SCHEDULED = datetime(2026, 11, 26, 22, 0, tzinfo=UTC)
JOB = f"start-nightly-{int(SCHEDULED.timestamp()) // 60}"
"""As Kubernetes calls the Job of that time."""
NIGHT = "nightly-2026-11-26"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed",
          "message": "Job entrypoint command failed"}  # fmt: skip
RETRYING = {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """In place of /var/run/secrets/kubernetes.io/serviceaccount."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    return folder


@pytest.fixture
def server(account: Path) -> Iterator[ApiServer]:
    """With the template."""
    with api_server(account) as running:
        template = written("nightly.yaml")
        template["metadata"]["annotations"] = {
            "kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "search",
        }  # fmt: skip
        running.put({**template, "status": {"jobDeploymentStatus": "Suspended"}})
        yield running


def start(
    server: ApiServer,
    account: Path,
    job: str = JOB,
    command: Sequence[str] = (),
    **changed: str,
) -> subprocess.CompletedProcess[str]:
    """By the manifest's command, or another one, and environment."""
    pod = next(pods(written("start_nightly.yaml")))
    (container,) = pod["spec"]["containers"]
    labels = {"batch.kubernetes.io/job-name": job, "batch.kubernetes.io/controller-uid": "uid-1"}
    env = environ(container, labels) | {
        "NAMESPACE": "moa",
        "SERVICE_ACCOUNT_FOLDER": str(account),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.server_port),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = [word.replace("/scripts", str(KUBERAY / "base")) for word in container["command"]]
    return subprocess.run(
        command or words, cwd=KUBERAY / "base", env={**env, **changed}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def test_the_night_that_is_due_is_made_of_the_template_and_followed_to_its_end(
    server: ApiServer, account: Path
) -> None:
    server.watches.append([RUNNING, RETRYING, RUNNING, DONE])

    done = start(server, account)

    assert done.returncode == 0, done.stderr
    assert "run.id=nightly-2026-11-26" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{NIGHT}: finished"
    night, template = server.objects[NIGHT], server.objects["nightly"]
    assert night["spec"] == {**template["spec"], "suspend": False}
    assert template["spec"]["suspend"] is True
    assert night["metadata"]["annotations"] == {"team": "search"}
    (owner,) = night["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", JOB, "uid-1")
    crd_schemas.validate({**night, "status": {}})


def test_a_second_pod_follows_the_night_that_is_under_way(server: ApiServer, account: Path) -> None:
    server.watches.append([DONE])
    assert start(server, account).returncode == 0
    server.objects[NIGHT]["status"] = RUNNING
    server.watches.append([FAILED])

    done = start(server, account)

    assert done.returncode == 1
    assert "is there already, and is followed" in done.stdout
    assert "FAILED AppFailed Job entrypoint command failed" in done.stdout
    assert set(server.objects) == {"nightly", NIGHT}


@pytest.mark.parametrize(
    "status",
    [FAILED, {**DONE, "jobStatus": "STOPPED"}, {"jobDeploymentStatus": "ValidationFailed"}],
)
def test_a_night_that_did_not_succeed_is_a_failed_job(
    server: ApiServer, account: Path, status: Document
) -> None:
    server.watches.append([RUNNING, status])

    assert start(server, account).returncode == 1


def test_watches_that_end_break_or_are_too_old_are_begun_again(
    server: ApiServer, account: Path
) -> None:
    server.watches += [[RUNNING], [CUT], [GONE], [], [DONE]]

    done = start(server, account)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "the watch broke" in done.stdout
    assert [verb for verb, _ in server.asked].count("watch") == 5


def test_a_server_that_is_out_is_waited_for_and_the_night_is_made_once(
    server: ApiServer, account: Path
) -> None:
    server.answers += [(503, "apiserver is starting"), None, (500, "etcd leader changed")]
    server.watches.append([DONE])

    done = start(server, account)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "503 apiserver is starting; again in 1 s" in done.stdout
    assert [verb for verb, _ in server.asked].count("create") == 2


def test_a_server_that_is_out_for_too_long_is_left_to_the_jobs_next_try(
    server: ApiServer, account: Path
) -> None:
    server.answers += [(503, "apiserver is starting")] * 2
    job = written("start_nightly.yaml")["spec"]["jobTemplate"]["spec"]

    impatient = "import sys, start_nightly as s; s.PATIENCE_S = 0.0; sys.exit(s.main())"
    done = start(server, account, command=["python", "-c", impatient])

    assert done.returncode == 75, done.stdout + done.stderr
    (failing,) = [
        rule["onExitCodes"]
        for rule in job["podFailurePolicy"]["rules"]
        if rule["action"] == "FailJob"
    ]
    assert failing["values"] == [1]


def test_what_the_account_may_not_do_is_told_in_the_servers_words(
    server: ApiServer, account: Path
) -> None:
    words = (
        'rayjobs.ray.io is forbidden: User "system:serviceaccount:moa:start-nightly" cannot create'
    )
    server.answers += [None, (403, words)]

    done = start(server, account)

    assert done.returncode == 1
    assert words in done.stdout
    assert "Traceback" not in done.stderr


def test_a_night_that_is_deleted_is_told(server: ApiServer, account: Path) -> None:
    server.watches.append([RUNNING, DELETED])

    done = start(server, account)

    assert done.returncode == 1
    assert f"{NIGHT} was deleted while it ran" in done.stdout


def test_without_a_template_nothing_is_made(server: ApiServer, account: Path) -> None:
    del server.objects["nightly"]

    done = start(server, account)

    assert done.returncode == 1
    assert "there is no RayJob 'nightly' to make nights of" in done.stdout
    assert not server.objects


def test_a_job_made_by_hand_names_its_night(server: ApiServer, account: Path) -> None:
    server.watches.append([DONE])

    done = start(server, account, "start-nightly-2026-11-25")

    assert done.returncode == 0
    assert "nightly-2026-11-25: made from nightly; run.id=nightly-2026-11-25" in done.stdout


@pytest.mark.parametrize("job", ["tonight", "start-nightly-", f"start-nightly-{'x' * 60}"])
def test_a_job_whose_name_tells_no_night_asks_for_nothing(
    server: ApiServer, account: Path, job: str
) -> None:
    done = start(server, account, job)

    assert done.returncode == 1
    assert done.stdout.startswith("REFUSED: ")
    assert not server.asked


def test_a_night_has_the_date_of_its_own_time_zone(server: ApiServer, account: Path) -> None:
    server.watches.append([DONE])

    done = start(server, account, TIME_ZONE="Asia/Tokyo")

    assert done.returncode == 0
    assert "nightly-2026-11-27" in server.objects


def test_an_unknown_time_zone_is_refused(server: ApiServer, account: Path) -> None:
    done = start(server, account, TIME_ZONE="Mars/Base")

    assert done.returncode == 1
    assert "TIME_ZONE is 'Mars/Base'" in done.stdout


def test_labels_for_nights_are_on_the_night_and_not_on_the_template(
    server: ApiServer, account: Path
) -> None:
    server.watches.append([DONE])

    start(server, account, NIGHT_LABELS="kueue.x-k8s.io/queue-name=moa,team=search")

    labels = server.objects[NIGHT]["metadata"]["labels"]
    assert labels == {"kueue.x-k8s.io/queue-name": "moa", "team": "search"}
    assert "labels" not in server.objects["nightly"]["metadata"]


def test_its_role_permits_what_it_asks_and_nothing_else(server: ApiServer, account: Path) -> None:
    server.watches.append([DONE])
    start(server, account)

    documents = yaml.safe_load_all((KUBERAY / "base/service_accounts.yaml").read_text())
    (rule,) = next(d for d in documents if d["kind"] == "Role")["rules"]

    assert rule["resources"] == ["rayjobs"]
    assert set(rule["verbs"]) == {verb for verb, _ in server.asked}


def test_the_time_zone_of_the_schedule_is_that_of_the_date() -> None:
    spec = written("start_nightly.yaml")["spec"]
    (container,) = next(pods(spec))["spec"]["containers"]

    assert {"name": "TIME_ZONE", "value": spec["timeZone"]} in container["env"]
    assert spec["concurrencyPolicy"] == "Forbid"
