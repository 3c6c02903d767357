"""A language model's folder: found, copied out of a bucket once, and refused if it is another's.

A folder is as the Hugging Face hub has it: `config.json`, `tokenizer.json`, `*.safetensors`.
Weights as pickles and code of a model's own are not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow.fs
import structlog

from moa.errors import ArtifactError, ConfigError
from moa.router.backbone_spec import QUERY, LanguageModelSpec, ModelSource
from moa.router.prompt_tokens import TOKENIZER
from moa.storage.object_store import Folder, filesystem_of

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
SENTENCE_ENCODER = "sentence_bert_config.json"
_COPY_BYTES = 8 << 20
_READERS = 8
"""Files of weights that are hashed at once; hashing lets go of the interpreter."""

log = structlog.get_logger()


class ModelHashes(NamedTuple):
    """What a model folder holds; 64 hex digits each."""

    weights_sha256: str
    """Of the safetensors files and config.json, by name: either alone does not make the numbers."""
    tokenizer_sha256: str
    """Of tokenizer.json."""


def find_model(spec: LanguageModelSpec, source: ModelSource, *, artifact: str) -> Path:
    """The local folder of a router's language model, verified.

    Args:
        spec: of the artifact.
        source: what the job's config says.
        artifact: the artifact's own folder: a path, `s3://…` or `gs://…`.

    Raises:
        ConfigError: it is nowhere, or not to be had.
        ArtifactError: its hashes are not the spec's.
    """
    for url in _candidates(spec, source, artifact):
        if "://" in url:
            folder = _copied(url, spec, Path(source.cache).expanduser())
        else:
            folder = Path(url)
            verify_model(spec, folder)
        return folder
    folder = _from_hub(spec, source)
    verify_model(spec, folder)
    return folder


def _candidates(spec: LanguageModelSpec, source: ModelSource, artifact: str) -> list[str]:
    """The one that was named; without one, those that there are."""
    if source.folder is not None:
        return [source.folder]
    inside = f"{artifact.rstrip('/')}/{spec.name}"
    there = [inside] if Folder(inside).has(CONFIG) else []
    if "://" in spec.name or (Path(spec.name) / CONFIG).is_file():
        there.append(spec.name)
    return there


def verify_model(spec: LanguageModelSpec, folder: Path) -> None:
    """Check that a folder holds the model that a router was trained with.

    Raises:
        ConfigError: it is no model folder.
        ArtifactError: it holds another model, or other weights or another tokenizer of it.
    """
    found = hash_model(folder)
    for what, has, wants in (
        (f"weights ({WEIGHTS}, {CONFIG})", found.weights_sha256, spec.weights_sha256),
        (f"tokenizer ({TOKENIZER})", found.tokenizer_sha256, spec.tokenizer_sha256),
    ):
        if has != wants:
            raise ArtifactError(
                f"{folder}: its {what} have SHA-256 {has[:12]}…, and the router was trained on "
                f"{spec.name} with {wants[:12]}…. Give the folder of that model "
                "(router.model.folder), or train again on this one (jobs/train_router.py)"
            )


def hash_model(folder: Path) -> ModelHashes:
    """Hash a model's files; about 1 GB/s a file, several at once.

    Raises:
        ConfigError: a file that a model needs is missing.
    """
    read_model_config(folder)
    weights = sorted(folder.rglob(WEIGHTS), key=lambda path: path.relative_to(folder).as_posix())
    if not weights:
        raise ConfigError(
            f"{folder} has no {WEIGHTS}: weights in other forms are not loaded. Save the model "
            "with transformers' save_pretrained, which writes them"
        )
    if not (folder / TOKENIZER).is_file():
        raise ConfigError(
            f"{folder} has no {TOKENIZER}: save the model's fast tokenizer there "
            "(transformers' AutoTokenizer, save_pretrained)"
        )
    with ThreadPoolExecutor(_READERS) as readers:
        digests = list(readers.map(_sha256, [folder / CONFIG, *weights, folder / TOKENIZER]))
    names = [CONFIG, *(path.relative_to(folder).as_posix() for path in weights)]
    lines = "".join(f"{name} {digest}\n" for name, digest in zip(names, digests[:-1], strict=True))
    return ModelHashes(hashlib.sha256(lines.encode()).hexdigest(), digests[-1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_model_config(folder: Path) -> Mapping[str, Any]:
    """The content of a model's `config.json`.

    Raises:
        ConfigError: there is none, or none that can be read.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} is no model: it has no {CONFIG}. Name the folder of a Hugging Face model"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): fetch the model again") from None
    if not isinstance(config, dict) or not isinstance(config.get("hidden_size"), int):
        raise ConfigError(f"{path} gives no hidden_size: name the folder of a text model")
    return config


