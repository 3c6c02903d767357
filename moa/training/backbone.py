"""The backbone that a router is trained on: opened, described, and read with once a query."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import structlog
from pydantic import Field, field_validator

from moa.config import EngineConfig
from moa.errors import ConfigError
from moa.router.backbone import Backbone
from moa.router.backbone_spec import QUERY, LanguageModelSpec
from moa.router.hashing_backbone import HashingBackbone
from moa.router.model_folder import TUNED, describe_model, verify_model
from moa.router.pleas import heard
from moa.router.surface import plain, surface
from moa.router.vllm_backbone import open_language_model
from moa.toml_file import Section
from moa.training.fit import Reading

log = structlog.get_logger()


class HashingConfig(Section):
    """Hashed n-grams: no weights, no GPU."""

    kind: Literal["hashing"] = "hashing"
    buckets: int = Field(default=1024, description="A power of two from 64 to 65,536")

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        return HashingBackbone(buckets).buckets


class LanguageModelConfig(Section):
    """A Hugging Face model, hosted by vLLM."""

    kind: Literal["language_model"]
    folder: str = Field(description="Local folder of the model, in Hugging Face form")
    name: str = Field(
        min_length=1,
        description="As the artifact names it: its Hugging Face id, or, with `copy_model`, the "
        "name of its folder in the artifact's",
    )
    copy_model: bool = Field(
        default=False, description="Put the model into the artifact's folder, as a fine-tuned one"
    )
    pooling: Literal["last", "mean", "cls"]
    template: str = Field(default=QUERY, description="What the model reads; the query at {query}")
    max_tokens: int = Field(ge=16, description="Of a prompt; of longer ones the middle is left out")
    dtype: Literal["float32", "bfloat16", "float16"]
    normalized: bool = Field(default=True, description="Embeddings are scaled to length 1")
    quantization: Literal["fp8"] | None = None
    revision: str | None = Field(
        default=None, description="Commit on the hub, for a job that takes the model from there"
    )
    engine: EngineConfig = EngineConfig()
    cache: str | None = Field(
        default=None, description="Folder that embeddings are kept in, so that heads can be fitted "
        "again without the model"
    )  # fmt: skip


BackboneConfig = HashingConfig | LanguageModelConfig


class OpenedBackbone(NamedTuple):
    """A backbone, or where its embeddings are kept."""

    spec: Mapping[str, Any]
    """As the artifact stores it."""
    config: HashingConfig | LanguageModelConfig
    folder: Path | None
    """Of a language model."""

    @property
    def fine_tuned(self) -> bool:
        """Whether the model was fine-tuned by `moa.fine_tuning`; on what, is not known here."""
        return self.folder is not None and (self.folder / TUNED).is_file()

    def read(self, texts: Sequence[str]) -> Reading:
        """Embed and count; a language model is started only if the embeddings are not kept."""
        texts = heard(texts)
        counts = surface([plain(text) for text in texts])
        if isinstance(self.config, HashingConfig):
            return Reading(HashingBackbone(self.config.buckets).embed(texts), counts)
        kept = self._kept(texts)
        if kept is not None and kept.is_file():
            return Reading(np.load(kept), counts)
        embeddings = self._start().embed(texts)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            whole = kept.with_suffix(".part.npy")
            np.save(whole, embeddings)
            whole.rename(kept)
            log.info("training.embeddings_kept", path=str(kept))
        return Reading(embeddings, counts)

    def _kept(self, texts: Sequence[str]) -> Path | None:
        assert isinstance(self.config, LanguageModelConfig)
        if self.config.cache is None:
            return None
        spec = orjson.dumps(dict(self.spec), option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(spec)
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        return Path(self.config.cache) / f"{digest.hexdigest()[:24]}.npy"

    def _start(self) -> Backbone:
        assert isinstance(self.config, LanguageModelConfig)
        assert self.folder is not None
        spec = LanguageModelSpec.model_validate(self.spec)
        return open_language_model(spec, self.config.engine, folder=self.folder)


def open_for_training(config: BackboneConfig, *, artifact: Path) -> OpenedBackbone:
    """Describe a backbone; nothing is started yet.

    Args:
        config: which.
        artifact: folder that the model is copied into, if the config says so.

    Raises:
        ConfigError: it is no model folder, or cannot be used as the config says; one that was
            fine-tuned is read as it was then, or not at all.
    """
    if isinstance(config, HashingConfig):
        return OpenedBackbone(HashingBackbone(config.buckets).spec, config, None)
    if "://" in config.folder:
        raise ConfigError(
            f"backbone.folder = {config.folder!r} is in a bucket: copy the model to this machine, "
            "and name that folder"
        )
    folder = Path(config.folder)
    spec = describe_model(
        folder,
        name=config.name,
        pooling=config.pooling,
        max_tokens=config.max_tokens,
        dtype=config.dtype,
        template=config.template,
        normalized=config.normalized,
        quantization=config.quantization,
        revision=config.revision,
    )
    _check_tuned(spec, folder)
    target = artifact / config.name
    if config.copy_model and target.resolve() != folder.resolve():
        _copy(spec, folder, target)
    return OpenedBackbone(spec.model_dump(mode="json"), config, folder)


def _check_tuned(spec: LanguageModelSpec, folder: Path) -> None:
    """A fine-tuned model learned to be read in one way."""
    try:
        tuned = LanguageModelSpec.model_validate_json((folder / TUNED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / TUNED} cannot be read ({error}): write it again") from None
    for name in ("pooling", "template", "normalized"):
        has, wants = getattr(spec, name), getattr(tuned, name)
        if has != wants:
            raise ConfigError(
                f"backbone.{name} = {has!r}: {folder} was fine-tuned with {wants!r}, says its "
                f"{TUNED}. Give the same"
            )


def _copy(spec: LanguageModelSpec, folder: Path, target: Path) -> None:
    """In place of whatever has the name: files of two models would be none."""
    temporary = target.parent / f".writing-{secrets.token_hex(8)}"
    try:
        shutil.copytree(folder, temporary)
        verify_model(spec, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
