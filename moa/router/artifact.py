"""A trained router on disk: `artifact.json`, `weights.safetensors`, cards; no code, no pickle.

`artifact.json` names the hashes of the others and of its language model, if it has one, and its own
hash is the router's version: whoever has the version has every bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from moa.config import EngineConfig, ModelSource
from moa.errors import ArtifactError
from moa.router.backbone import Backbone
from moa.router.backbone_spec import HashingSpec, LanguageModelSpec
from moa.router.hashing_backbone import HashingBackbone
from moa.router.model_files import find_adapter, find_model
from moa.router.surface import WIDTH as SURFACE_WIDTH
from moa.router.vllm_backbone import open_language_model
from moa.storage.object_store import Folder
from moa.toml_file import Section

DESCRIPTION = "artifact.json"
WEIGHTS = "weights.safetensors"
CARDS = ("MODEL_CARD.md", "DATA_CARD.md")
"""For people; nothing reads them."""
FORMAT: Literal[2] = 2


BackboneSpec = HashingSpec | LanguageModelSpec


class TrainingFacts(Section):
    """What a router was trained on."""

    source: str = Field(description="Of the graded outcomes")
    queries: int
    outcomes: dict[str, int] = Field(description="Catalog id → graded outcomes")
    domain_queries: dict[str, int] = Field(
        default_factory=dict, description="Domain → training queries; of older routers unknown"
    )
    mean_grade: dict[str, float] = Field(description="Catalog id → mean of these grades")
    estimated_grade: dict[str, float] = Field(
        default_factory=dict,
        exclude_if=lambda found: not found,  # so that routers of earlier versions keep their bytes
        description="Catalog id → estimate of its mean grade, had it answered every training "
        "query; of logs where models have too few in common to be compared on these, and of "
        "models that were asked often enough",
    )
    other_models: int = Field(
        description="Models beyond these whose grades tell how easy a query is"
    )
    cross_validation: dict[str, dict[str, float]] = Field(
        description="Catalog id → figures of queries that nothing was fitted on"
    )
    calibration: dict[str, str] = Field(description="Catalog id → kind of its curve")


class Description(Section):
    """The content of `artifact.json`."""

    format: Literal[2]
    backbone: BackboneSpec = Field(discriminator="kind")
    domains: list[str] = Field(min_length=1, description="Of the factors, in column order")
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
        if set(sha256) != {WEIGHTS, *CARDS}:
            raise ValueError(f"it must give the hashes of {', '.join((WEIGHTS, *CARDS))}")
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
    folder: Path,
    description: Mapping[str, object],
    tensors: Mapping[str, NDArray[Any]],
    cards: Sequence[str],
) -> str:
    """Write a router; equal content gives equal bytes. Its version.

    Args:
        folder: made if need be.
        description: `Description` without `format` and `sha256`.
        tensors: as `moa.router.predictor.Predictor` reads them, and those of `training.…`.
        cards: Markdown, in the order of `CARDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = dict(zip(CARDS, (card.encode() for card in cards), strict=True))
    weights = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    files = {WEIGHTS: weights, **texts}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = Description.model_validate({"format": FORMAT, **description, "sha256": hashes})
    text = orjson.dumps(
        document.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    )
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / DESCRIPTION).write_bytes(text + b"\n")
    return version_of(text + b"\n")


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
    return Artifact(url, description, tensors, version_of(text))


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
    """Every tensor; numbers of quantiles and points are those of the tensor that has them first."""
    description, tensors = artifact.description, artifact.tensors
    models, domains = len(description.models), len(description.domains)
    graded = _length(tensors, "training.grades", 0)
    quantiles = _length(tensors, "novelty.similarity", 0)
    features, looks = width + SURFACE_WIDTH, _length(tensors, "novelty.directions")
    wanted = {
        "features.mean": _Wanted("float32", (features,)),
        "features.scale": _Wanted("float32", (features,)),
        "features.weight": _Wanted("float32", (features,)),
        "factors.domain": _Wanted("float16", (features + 1, domains)),
        "factors.ease": _Wanted("float16", (features + 1, domains)),
        "factors.domain_ease": _Wanted("float64", (domains,)),
        "heads.grade": _Wanted("float64", (2 * domains + 3, models)),
        "heads.log_tokens": _Wanted("float16", (features + 1, domains, models)),
        "heads.token_factor": _Wanted("float64", (domains, models)),
        "heads.token_spread": _Wanted("float64", (domains, models)),
        "heads.token_limit": _Wanted("float64", (models,)),
        "novelty.centres": _Wanted("float16", (width + 1, domains)),
        "novelty.similarity": _Wanted("float64", (quantiles, domains)),
        "novelty.directions": _Wanted("float16", (features + 1, looks)),
        "novelty.whitening": _Wanted("float16", (looks + 1, domains, looks)),
        "novelty.distance": _Wanted("float64", (quantiles, domains)),
        "training.grades": _Wanted("uint8", (graded, models)),
        "training.text_hash": _Wanted("uint64", (graded,)),
        "training.ease": _Wanted("float16", (graded,)),
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


def version_of(text: bytes) -> str:
    """A router's version, from its description."""
    return hashlib.sha256(text).hexdigest()[:12]


def _bytes(folder: Folder, name: str) -> bytes:
    data = folder.read(name)
    if data is None:
        raise ArtifactError(
            f"{folder.url}/{name} is not there: router.artifact must name the folder of a trained "
            "router, such as moa/router/embedded, or one of promotions (jobs/promote_router.py)"
        )
    return data


def open_backbone(artifact: Artifact, source: ModelSource, engine: EngineConfig) -> Backbone:
    """The backbone that a router was trained with; a language model's engine is started.

    Args:
        artifact: whose backbone.
        source: where a language model is looked for.
        engine: how it is run.

    Raises:
        ArtifactError: this version does not know it, or what was found is another one.
        ConfigError: a language model is nowhere, or cannot be run here.
    """
    check_backbone(artifact)
    spec = artifact.description.backbone
    if isinstance(spec, HashingSpec):
        return HashingBackbone(spec.buckets)
    folder = find_model(spec, source, artifact=artifact.url)
    adapter = find_adapter(spec, source, artifact=artifact.url)
    return open_language_model(spec, engine, folder=folder, adapter=adapter)


def check_backbone(artifact: Artifact) -> None:
    """Check that this version counts n-grams as the one did that trained the router. A language
    model is looked at when it is opened.

    Raises:
        ArtifactError: it does not.
    """
    spec = artifact.description.backbone
    if isinstance(spec, LanguageModelSpec):
        return
    try:
        mine = HashingBackbone(spec.buckets).spec
    except ValueError as error:
        raise ArtifactError(f"{artifact.url}/{DESCRIPTION}: backbone: {error}") from None
    if mine != spec.model_dump():
        raise ArtifactError(
            f"the router was trained on a backbone {spec.model_dump()!r}, and this version of the "
            f"project has {dict(mine)!r}: train again (jobs/train_router.py), or use the version "
            "that trained it"
        )
