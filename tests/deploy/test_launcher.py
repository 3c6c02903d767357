"""`deploy/launcher`: Ray's own code takes the files, and starts what they say on a server that
answers as EC2 does; what Ray does not check is checked against the clouds' own schemas.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml

from tests.deploy.policies import Request, permits, policy
from tests.jobs.conftest import ROOT

LAUNCHER = ROOT / "deploy/launcher"
CLOUDS = ("aws", "gcp")
REGION = "us-west-2"
PLACE = f"arn:aws:ec2:{REGION}:111122223333"


def cluster_file(cloud: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((LAUNCHER / f"{cloud}.yaml").read_text())
    return document


def strict_schema() -> dict[str, Any]:
    """Ray's, in which a node's fields are open to whatever is written."""
    schema: dict[str, Any] = json.loads(
        resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text()
    )
    schema["properties"]["provider"]["additionalProperties"] = False
    return schema


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rays_schema_and_rays_code_take_the_file(cloud: str) -> None:
    jsonschema.validate(cluster_file(cloud), strict_schema())
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.ray_launcher", "prepare",
         str(LAUNCHER / f"{cloud}.yaml")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARN" not in done.stdout + done.stderr


def test_the_schema_refuses_what_it_does_not_know() -> None:
    for place, name in ((("provider",), "regions"), (("docker",), "img"), ((), "setup_command")):
        document = cluster_file("aws")
        inside = document
        for key in place:
            inside = inside[key]
        inside[name] = "x"
        with pytest.raises(jsonschema.ValidationError, match=name):
            jsonschema.validate(document, strict_schema())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cluster_is_as_all_of_ours_are(cloud: str) -> None:
    document = cluster_file(cloud)
    kinds = document["available_node_types"]
    head = kinds[document["head_node_type"]]
    workers = {name: kind for name, kind in kinds.items() if kind is not head}

    assert head["resources"]["CPU"] == 0  # no task
    assert document["docker"]["image"] == "registry.example.com/moa-router:0.1.0-cpu"
    assert workers["gpu"]["docker"]["worker_image"].endswith(":0.1.0-gpu")
    assert all(kind["min_workers"] == 0 for kind in kinds.values())
    assert sum(kind["max_workers"] for kind in kinds.values()) <= document["max_workers"]
    assert document["provider"]["use_internal_ips"]
    assert 1 <= document["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("cloud", CLOUDS)
def test_its_workers_have_room_for_the_nights_config(cloud: str) -> None:
    kinds = cluster_file(cloud)["available_node_types"]
    folder = {"aws": "base", "gcp": "overlays/gcp"}[cloud]
    night = tomllib.loads((ROOT / "deploy/kuberay" / folder / "nightly.toml").read_text())
    gpus = kinds["gpu"]["max_workers"] * kinds["gpu"]["resources"]["GPU"]
    cpus = kinds["cpu"]["max_workers"] * kinds["cpu"]["resources"]["CPU"]
    dispatch = night["dispatch"]["replicas"] * night["dispatch"]["num_cpus"]

    assert night["router"]["replicas"] * night["router"]["num_gpus"] <= gpus
    assert dispatch + 2 <= cpus  # with the driver, and a task


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_config_that_is_to_be_copied_is_a_night_on_that_cloud(
    cloud: str, tmp_path: Path
) -> None:
    (line,) = re.findall(r"^#   (mkdir .*)$", (LAUNCHER / f"{cloud}.yaml").read_text(), re.M)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")

    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)

    night, catalog = (
        tomllib.loads((tmp_path / "config" / f"{name}.toml").read_text())
        for name in ("nightly", "catalog")
    )
    assert night["run"]["folder"].startswith({"aws": "s3://", "gcp": "gs://"}[cloud])
    assert set(night["pool"]) <= set(catalog["models"])
    assert ("api_key_env" in catalog["accounts"]["google"]) == (cloud == "aws")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("node", ["head", "worker"])
def test_ray_starts_with_a_token_or_not_at_all(cloud: str, node: str, tmp_path: Path) -> None:
    """The line is run by bash, up to Ray's: a program of its name says what it was given."""
    line = cluster_file(cloud)[f"{node}_start_ray_commands"][-1].replace("/app", str(tmp_path))
    (tmp_path / "launcher").mkdir()
    script = tmp_path / "launcher/export_secrets.py"
    ray = tmp_path / "ray"
    ray.write_text(
        '#!/bin/bash\nenv | grep -E "^(RAY_|OPENAI|GOOGLE_CLOUD)"; printf "%s\\n" "$@"\n'
    )
    ray.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/home/ray",
        "RAY_HEAD_IP": "10.0.0.9",
    }  # fmt: skip
    secrets = "export RAY_AUTH_TOKEN='a b$c'\nexport OPENAI_API_KEY=o"

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True)

    script.write_text(f"print({secrets!r})")
    given = start()
    script.write_text("import sys; sys.exit('refused')")
    refused = start()

    said = given.stdout.splitlines()
    assert {"RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=a b$c", "RAY_USAGE_STATS_ENABLED=0"} <= set(said)
    assert ("start" in said, said[-1].startswith("--")) == (True, True)
    assert refused.returncode != 0
    assert refused.stdout == ""
    words = shlex.split(line)
    assert ("--head" in words) == (node == "head")
    assert (any("vendor-keys" in word for word in words)) == (node == "worker")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("node", ["head", "worker"])
