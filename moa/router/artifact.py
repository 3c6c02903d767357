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
from pydantic import Field, JsonValue, ValidationError, field_validator
from safetensors import SafetensorError
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

    format: Literal[1]
    backbone: dict[str, JsonValue]
    models: list[str] = Field(min_length=1, description="Catalog ids, in column order")
    tokens_per_feature: list[float] = Field(
        min_length=5,
        max_length=5,
        description="Prompt tokens per character, digit, non-ASCII character, line and prompt",
    )
    training: TrainingFacts
    sha256: dict[str, str] = Field(description="File → hash of its bytes, 64 hex digits")

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError("a model is named more than once")
        return models

    @field_validator("sha256")
    @classmethod
    def _of_the_weights(cls, sha256: dict[str, str]) -> dict[str, str]:
        if set(sha256) != {WEIGHTS}:
            raise ValueError(f"it must give the hash of {WEIGHTS} and of nothing else")
        return sha256


class Artifact(NamedTuple):
    """A router as it is stored."""

    url: str
    """Its folder."""
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
        description: `Description` without `format` and `sha256`.
        tensors: as `moa.router.router.Router` reads them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    hashes = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    document = Description.model_validate({"format": FORMAT, **description, "sha256": hashes})
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
    weights, expected = _bytes(folder, WEIGHTS), description.sha256[WEIGHTS]
    found = hashlib.sha256(weights).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{url}/{WEIGHTS} is damaged: its SHA-256 is {found[:12]}…, {DESCRIPTION} says "
            f"{expected[:12]}…. Fetch it again, or train again"
        )
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise ArtifactError(
            f"{url}/{WEIGHTS} is no safetensors file ({error}): train again"
        ) from None
    return Artifact(url, description, tensors, _version(text))


def check_tensors(artifact: Artifact, *, width: int) -> None:
    """Check that an artifact has the tensors that its description asks for, and no others.

    Args:
        artifact: as read.
        width: of the backbone's embeddings.

    Raises:
        ArtifactError: one is missing, of another type or shape, or not finite.
    """
    wanted, tensors = _wanted(artifact, width), artifact.tensors
    for name in sorted(wanted.keys() | tensors.keys()):
        problem = _problem(tensors.get(name), wanted.get(name))
        if problem:
            raise ArtifactError(
                f"{artifact.url}/{WEIGHTS}: {name} {problem}. Train again with this version of "
                "the project (jobs/train_router.py), or name another folder"
            )


class _Wanted(NamedTuple):
    kind: str
    shape: tuple[int, ...]


def _wanted(artifact: Artifact, width: int) -> dict[str, _Wanted]:
    """Every tensor; numbers of groups, quantiles and points are those of the tensor that has them
    first."""
    description, tensors = artifact.description, artifact.tensors
    models = len(description.models)
    groups, quantiles = (
        _length(tensors, "novelty.centres"),
        _length(tensors, "novelty.similarity", 0),
    )
    wanted = {
        "heads.grade": _Wanted("float16", (width + 1, models)),
        "heads.log_tokens": _Wanted("float16", (width + 1, models)),
        "heads.token_factor": _Wanted("float64", (models,)),
        "heads.most_tokens": _Wanted("float64", (models,)),
        "novelty.centres": _Wanted("float16", (width + 1, groups)),
        "novelty.similarity": _Wanted("float64", (quantiles, groups)),
        "training.grades": _Wanted("uint8", (description.training.queries, models)),
    }
    for n in range(models):
        points = _length(tensors, f"calibration.{n}.log_odds")
        wanted[f"calibration.{n}.log_odds"] = _Wanted("float64", (points,))
        wanted[f"calibration.{n}.grade"] = _Wanted("float64", (points,))
    return wanted


def _length(tensors: Mapping[str, NDArray[Any]], name: str, axis: int = -1) -> int:
    """Along an axis; at least 1."""
    shape = tensors[name].shape if name in tensors else ()
    return max(1, shape[axis]) if shape else 1


def _problem(tensor: NDArray[Any] | None, wanted: _Wanted | None) -> str | None:
    if wanted is None:
        return "is no part of a router"
    if tensor is None:
        return "is missing"
    if (str(tensor.dtype), tensor.shape) != wanted:
        return f"is {tensor.dtype} {tensor.shape} where {wanted.kind} {wanted.shape} is needed"
    return None if np.isfinite(tensor).all() else "has values that are no numbers"


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
            backbone = HashingBackbone(buckets)
            if backbone.spec == spec:
                return backbone
    raise ArtifactError(
        f"the router was trained on a backbone {dict(spec)!r}, which this version of the project "
        "has not: train again (jobs/train_router.py), or use the version that trained it"
    )
