"""The manifests of `deploy/kuberay`, as they are written and as `kubectl kustomize` builds them."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.jobs.conftest import ROOT

KUBERAY = ROOT / "deploy/kuberay"
CRDS = ROOT.parent / "shared/crds"
BUILDS = ("base", "overlays/aws", "overlays/gcp", "options/kueue", "options/ray_cron_job")
RAY_KINDS = ("RayJob", "RayService", "RayCronJob")

Document = dict[str, Any]


def written(name: str) -> Document:
    """The only document of a file in base/."""
    document: Document = yaml.safe_load((KUBERAY / "base" / name).read_text())
    return document


def built(name: str, own: str = "") -> list[Document]:
    """All documents of a build; a component's are those of the base with it.

    Skips the test where there is no kubectl.

    Args:
        name: of `BUILDS`.
        own: lines of a user's own kustomization of it.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, and only it builds kustomizations")
    return copy.deepcopy(_built(name, own))


@cache
def _built(name: str, own: str) -> list[Document]:
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "kuberay"
        shutil.copytree(KUBERAY, tree)
        option = f"resources: [../base]\ncomponents: [../{name}]\n"
        taken = option if name.startswith("options/") else f"resources: [../{name}]\n"
        (tree / "own").mkdir()
        (tree / "own/kustomization.yaml").write_text(taken + own)
        command = ["kubectl", "kustomize", str(tree / "own")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))


def one(documents: list[Document], kind: str, name: str) -> Document:
    """The document of that kind and name."""
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, (kind, name)
    return found[0]


def ray_cluster(document: Document) -> Document:
    """The cluster of a RayJob, a RayService or a RayCronJob."""
    spec = document["spec"]
    cluster: Document = (
        spec.get("rayClusterConfig") or spec.get("jobTemplate", spec)["rayClusterSpec"]
    )
    return cluster


def ray_pods(document: Document) -> dict[str, Document]:
    """Pod templates of a Ray cluster's nodes, by group."""
    cluster = ray_cluster(document)
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def pods(document: Document) -> Iterator[Document]:
    """Every pod template in a document, wherever it is."""
    for key, value in document.items() if isinstance(document, dict) else ():
        if key in ("template", "submitterPodTemplate") and "containers" in value.get("spec", {}):
            yield value
        elif isinstance(value, dict):
            yield from pods(value)
        elif isinstance(value, list):
            for inner in value:
                yield from pods(inner)


def all_pods(documents: list[Document]) -> list[Document]:
    """Every pod template of a build."""
    return [pod for document in documents for pod in pods(document)]


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """As Kubernetes does, with the operators that are used here."""
    for want in selector.get("matchExpressions", []):
        assert want["operator"] in ("In", "Exists")
        if want["key"] not in labels or labels[want["key"]] not in want.get(
            "values", labels.values()
        ):
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def environ(container: Document, labels: dict[str, str]) -> dict[str, str]:
    """A container's environment; the downward API reads these labels.

    What comes from secrets, or from elsewhere, is left out.
    """
    found = {}
    for entry in container.get("env", []):
        path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        elif path.startswith("metadata.labels['"):
            found[entry["name"]] = labels[path.removeprefix("metadata.labels['")[:-2]]
    return found