def test_rays_command_line_knows_the_options(cloud: str, node: str) -> None:
    line = cluster_file(cloud)[f"{node}_start_ray_commands"][-1]
    words = shlex.split(line[line.index("ray start") :])[2:]
    code = (
        "import sys\nfrom ray.scripts.scripts import start\n"
        "start.make_context('start', sys.argv[1:])\n"
    )

    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def account(s3_server: str, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The launcher's file with ids of things that are there, and the environment to find them."""
    env = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": REGION,
    }  # fmt: skip
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": REGION}
    ec2 = boto3.client("ec2", endpoint_url=s3_server, **keys)
    iam = boto3.client("iam", endpoint_url=s3_server, **keys)
    subnet = ec2.describe_subnets()["Subnets"][0]
    group = ec2.create_security_group(
        GroupName=tmp_path.name, Description="x", VpcId=subnet["VpcId"]
    )
    ec2.create_key_pair(KeyName="moa-launcher")
    for name in ("moa-launcher-head", "moa-nightly"):
        iam.create_instance_profile(InstanceProfileName=name)
    key = tmp_path / "key.pem"
    key.write_text("never used: no machine is logged in to")
    text = (LAUNCHER / "aws.yaml").read_text()
    for before, after in {
        "subnet-0123456789abcdef0": subnet["SubnetId"],
        "sg-0123456789abcdef0": group["GroupId"],
        "ami-0123456789abcdef0": ec2.describe_images()["Images"][0]["ImageId"],
        "~/.ssh/moa-launcher.pem": str(key),
        "111122223333": "123456789012",
    }.items():
        assert before in text
        text = text.replace(before, after)
    file = tmp_path / "aws.yaml"
    file.write_text(text)
    yield file, env
    iam.delete_instance_profile(InstanceProfileName="moa-launcher-head")
    iam.delete_instance_profile(InstanceProfileName="moa-nightly")


@pytest.mark.slow
def test_ray_starts_and_ends_its_machines_with_the_heads_rights(
    account: tuple[Path, dict[str, str]],
) -> None:
    file, env = account
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.ray_launcher", "start", str(file)],
        cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout[done.stdout.index('{"config"') :])

    assert found["nodes"] == 3
    # What Ray sets up where a file leaves it open: a role, and a port for all the world.
    assert not any(
        name.startswith(("iam:Create", "ec2:Create", "ec2:Authorize")) for name in found["set_up"]
    )
    asked = [name for name, _ in found["asked"]]
    runs = [body for name, body in found["asked"] if name == "ec2:RunInstances"]
    assert not any("AssociatePublicIpAddress" in key for body in runs for key in body)
    spot = [body for body in runs if "InstanceMarketOptions.MarketType" in body]
    assert [body["InstanceType"] for body in spot] == ["g6e.2xlarge"]
    head = policy("aws_launcher_head")
    assert {name for name in asked if not permits(head, machines(name))} == set()
    allowed = {
        action
        for one in head["Statement"]
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
        if action.startswith("ec2:")
    }
    assert allowed == set(asked)


def machines(action: str) -> Request:
    """An action of EC2 on a machine that the cluster has started."""
    resource = "*" if action.startswith("ec2:Describe") else f"{PLACE}:instance/i-1"
    return Request(action, resource, {"aws:ResourceTag/ray-cluster-name": "moa"})


@pytest.mark.parametrize("action", ["ec2:TerminateInstances", "ec2:CreateTags"])
def test_the_head_may_not_touch_machines_of_others(action: str) -> None:
    head = policy("aws_launcher_head")

    assert permits(head, machines(action))
    for tags in ({}, {"aws:ResourceTag/ray-cluster-name": "another"}):
        assert not permits(head, Request(action, f"{PLACE}:instance/i-1", tags))


