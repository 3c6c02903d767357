"""What a language model's folder holds: its hashes, its window, and whether it is the right one.

A folder is as the Hugging Face hub has it: `config.json`, `tokenizer.json`, `*.safetensors`.
Weights as pickles and code of a model's own are not loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from moa.errors import ArtifactError, ConfigError
from moa.router.backbone_spec import QUERY, LanguageModelSpec
from moa.router.prompt_tokens import TOKENIZER

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TUNED = "backbone.json"
"""Beside a fine-tuned model: what makes its embeddings, a `LanguageModelSpec`."""
MODULES = "modules.json"
"""Of sentence-transformers: what comes after the model."""
SENTENCE_ENCODER = "sentence_bert_config.json"
_READERS = 8
"""Files of weights that are hashed at once; hashing lets go of the interpreter."""


class ModelHashes(NamedTuple):
    """What a model folder holds; 64 hex digits each."""

    weights_sha256: str
    """Of the safetensors files and config.json, by name: either alone does not make the numbers."""
    tokenizer_sha256: str
    """Of tokenizer.json."""


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
    adapter: Path | None = None,
) -> LanguageModelSpec:
    """The spec of a model that a router is about to be trained on.

    Args:
        folder: the model's.
        adapter: folder of a LoRA adapter for it.

    The others are the spec's fields.

    Raises:
        ConfigError: either is no such folder.
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
        adapter_sha256=None if adapter is None else hash_adapter(adapter),
    )


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


def verify_adapter(wants: str, folder: Path) -> None:
    """Check that a folder holds the LoRA adapter of this hash, 64 hex digits.

    Raises:
        ConfigError: it holds none.
        ArtifactError: it holds another.
    """
    has = hash_adapter(folder)
    if has != wants:
        raise ArtifactError(
            f"{folder}: this adapter has SHA-256 {has[:12]}…, and the router was trained with "
            f"{wants[:12]}…. Fetch the artifact again, or train again (jobs/train_router.py)"
        )


def hash_model(folder: Path) -> ModelHashes:
    """Hash a model's files; about 1 GB/s a file, several at once.

    Raises:
        ConfigError: a file that a model needs is missing, or it has layers after its pooling.
    """
    read_model_config(folder)
    _check_modules(folder)
    weights = list(folder.rglob(WEIGHTS))
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
    return ModelHashes(
        _sha256_of_all(folder, [folder / CONFIG, *weights]), _sha256(folder / TOKENIZER)
    )


def _check_modules(folder: Path) -> None:
    """vLLM would put dense layers behind the pooling, which neither the hashes nor fine-tuning
    know of."""
    try:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        listed = modules.get("modules", []) if isinstance(modules, dict) else modules
        types = [str(one.get("type")) for one in listed]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{folder / MODULES} cannot be read ({error}): fetch the model again"
        ) from None
    if any(one.rpartition(".")[2] == "Dense" for one in types):
        raise ConfigError(
            f"{folder / MODULES} has a dense layer after the pooling, which is not read here. Take "
            "that layer out of the file, or another model"
        )


def hash_adapter(folder: Path) -> str:
    """Hash a LoRA adapter's weights and config, 64 hex digits.

    Raises:
        ConfigError: it lacks one of them.
    """
    if not (folder / ADAPTER_CONFIG).is_file() or not list(folder.glob(WEIGHTS)):
        raise ConfigError(
            f"{folder} is no LoRA adapter: it needs {ADAPTER_CONFIG} and {WEIGHTS}, as peft's "
            "save_pretrained writes them"
        )
    return _sha256_of_all(folder, [folder / ADAPTER_CONFIG, *folder.glob(WEIGHTS)])


def _sha256_of_all(folder: Path, paths: Sequence[Path]) -> str:
    """Of the list of names and hashes, by name."""
    by_name = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
    with ThreadPoolExecutor(_READERS) as readers:
        digests = list(readers.map(_sha256, (path for _, path in by_name)))
    lines = (f"{name} {digest}\n" for (name, _), digest in zip(by_name, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
