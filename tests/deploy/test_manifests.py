"""The manifests say what KubeRay 1.7 and Kubernetes know, and fit each other and the configs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from moa.catalog import load_catalog
from moa.config import load_config
from moa.errors import ConfigError
from moa.providers.accounts import check_credentials
from moa.serving.config import load_endpoint_config
from tests.deploy import crd_schemas
from tests.deploy.manifests import (
    BUILDS,
    KUBERAY,
    RAY_KINDS,
    Document,
    all_pods,
    built,
    one,
    pods,
    ray_cluster,
    ray_pods,
    selects,
    written,
)
from tests.jobs.conftest import ROOT

README = (KUBERAY / "README.md").read_text()


def check(document: Document) -> None:
    """Against the schema of its kind, unknown fields refused."""
    if document["kind"] in RAY_KINDS:
        crd_schemas.validate(document)
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_every_document_of_a_build_is_valid(name: str) -> None:
    for document in built(name):
        check(document)


@pytest.mark.parametrize("name", BUILDS)
def test_ones_own_registry_is_named_once(name: str) -> None:
    image = "registry.example.com/moa-router"

    found = built(name, f"images: [{{name: {image}, newName: mine/router}}]\n")

    named = [c["image"] for pod in all_pods(found) for c in pod["spec"]["containers"]]
    assert sum(one.startswith("mine/router:") for one in named) >= 6
    assert not any(one.startswith(image) for one in named)


@pytest.mark.parametrize("file", ["nightly.yaml", "endpoint.yaml", "start_nightly.yaml"])
def test_what_is_written_is_valid_without_being_built(file: str) -> None:
    check(written(file))


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("nightly.yaml", ["spec", "submitMode"], "K8sJobMode"),
        ("nightly.yaml", ["spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"], 0),
        ("nightly.yaml", ["spec", "rayClusterSpec", "authOptions", "mode"], "none"),
        ("nightly.yaml", ["spec", "backoffLimit"], "3"),
        ("endpoint.yaml", ["spec", "upgradeStrategy", "kind"], "NewCluster"),
        ("start_nightly.yaml", ["spec", "concurrency"], "Forbid"),
        ("start_nightly.yaml", ["spec", "jobTemplate", "spec", "template", "spec", "x"], 1),
    ],
)
def test_a_wrong_field_is_refused(file: str, path: list[Any], value: object) -> None:
    document = written(file)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


@pytest.mark.parametrize("name", BUILDS)
def test_what_is_named_is_there_or_the_readme_says_how_to_make_it(name: str) -> None:
    documents = built(name)
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    there |= {("Secret", found) for found in re.findall(r"secret generic (\S+)", README)}

    missing = {ref for d in documents for ref in references(d) if ref not in there}

    assert not missing


def references(node: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - whatever YAML holds
    """Kind and name of each object that pods and bindings refer to."""
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in ("configMap", "configMapRef", "configMapKeyRef"):
            yield "ConfigMap", value["name"]
        elif key in ("secretRef", "secretKeyRef"):
            yield "Secret", value["name"]
        elif key == "secret" and "secretName" in value:
            yield "Secret", value["secretName"]
        elif key == "serviceAccountName":
            yield "ServiceAccount", value
        elif key == "roleRef":
            yield value["kind"], value["name"]
        elif key == "subjects":
            yield from ((one["kind"], one["name"]) for one in value)
        else:
            yield from references(value)


@pytest.mark.parametrize("name", BUILDS)
def test_every_selector_selects_a_pod_that_there_is(name: str) -> None:
    documents = built(name)
    labels = [pod["metadata"].get("labels", {}) for pod in all_pods(documents)]
    selectors = [
        selector
        for document in documents
        for selector in our_selectors(document)
        if selector.get("matchLabels") or selector.get("matchExpressions")
    ]

    assert len(selectors) > 15
    for selector in selectors:
        assert any(selects(selector, one) for one in labels), selector


def our_selectors(node: Any) -> Iterator[Document]:  # noqa: ANN401 - whatever YAML holds
    """Of pods in this namespace."""
    if isinstance(node, list):
        for inner in node:
            yield from our_selectors(inner)
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in ("podSelector", "labelSelector", "selector") and "namespaceSelector" not in node:
            if node.get("ports") and key == "selector":  # a Service
                yield {"matchLabels": value}
            else:
                yield value
        else:
            yield from our_selectors(value)


@pytest.mark.parametrize("name", BUILDS)
def test_every_ray_has_its_token_and_says_nothing_home(name: str) -> None:
    for document in built(name):
        if document["kind"] not in RAY_KINDS:
            continue
        assert ray_cluster(document)["authOptions"] == {"mode": "token"}
        for pod in pods(document):
            (container,) = pod["spec"]["containers"]
            env = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert env["RAY_AUTH_MODE"] == "token"
            assert env["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("name", BUILDS)
def test_no_pod_may_be_root_or_take_more_memory_than_it_has(name: str) -> None:
    found = all_pods(built(name))

    assert len(found) >= 8
    for pod in found:
        whole = pod["spec"]["securityContext"]
        assert whole["runAsNonRoot"]
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            asked = container["resources"]
            assert asked["requests"]["memory"] == asked["limits"]["memory"]
            for mount in container.get("volumeMounts", []):
                assert mount.get("readOnly") or mount["name"] in ("models", "data")


@pytest.mark.parametrize("name", BUILDS)
def test_only_heads_and_the_starter_have_a_token_of_the_api_server(name: str) -> None:
    documents = built(name)
    accounts = {
        d["metadata"]["name"]: d.get("automountServiceAccountToken", True)
        for d in documents
        if d["kind"] == "ServiceAccount"
    }

    having = set()
    for pod in all_pods(documents):
        spec = pod["spec"]
        by_account = accounts.get(spec.get("serviceAccountName", ""), True)
        if spec.get("automountServiceAccountToken", by_account):
            having.add(pod["metadata"]["labels"]["moa-router/part"])

    assert having == {"head", "starter"} - ({"starter"} if "cron" in name else set())


def test_budgets_are_of_the_only_form_that_counts_for_pods_of_an_operator() -> None:
    for document in yaml.safe_load_all((KUBERAY / "base/disruption.yaml").read_text()):
        assert isinstance(document["spec"]["minAvailable"], int)
        assert "maxUnavailable" not in document["spec"]


@pytest.mark.parametrize("config", ["base/nightly.toml", "overlays/gcp/nightly.toml"])
def test_the_nights_groups_have_room_for_what_its_config_asks(config: str) -> None:
    night = load_config(KUBERAY / config)
    job = written("nightly.yaml")

    gpus, cpus = room(job, "gpu"), room(job, "cpu")

    assert gpus["nvidia.com/gpu"] >= night.router.replicas * night.router.num_gpus > 0
    assert gpus["cpu"] >= night.router.replicas  # a replica takes one
    dispatchers = night.dispatch.replicas * night.dispatch.num_cpus
    assert cpus["cpu"] >= dispatchers + job["spec"]["entrypointNumCpus"] + 1  # and a task


def test_under_kueue_a_night_has_from_the_beginning_what_its_config_asks() -> None:
    job = one(built("options/kueue"), "RayJob", "nightly")
    night = load_config(KUBERAY / "base/nightly.toml")

    assert ray_cluster(job)["enableInTreeAutoscaling"] is False
    gpus, cpus = room(job, "gpu", "replicas"), room(job, "cpu", "replicas")
    assert gpus["nvidia.com/gpu"] >= night.router.replicas * night.router.num_gpus
    dispatchers = night.dispatch.replicas * night.dispatch.num_cpus
    assert cpus["cpu"] >= dispatchers + job["spec"]["entrypointNumCpus"] + 1


def test_the_endpoints_group_has_room_for_what_its_config_asks() -> None:
    service = written("endpoint.yaml")
    serve = load_endpoint_config(KUBERAY / "base/endpoint.toml").serve

    least, most = room(service, "ingress", "minReplicas"), room(service, "ingress")

    assert least["cpu"] >= serve.min_replicas * serve.num_cpus
    assert most["cpu"] >= serve.max_replicas * serve.num_cpus
    each = most["cpu"] / ray_cluster(service)["workerGroupSpecs"][0]["maxReplicas"]
    assert serve.num_cpus <= each < 2 * serve.num_cpus  # one a pod


def room(document: Document, group: str, count: str = "maxReplicas") -> dict[str, float]:
    """What so many pods of a worker group have together."""
    found = next(
        one for one in ray_cluster(document)["workerGroupSpecs"] if one["groupName"] == group
    )
    (container,) = found["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert container["resources"]["requests"] == limits
    return {key: found[count] * float(value) for key, value in limits.items() if key != "memory"}


def test_the_template_stays_suspended_and_may() -> None:
    spec = written("nightly.yaml")["spec"]

    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True  # else KubeRay refuses suspend
    assert "deletionStrategy" not in spec  # refused beside it
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert [(g["minReplicas"], g["replicas"]) for g in groups] == [(0, 0), (0, 0)]


def test_kueue_queues_nights_and_not_the_template() -> None:
    documents = built("options/kueue")

    job = one(documents, "RayJob", "nightly")
    (container,) = next(pods(one(documents, "CronJob", "start-nightly")))["spec"]["containers"]

    assert "kueue.x-k8s.io/queue-name" not in job["metadata"].get("labels", {})
    assert {"name": "NIGHT_LABELS", "value": "kueue.x-k8s.io/queue-name=moa"} in container["env"]


def test_kuberays_own_schedule_takes_the_template_as_it_is_and_no_cron_job_is_left() -> None:
    documents = built("options/ray_cron_job")
    spec = one(documents, "RayJob", "nightly")["spec"]
    scheduled = one(documents, "RayCronJob", "nightly")["spec"]["jobTemplate"]

    assert scheduled.pop("suspend") is False
    assert scheduled.pop("entrypoint") != spec["entrypoint"]
    assert scheduled == {k: v for k, v in spec.items() if k not in ("suspend", "entrypoint")}
    assert not [d for d in documents if d["kind"] == "CronJob"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_only_gpus_are_on_spot_nodes_and_every_bucket_is_of_the_cloud(cloud: str) -> None:
    documents = built(f"overlays/{cloud}")
    job = one(documents, "RayJob", "nightly")
    accounts = [d["metadata"] for d in documents if d["kind"] == "ServiceAccount"]

    spot = {
        group: "spot" in str(pod["spec"].get("nodeSelector", {})).lower()
        for group, pod in ray_pods(job).items()
    }
    for document in documents:  # where batches of Gemini's go, whatever the cloud
        document.get("data", {}).pop("catalog.toml", None)
    buckets = set(re.findall(r"(s3|gs)://", yaml.safe_dump_all(documents)))
    identified = {account["name"] for account in accounts if account.get("annotations")}

    assert spot == {"head": False, "gpu": True, "cpu": False}
    assert buckets == {"s3" if cloud == "aws" else "gs"}
    assert identified == {"nightly", "endpoint", "endpoint-head"}


def test_the_service_deploys_what_endpoint_yaml_does() -> None:
    ours = yaml.safe_load(written("endpoint.yaml")["spec"]["serveConfigV2"])
    plain = yaml.safe_load((ROOT / "deploy/endpoint.yaml").read_text())

    plain["http_options"]["host"] = "0.0.0.0"
    plain["applications"][0]["args"]["config"] = "config/endpoint.toml"

    assert ours == plain


def test_a_stream_may_take_as_long_as_the_endpoints_config_says() -> None:
    spec = written("endpoint.yaml")["spec"]
    config = load_endpoint_config(KUBERAY / "base/endpoint.toml")
    pod = ray_pods({"spec": spec})["ingress"]["spec"]
    (container,) = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    http = yaml.safe_load(spec["serveConfigV2"])["http_options"]

    assert env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == f"{config.serve.drain_s:g}"
    assert pod["terminationGracePeriodSeconds"] > config.serve.drain_s
    assert spec["rayClusterDeletionDelaySeconds"] > config.serve.drain_s
    assert config.serve.drain_s >= config.calls.total_s
    assert (http["host"], http["port"]) == (config.http.host, config.http.port)


def test_the_mounted_configs_are_valid_and_name_files_that_are_mounted() -> None:
    night = load_config(KUBERAY / "base/nightly.toml")
    endpoint = load_endpoint_config(KUBERAY / "base/endpoint.toml")
    catalog = load_catalog(KUBERAY / "base/catalog.toml")

    assert night.catalog == endpoint.catalog == "config/catalog.toml"
    assert endpoint.access.tenants == "secrets/tenants.toml"
    assert set(night.pool) == set(endpoint.pool) == set(catalog.models)
    for pods_of, mount in (("nightly.yaml", "config"), ("endpoint.yaml", "config")):
        for group, pod in ray_pods(written(pods_of)).items():
            (container,) = pod["spec"]["containers"]
            paths = {m["name"]: m["mountPath"] for m in container.get("volumeMounts", [])}
            if (pods_of, group) != ("nightly.yaml", "head"):  # nothing of ours runs there
                assert paths[mount] == "/app/config"


def test_the_catalog_is_a_part_of_the_shipped_one() -> None:
    shipped = tomllib.loads((ROOT / "jobs/configs/catalog.toml").read_text())
    ours = tomllib.loads((KUBERAY / "base/catalog.toml").read_text())

    assert ours["accounts"] == shipped["accounts"]
    assert ours["models"] == {name: shipped["models"][name] for name in ours["models"]}


def test_the_catalog_of_aws_is_another_in_geminis_account_only() -> None:
    base, aws = (
        tomllib.loads((KUBERAY / name / "catalog.toml").read_text())
        for name in ("base", "overlays/aws")
    )

    assert aws["accounts"].pop("google") != base["accounts"].pop("google")
    assert aws == base


@pytest.mark.parametrize(
    ("cloud", "geminis"), [("aws", "GEMINI_API_KEY"), ("gcp", "GOOGLE_CLOUD_PROJECT")]
)
def test_the_keys_that_the_readme_names_are_those_that_pods_need(
    cloud: str, geminis: str, tmp_path: Path
) -> None:
    (config,) = (
        document["data"]
        for document in built(f"overlays/{cloud}")
        if document["kind"] == "ConfigMap" and "catalog.toml" in document["data"]
    )
    (tmp_path / "catalog.toml").write_text(config["catalog.toml"])
    accounts = load_catalog(tmp_path / "catalog.toml").accounts.values()
    environ = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", geminis), "a-key")

    def check_all(environ: dict[str, str]) -> None:
        for account in accounts:
            check_credentials(account, environ)

    check_all(environ)
    for name in environ:
        assert f"`{name}`" in README
        with pytest.raises(ConfigError, match=name):
            check_all({**environ, name: ""})


@pytest.mark.parametrize("name", ["nightly.toml", "endpoint.toml"])
def test_google_gets_the_same_configs_with_its_buckets(name: str) -> None:
    base = (KUBERAY / "base" / name).read_text()
    assert (KUBERAY / "overlays/gcp" / name).read_text() == base.replace("s3://", "gs://")


def commands() -> list[str]:
    """The README's, one a line."""
    blocks = re.findall(r"^((?:    .+\n)+)", README, re.MULTILINE)
    lines = re.sub(r"\\\n\s+", "", "".join(blocks)).splitlines()
    return [line.strip() for line in lines if line.strip().startswith("kubectl")]


@pytest.mark.parametrize("command", commands())
def test_kubectl_understands_every_command_of_the_readme(command: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    nowhere = "--server=http://127.0.0.1:9"  # so that it comes as far as to ask

    done = subprocess.run(
        ["bash", "-c", f"{command} {nowhere}"],
        cwd=ROOT, input="KEY=value\n", capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert done.returncode == 0 or "127.0.0.1:9" in done.stderr, done.stderr
    assert "unknown" not in done.stderr