@pytest.mark.parametrize(
    ("role", "passed"), [("moa-nightly", True), ("moa-promotion", False), ("bucket-admin", False)]
)
def test_the_head_gives_machines_the_nights_role_only(role: str, passed: bool) -> None:
    resource = f"arn:aws:iam::111122223333:role/{role}"
    context = {"iam:PassedToService": "ec2.amazonaws.com"}

    assert (
        permits(policy("aws_launcher_head"), Request("iam:PassRole", resource, context)) is passed
    )


def test_googles_schema_knows_each_field_of_a_machine() -> None:
    googleapiclient = pytest.importorskip("googleapiclient", reason="Google's API schemas")
    where = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"
    schemas = json.loads(where.read_text())["schemas"]

    for kind in cluster_file("gcp")["available_node_types"].values():
        assert_known(kind["node_config"], {"$ref": "Instance"}, schemas, "node_config")
    with pytest.raises(AssertionError, match="scheduling: has no preemptive"):
        assert_known(
            {"scheduling": {"preemptive": True}}, {"$ref": "Instance"}, schemas, "node_config"
        )


def assert_known(value: object, schema: dict[str, Any], schemas: dict[str, Any], at: str) -> None:
    """That a value is as Google's discovery document has it; other fields are refused."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": (str, int),
        "integer": int,
        "boolean": bool,
    }
    assert isinstance(value, kinds[schema["type"]]), f"{at}: should be of type {schema['type']}"
    if isinstance(value, dict):
        for name, inside in value.items():
            assert name in schema["properties"], f"{at}: has no {name}"
            assert_known(inside, schema["properties"][name], schemas, f"{at}.{name}")
    elif isinstance(value, list):
        for inside in value:
            assert_known(inside, schema["items"], schemas, at)
    elif "enum" in schema:
        assert value in schema["enum"], f"{at}: {value} is none of {schema['enum']}"


def test_botocore_knows_each_field_of_a_machine() -> None:
    from botocore.validate import ParamValidator

    shape = (
        boto3.client("ec2", region_name=REGION)
        .meta.service_model.operation_model("RunInstances")
        .input_shape
    )
    for kind in cluster_file("aws")["available_node_types"].values():
        node = {key: value for key, value in kind["node_config"].items() if key != "SubnetIds"}
        report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.fixture
def store(s3_server: str) -> dict[str, str]:
    """Where Secrets Manager answers, with a key that no shell may read as its own words."""
    client = boto3.client(
        "secretsmanager", endpoint_url=s3_server, region_name=REGION,
        aws_access_key_id="a", aws_secret_access_key="b",
    )  # fmt: skip
    for name, text in {
        "moa/ray-token": json.dumps({"RAY_AUTH_TOKEN": "t"}),
        "moa/vendor-keys": json.dumps({"OPENAI_API_KEY": "o'$(false) \"x"}),
        "moa/broken": "sk-only-a-key",
        "moa/lower": json.dumps({"x; rm": "1"}),
    }.items():
        if name not in {one["Name"] for one in client.list_secrets()["SecretList"]}:
            client.create_secret(Name=name, SecretString=text)
    return {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"
    }  # fmt: skip


def secrets_of(store: dict[str, str], *names: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(LAUNCHER / "export_secrets.py"), "aws", REGION, *names]
    return subprocess.run(script, env={**os.environ, **store}, capture_output=True, text=True)


def test_secrets_arrive_in_the_shell_as_they_are(store: dict[str, str]) -> None:
    given = secrets_of(store, "moa/ray-token", "moa/vendor-keys")

    line = 'eval "$1"; printf "%s|%s" "$RAY_AUTH_TOKEN" "$OPENAI_API_KEY"'
    shell = subprocess.run(
        ["bash", "-c", line, "-", given.stdout], capture_output=True, text=True, check=True
    )

    assert shell.stdout == "t|o'$(false) \"x"


@pytest.mark.parametrize("name", ["moa/broken", "moa/lower", "moa/none"])
def test_a_secret_that_cannot_be_used_is_named_and_nothing_is_printed(
    store: dict[str, str], name: str
) -> None:
    given = secrets_of(store, "moa/ray-token", name)

    assert given.returncode == 1
    assert given.stdout == ""
    assert "Traceback" not in given.stderr
    assert "sk-only-a-key" not in given.stderr
    assert f"secret {name}: " in given.stderr
