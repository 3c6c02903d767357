"""A checkpoint of a fine-tuning → a model folder as the Hugging Face hub has it, weights merged.

`train_router` takes the folder as a backbone. Beside the model lie `backbone.json`, what makes its
embeddings (a `LanguageModelSpec`), and `fine_tuning.json`, what it was made from.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from torch import nn

from moa.errors import ConfigError
from moa.fine_tuning.checkpoints import load_weights
from moa.fine_tuning.graded_encoder import GradedEncoder, load_encoder, merged, trainable
from moa.fine_tuning.loop import Plan
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import CONFIG, TUNED, WEIGHTS, describe_model
from moa.storage.object_store import Folder, filesystem_of

CARD = "fine_tuning.json"
_KEPT = ("*.json", "*.txt", "*.model", "LICENSE*", "NOTICE*")
"""Of the base's files: its tokenizer, its window, its licence. Its weights and config are not."""


def check_output(url: str) -> None:
    """Check that a model may be written there.

    Raises:
        ConfigError: the folder cannot be used, or holds something already.
    """
    folder = Folder(url)
    folder.check()
    if folder.has(CARD):
        raise ConfigError(
            f"output = {url!r} holds a fine-tuned model already. Name another folder, or remove it"
        )
    if names := folder.names(""):
        raise ConfigError(
            f"output = {url!r} is not empty ({names[0]}): a model needs a folder of its own"
        )


def write_model(
    plan: Plan, base: Path, checkpoint: Path, output: str, card: Mapping[str, Any]
) -> LanguageModelSpec:
    """Merge, write and describe; takes the memory of the model's weights in its `dtype`.

    Args:
        plan: of the fine-tuning.
        base: folder of the model that it began with.
        checkpoint: folder of what was learned.
        output: folder that the model comes to: a path, `s3://…` or `gs://…`. It is whole when it
            has `fine_tuning.json`.
        card: what `fine_tuning.json` says.
    """
    local = Folder(output).local
    near = local.parent if local is not None else Path(plan.config.base.source.cache).expanduser()
    temporary = near / f".writing-{secrets.token_hex(8)}"
    temporary.mkdir(parents=True)
    try:
        tuned_encoder(plan, base, checkpoint).save_pretrained(temporary)
        for pattern in _KEPT:
            for path in base.glob(pattern):
                if path.name != CONFIG and "safetensors" not in path.name:
                    shutil.copyfile(path, temporary / path.name)
        for path in temporary.glob(WEIGHTS):  # which are written for their owner alone
            shutil.copymode(temporary / CONFIG, path)
        spec = _described(plan, temporary, output)
        (temporary / TUNED).write_text(spec.model_dump_json(indent=2))
        if local is not None:
            (temporary / CARD).write_text(_json(card))
            if local.is_dir():  # it is empty: `check_output`
                local.rmdir()
            temporary.rename(local)
        else:
            _upload(temporary, output)
            Folder(output).put(CARD, _json(card).encode())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return spec


def tuned_encoder(plan: Plan, base: Path, checkpoint: Path) -> nn.Module:
    """The base with what was learned added into its weights, on the CPU."""
    config = plan.config
    encoder = load_encoder(base, getattr(torch, config.base.dtype))
    learned = trainable(encoder, config.lora)
    load_weights(checkpoint, GradedEncoder(learned, config.base, plan.examples))
    return merged(learned).to(getattr(torch, config.base.dtype))


def _described(plan: Plan, folder: Path, output: str) -> LanguageModelSpec:
    base = plan.config.base
    return describe_model(
        folder,
        name=output.rstrip("/").rpartition("/")[2],
        pooling=base.pooling,
        max_tokens=base.max_tokens,
        dtype=base.dtype,
        template=base.template,
        normalized=base.normalized,
    )


def _upload(folder: Path, url: str) -> None:
    filesystem, root = filesystem_of(url)
    pyarrow.fs.copy_files(
        str(folder),
        root,
        source_filesystem=pyarrow.fs.LocalFileSystem(),
        destination_filesystem=filesystem,
    )


def _json(card: Mapping[str, Any]) -> str:
    return json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
