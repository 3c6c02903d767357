"""A fine-tuning's checkpoint: learned weights, the optimizer, and how far it was.

Frozen weights are the base's and not repeated, so with adapters a checkpoint of a 7B is some
hundred MB. The files are the same however the work is spread: a run may go on with other workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from moa.errors import ArtifactError

WEIGHTS = "learned.safetensors"
OPTIMIZER = "optimizer.pt"
PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fine-tuning is."""

    step: int
    """Steps that have been taken."""
    first_loss: float
    """The held-out loss before the first one."""
    best_loss: float
    """The least held-out loss so far."""
    without_gain: int
    """Evaluations since that one."""


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write a checkpoint; all workers call it, and the first one writes."""
    from safetensors.torch import save_file

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = get_model_state_dict(model, options=whole)
    states = get_optimizer_state_dict(model, optimizer, options=whole)
    if not weights:  # another worker has them
        return
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / WEIGHTS)
    torch.save(states, folder / OPTIMIZER)
    (folder / PROGRESS).write_text(json.dumps(asdict(progress)))


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's numbers into a model and an optimizer; all workers call it."""
    progress = read_progress(folder)
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, dict(read_weights(folder)), options=options)
    states = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu")
    set_optimizer_state_dict(model, optimizer, states, options=options)
    return progress


def read_progress(folder: Path) -> Progress:
    """How far the fine-tuning was.

    Raises:
        ArtifactError: the folder holds no checkpoint of this module's.
    """
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{folder} is no checkpoint of a fine-tuning ({error}): give the run another name"
        ) from None


def read_weights(folder: Path) -> Mapping[str, Tensor]:
    """Name → learned weight."""
    from safetensors.torch import load_file

    weights: Mapping[str, Tensor] = load_file(folder / WEIGHTS)
    return weights


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into a model of one process.

    Raises:
        ArtifactError: they are of another model.
    """
    unexpected = model.load_state_dict(read_weights(folder), strict=False).unexpected_keys
    if unexpected:
        raise ArtifactError(
            f"{folder} has weights that the model has not ({', '.join(sorted(unexpected)[:3])}): "
            "it is a checkpoint of another base"
        )
