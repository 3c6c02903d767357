"""`deploy/iam` allows what the jobs do, and nothing else.

All jobs run as roles of their own against an S3 server behind a gate, which enforces the policies
and keeps a list of what is asked: so nothing that is needed is missing, and what no run has asked
for is not there, or has its reason here.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from pyarrow import fs

from tests.deploy.cloud import (
    ENDPOINTS_ROUTERS,
    LOGS,
    POOL,
    QUERIES,
    ROLES,
    ROUTERS,
    ROUTING,
    RUN,
    Cloud,
    cloud,
    credentials,
)
from tests.deploy.policies import (
    Request,
    allowed,
    only,
    permits,
    policy,
    without,
)
from tests.jobs.conftest import HASTY, OUT, ROOT, recorded_backlog

RUNS, TABLE = f"s3://{ROUTING}/runs", f"s3://{ROUTING}/outcomes"
ARN = f"arn:aws:s3:::{ROUTING}"
SELDOM = {
    ("nightly", "s3:DeleteObject", f"{ARN}/runs/*/shadow/*"):
        "a night that was killed while another shadow than now decided",
    ("nightly", "s3:DeleteObject", f"{ARN}/runs/*/shadow.json"): "the same",
}  # fmt: skip
"""What is allowed and was not seen, and when it is needed."""
NAMES_OF = {
    "s3:ListBucket": ("s3:ListBucket", "HeadBucket", "HeadObject", "ListObjectsV2"),
    "s3:GetObject": ("s3:GetObject", "HeadObject", "GetObject"),
    "s3:PutObject": ("s3:PutObject", "PutObject"),
    "s3:DeleteObject": ("s3:DeleteObject", "DeleteObjects"),
}
"""How an action, or the operation that needs it, is told: S3 names no action where an answer has no
body, and arrow names operations only."""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[Cloud]:
    """Buckets with a night's queries and a candidate."""
    with cloud(tmp_path_factory.mktemp("cloud"), s3_server) as there:
        yield there


@pytest.fixture(scope="module")
def promoted(account: Cloud) -> Cloud:
    """The same, and its routers are in use."""
    for routers in (ROUTERS, ENDPOINTS_ROUTERS):
        config = promotion("first", routers)
        account.run("promotion", "promote_router", config, flags=("--force", "the first"))
    return account


@pytest.fixture(scope="module")
def season(promoted: Cloud) -> Cloud:
    """Two nights, all that follows from them, and an endpoint, each as its role."""
    account = promoted
    killed_and_continued(account)
    account.run("nightly", "redrive_dead_letters", account.night(), *HASTY[1:])
    learn(account)
    shadow = f"router.shadow=s3://{ROUTING}/candidates/second"
    grades = f"report.graded_outcomes={TABLE}/graded_outcomes.parquet"
    account.run("nightly", "route_batch", account.night(), "run.id=another", shadow, grades)
    account.run(
        "promotion", "promote_router", promotion("second"), flags=("--force", "for the test")
    )
    account.run("promotion", "promote_router", promotion("second"), flags=("--rollback",))
    serve(account)
    return account


def killed_and_continued(account: Cloud) -> None:
    """A night that is killed in its middle and goes on while a vendor is out."""
    account.server.set_script({"latency": {"median_s": 0.5}})
    start = account.start("nightly", "route_batch", account.night(), *HASTY)
    while len(account.server.ledger()) < QUERIES // 4:
        assert not start.ended_within(0.1), start.wait()[2][-4000:]
    start.kill(family=True)
    # What the dead left would be waited for until it is stale: tests/jobs has that in a bucket.
    left = {"Bucket": ROUTING, "Key": f"runs/{RUN}/lock.json"}
    account.admin.head_object(**left)
    account.admin.delete_object(**left)
    account.server.set_script(OUT)
    account.run("nightly", "route_batch", account.night(), *HASTY)
    account.server.reset()


