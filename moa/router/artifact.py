"""A trained router on disk: `artifact.json` and `weights.safetensors`; no code, no pickle.

`artifact.json` names the hash of the weights, and its own hash is the router's version: whoever has
the version has every bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError
from safetensors.numpy import load, save

from moa.errors import ArtifactError
from moa.router.backbone import Backbone
from moa.router.hashing_backbone import HashingBackbone
from moa.storage.object_store import Folder
from moa.toml_file import Section

DESCRIPTION = "artifact.json"
WEIGHTS = "weights.safetensors"
FORMAT: Literal[1] = 1


class TrainingFacts(Section):
    """What a router was trained on."""

    source: str = Field(description="Of the graded outcomes")
    queries: int
    outcomes: dict[str, int] = Field(description="Catalog id → graded outcomes")
    mean_grade: dict[str, float] = Field(description="Catalog id → mean of these grades")
    cross_validation: dict[str, dict[str, float]] = Field(
        description="Catalog id → figures of queries that the heads were not fitted on"
    )
    weights: dict[str, float] = Field(description="Source of queries → weight in the fit")


class Description(Section):
    """The content of `artifact.json`."""

    format: Literal[1] = FORMAT
    backbone: dict[str, JsonValue]
    models: list[str] = Field(min_length=1, description="Catalog ids, in column order")
    tokens_per_feature: list[float] = Field(
        description="Prompt tokens per character, digit, non-ASCII character, line and prompt"
    )
    training: TrainingFacts
    sha256: dict[str, str] = Field(description="File → hash of its bytes, 64 hex digits")


class Artifact(NamedTuple):
    """A router as it is stored."""

    description: Description
    tensors: Mapping[str, NDArray[Any]]
    version: str
    """12 hex digits."""


def write_artifact(
    folder: Path, description: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]
) -> str:
    """Write a router; equal content gives equal bytes. Its version.

    Args:
        folder: made if need be.
        description: `Description` without `sha256`.
        tensors: as `moa.router.router.Router` reads them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    hashes = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    document = Description.model_validate({**description, "sha256": hashes})
    text = orjson.dumps(
        document.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    )
    (folder / WEIGHTS).write_bytes(weights)
    (folder / DESCRIPTION).write_bytes(text + b"\n")
    return _version(text + b"\n")


def read_artifact(url: str) -> Artifact:
    """Read and verify a router.

    Args:
        url: its folder: a path, `s3://…` or `gs://…`.

    Raises:
        ArtifactError: a file is missing, damaged, or of another format.
    """
    folder = Folder(url)
    text = _bytes(folder, DESCRIPTION)
    try:
        description = Description.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ArtifactError(
            f"{url}/{DESCRIPTION} is not the description of a router ({problems}): train again, "
            "or name another folder"
        ) from None
    for name, expected in description.sha256.items():
        found = hashlib.sha256(_bytes(folder, name)).hexdigest()
        if found != expected:
            raise ArtifactError(
                f"{url}/{name} is damaged: its SHA-256 is {found[:12]}…, {DESCRIPTION} says "
                f"{expected[:12]}…. Fetch it again, or train again"
            )
    return Artifact(description, load(_bytes(folder, WEIGHTS)), _version(text))


def _version(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def _bytes(folder: Folder, name: str) -> bytes:
    data = folder.read(name)
    if data is None:
        raise ArtifactError(
            f"{folder.url}/{name} is not there: router.artifact must name the folder of a trained "
            "router, such as moa/router/embedded"
        )
    return data


def open_backbone(spec: Mapping[str, JsonValue]) -> Backbone:
    """The backbone that a router was trained with.

    Raises:
        ArtifactError: this version does not know it.
    """
    match spec:
        case {"kind": "hashing", "buckets": int(buckets)}:
            return HashingBackbone(buckets)
    raise ArtifactError(f"the router needs a backbone {dict(spec)!r}, which this version has not")
