"""KubeRay's CRDs as JSON schemas that refuse what they do not know.

The API server drops unknown fields, or only warns; a typing error would then say nothing. CEL rules
are not looked at.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.manifests import CRDS, Document

FILES = {
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
    "RayCronJob": "ray.io_raycronjobs.yaml",
}


def validate(document: Document) -> None:
    """Check a document of one of KubeRay's kinds; skips the test where there are no CRDs.

    Raises:
        jsonschema.ValidationError: a field is unknown, missing, or of another type.
    """
    file = CRDS / FILES[document["kind"]]
    if not file.exists():
        pytest.skip(f"KubeRay's CRDs are not at {file}")
    assert document["apiVersion"] == "ray.io/v1"
    _validator(file).validate(document)


@cache
def _validator(file: Path) -> jsonschema.Draft202012Validator:
    crd = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _strict(node: Any) -> Any:  # noqa: ANN401 - whatever a schema holds
    if isinstance(node, list):
        return [_strict(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    properties = strict.get("properties")
    # A field may itself be called `properties`, or `required`: a schema has a type beside them.
    if isinstance(properties, dict) and "type" in node:
        strict.setdefault("additionalProperties", False)
        if isinstance(strict.get("required"), list):
            strict["required"] = [
                key for key in strict["required"] if "default" not in node["properties"][key]
            ]
    if node.get("x-kubernetes-int-or-string") is True:
        strict.pop("type", None)
    return strict