def learn(account: Cloud) -> None:
    """The night is graded, and a candidate is trained, judged and handed in."""
    shipped = {
        name: (ROOT / f"jobs/configs/{name}.toml").read_text()
        for name in ("grade_outcomes", "train_on_outcomes", "evaluate_on_outcomes")
    }
    account.run(
        "training", "grade_outcomes", shipped["grade_outcomes"], f"run={RUNS}/{RUN}",
        f"table={TABLE}", "recorded=moa/recordings/graded_outcomes.parquet",
    )  # fmt: skip
    local = account.home / "second"
    table = f"recordings={TABLE}"
    account.run(
        "training", "train_router", shipped["train_on_outcomes"], table, f"models={POOL}",
        f"artifact={local}",
    )  # fmt: skip
    account.upload(local, "candidates/second", "training")
    judged = account.start(
        "training", "evaluate_router", shipped["evaluate_on_outcomes"], table,
        f"artifact=s3://{ROUTING}/candidates/second", f"current={ROUTERS}",
        f"output={account.home / 'verdict'}", f"pools.ours.models={POOL}",
    )  # fmt: skip
    status, _, err = judged.wait()
    assert status in (0, 1), err[-4000:]  # so few answers may not pass the gate
    account.upload(account.home / "verdict", "evaluations/second", "training")


def promotion(candidate: str, routers: str = ROUTERS) -> str:
    """A config of `promote_router.py`."""
    return (
        f'promotions = "{routers}"\nartifact = "s3://{ROUTING}/candidates/{candidate}"\n'
        f'evaluation = "s3://{ROUTING}/evaluations/{candidate}"\n'
    )


def serve(account: Cloud) -> None:
    """An endpoint answers one request of a tenant, takes its grade, and ends."""
    tenants = account.home / "tenants.toml"
    hashed = hashlib.sha256(b"sk-tenant").hexdigest()
    tenants.write_text(f'[tenants.search]\nkey_sha256 = ["{hashed}"]\nusd_per_day = 5\n')
    text = (ROOT / "jobs/configs/serve.toml").read_text()
    config = text[: text.rindex("[replay]")].replace("open = true", "")
    place = f"s3://{ROUTING}/endpoint"
    start = account.start(
        "endpoint", "serve_router", config, f"catalog={account.catalog}", "http.port=0",
        f"router.artifact={ENDPOINTS_ROUTERS}", f"access.tenants={tenants}",
        f"access.spent_folder={place}/spent", f"feedback.folder={place}",
        f"query_log.folder={place}", flags=("--one-process",),
    )  # fmt: skip
    assert start.process.stdout is not None
    url = next((line.strip() for line in start.process.stdout if line.startswith("http")), "")
    assert url, start.wait()[2][-4000:]
    prompt = recorded_backlog(1)["prompt"][0].as_py()
    asked = {"model": "moa", "messages": [{"role": "user", "content": prompt}]}
    answer = post(f"{url}/chat/completions", asked)
    post(f"{url}/feedback", {"completion_id": answer["id"], "grade": 1})
    start.process.send_signal(signal.SIGTERM)
    status, _, err = start.wait()
    assert status == 0, err[-4000:]


def post(url: str, document: object) -> dict[str, Any]:
    headers = {"Authorization": "Bearer sk-tenant", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read() or b"{}")
        return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_all_that_its_jobs_do(season: Cloud, role: str) -> None:
    asked = season.gate.asked(role)

    assert asked
    assert [one for one in asked if not one.permitted] == []


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_nothing_that_no_job_does(season: Cloud, role: str) -> None:
    asked = {(one.action, one.resource) for one in season.gate.asked(role)}

    unused = [
        (role, action, resource)
        for action, resource in allowed(policy(f"aws_{role}"))
        if not any(permits(only(action, resource), Request(*one)) for one in asked)
    ]

    assert sorted(unused) == sorted(key for key in SELDOM if key[0] == role)