def window(folder: Path) -> int | None:
    """Tokens that a model reads at most; `None` when its files do not say.

    An encoder's own file may say less than its weights could take: what it was trained for.
    """
    limits = [read_model_config(folder).get("max_position_embeddings")]
    with suppress(OSError, ValueError):
        encoder = json.loads((folder / SENTENCE_ENCODER).read_text(encoding="utf-8"))
        limits.append(encoder.get("max_seq_length"))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def describe_model(
    folder: Path,
    *,
    name: str,
    pooling: Literal["last", "mean", "cls"],
    max_tokens: int,
    dtype: Literal["float32", "bfloat16", "float16"],
    template: str = QUERY,
    normalized: bool = True,
    quantization: Literal["fp8"] | None = None,
    revision: str | None = None,
) -> LanguageModelSpec:
    """The spec of a model that a router is about to be trained on; arguments as its fields.

    Raises:
        ConfigError: it is no model folder.
    """
    hashes = hash_model(folder)
    return LanguageModelSpec(
        name=name,
        revision=revision,
        pooling=pooling,
        template=template,
        max_tokens=max_tokens,
        normalized=normalized,
        dtype=dtype,
        quantization=quantization,
        width=read_model_config(folder)["hidden_size"],
        weights_sha256=hashes.weights_sha256,
        tokenizer_sha256=hashes.tokenizer_sha256,
    )


def _copied(url: str, spec: LanguageModelSpec, cache: Path) -> Path:
    """A model in a bucket as a local folder. It gets its name when it is whole and verified, so
    replicas that start together copy it once each at worst, and none sees half of it."""
    key = hashlib.sha256(f"{url} {spec.weights_sha256} {spec.tokenizer_sha256}".encode())
    target = cache / key.hexdigest()[:24]
    if target.is_dir():
        verify_model(spec, target)
        return target
    sizes = Folder(url).sizes("")
    if CONFIG not in [name for name, _ in sizes]:
        raise ConfigError(f"{url} is no model: it has no {CONFIG}. Name the folder of a model")
    temporary = cache / f".writing-{secrets.token_hex(8)}"
    try:
        _copy(url, temporary)
        verify_model(spec, temporary)
        try:
            temporary.rename(target)
        except OSError:  # another replica was quicker
            verify_model(spec, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("router.model_copied", url=url, folder=str(target), bytes=sum(n for _, n in sizes))
    return target


def _copy(url: str, target: Path) -> None:
    filesystem, root = filesystem_of(url)
    target.mkdir(parents=True)
    try:
        pyarrow.fs.copy_files(
            root,
            str(target),
            source_filesystem=filesystem,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
            chunk_size=_COPY_BYTES,
        )
    except OSError as error:
        raise ConfigError(
            f"{url} cannot be copied to {target.parent}: {' '.join(str(error).split())}. Correct "
            "the address or the credentials, or make room there (router.model.cache)"
        ) from None


def _from_hub(spec: LanguageModelSpec, source: ModelSource) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            f"the model {spec.name} is in no folder, and the Hugging Face cache cannot be looked "
            "into without the extra gpu or cpu: give its folder (router.model.folder)"
        ) from None
    offline = os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True")
    last: Exception | None = None
    for local_only in (True, False) if source.download and not offline else (True,):
        try:
            return Path(
                snapshot_download(
                    spec.name,
                    revision=spec.revision,
                    local_files_only=local_only,
                    allow_patterns=[WEIGHTS, "*.json", "*.txt"],
                )
            )
        except Exception as error:  # its own, the network's, the disk's: each means "not to be had"
            last = error
    how = "" if source.download else ", or allow a download (router.model.download = true)"
    raise ConfigError(
        f"the model {spec.name} is not to be had ({type(last).__name__}): it is in no folder of "
        f"that name and not in the Hugging Face cache. Give its folder (router.model.folder){how}"
    )