@pytest.mark.slow
def test_the_night_was_whole(season: Cloud) -> None:
    """What the gate saw were real nights: killed, continued, redriven, graded, judged, promoted."""
    keys = [one["Key"] for one in every_key(season)]

    assert sum(key.endswith("/manifest.json") for key in keys) == 3  # two nights and a redrive
    assert any(key.startswith("outcomes/graded_outcomes.parquet/") for key in keys)
    assert "evaluations/second/verdict.json" in keys
    assert "routers/nightly/promotions/000003.json" in keys
    assert any(key.startswith("endpoint/spent/") for key in keys)
    assert not any("/journal/0" in key for key in keys)


def every_key(season: Cloud) -> list[dict[str, Any]]:
    pages = season.admin.get_paginator("list_objects_v2").paginate(Bucket=ROUTING)
    return [one for page in pages for one in page.get("Contents", [])]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "missing",
    [
        ("s3:ListBucket", f"arn:aws:s3:::{LOGS}"),
        ("s3:ListBucket", ARN),
        ("s3:GetObject", f"arn:aws:s3:::{LOGS}/nightly/*"),
        ("s3:GetObject", f"{ARN}/routers/*"),
        ("s3:PutObject", f"{ARN}/runs/*"),
        ("s3:DeleteObject", f"{ARN}/runs/*/journal/*"),
    ],
    ids=lambda missing: ":".join(missing).replace("arn:aws:s3:::", ""),
)
def test_what_is_missing_is_named_in_a_line(promoted: Cloud, missing: tuple[str, str]) -> None:
    account = promoted
    whole = policy("aws_nightly")
    account.gate.enforce("nightly", without(whole, *missing))
    try:
        run = re.sub(r"\W+", "-", "".join(missing))
        start = account.start("nightly", "route_batch", account.night(), f"run.id={run}")
        status, _, err = start.wait()
    finally:
        account.gate.enforce("nightly", whole)

    assert status == 2
    assert "Traceback" not in err
    said = next(line for line in err.splitlines() if "Error: " in line)
    assert any(name in said for name in NAMES_OF[missing[0]]), said
    assert missing[1].removeprefix("arn:aws:s3:::").partition("/")[0] in said, said


def test_the_gate_refuses_and_lists_what_boto3_and_pyarrow_ask_for(account: Cloud) -> None:
    key = f"runs/{RUN}-gate/report/report.json"
    client = boto3.client("s3", endpoint_url=account.gate.url, **credentials("training"))
    arrow = fs.S3FileSystem(
        endpoint_override=account.gate.url,
        access_key="training",
        secret_key="s",
        region="us-east-1",
    )
    account.admin.put_object(Bucket=ROUTING, Key=key, Body=b"{}")

    read = client.get_object(Bucket=ROUTING, Key=key)["Body"].read()
    with pytest.raises(ClientError, match="not authorized to perform: s3:PutObject"):
        client.put_object(Bucket=ROUTING, Key=key, Body=b"")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        arrow.delete_file(f"{ROUTING}/{key}")

    assert read == b"{}"
    assert account.admin.get_object(Bucket=ROUTING, Key=key)["Body"].read() == b"{}"
    seen = {
        (one.action, one.permitted) for one in account.gate.asked("training") if key in one.resource
    }
    assert seen >= {
        ("s3:GetObject", True), ("s3:PutObject", False), ("s3:DeleteObject", False)
    }  # fmt: skip


def test_an_absent_object_is_told_only_to_those_who_may_list(account: Cloud) -> None:
    """As S3 does: without `s3:ListBucket` a job that looks whether a file is there is refused."""
    account.gate.enforce("blind", only("s3:GetObject", f"{ARN}/*"))
    codes = {}
    for role in ("nightly", "blind"):
        client = boto3.client("s3", endpoint_url=account.gate.url, **credentials(role))
        account.gate.guard(ROUTING, {"Statement": []})
        with pytest.raises(ClientError) as caught:
            client.get_object(Bucket=ROUTING, Key=f"runs/{RUN}/none")
        account.gate.guard(ROUTING, policy("bucket_policy"))
        codes[role] = caught.value.response["Error"]["Code"]

    assert codes == {"nightly": "NoSuchKey", "blind": "AccessDenied"}
