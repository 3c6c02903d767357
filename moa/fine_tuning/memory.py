"""What a fine-tuning needs of a GPU, by arithmetic: memory of one worker, FLOP of a token.

Counted are weights, gradients, AdamW's two moments and activations; not counted are the CUDA
context (0.5 to 1 GB) and fragments. Qwen2.5-7B (7,070,619,136 weights without the head of a
language model, 6,525,621,760 of them in layers), rank 16 on all seven projections (40,370,176
weights), bfloat16, 8,192 tokens at once, activations computed twice:

    weights                14.1 GB    2 bytes each
    adapters                0.6 GB    16 bytes each: weight, gradient, two moments in float32
    inputs of the layers    1.6 GB    28 * 8,192 * 3,584 * 2 bytes
    one layer inside        2.0 GB    what its backward pass needs; see `layer_bytes_per_token`
    together               18.5 GB    of an 80 GB GPU; computing once would keep 57 GB, not 1.6

A token costs 6 FLOP a weight in layers: 2 forward, 2 again, 2 for the gradient of activations (that
of the frozen weights is not computed): 3.9e10. An H100 (9.89e14 FLOP/s in bfloat16) at two fifths
of its peak so reads 10,000 tokens a second, and 1,500 steps of 32 queries of 200 tokens take 16
minutes. `tests/gpu/test_fine_tune_gpu.py` measures the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

FLOAT32, BFLOAT16 = 4, 2
ADAMW = 4 * FLOAT32
"""Of a learned weight: itself, its gradient, two moments."""


class Shape(NamedTuple):
    """Of a transformer."""

    parameters: int
    """All weights, without the head of a language model."""
    in_layers: int
    """Those that each token is multiplied with: all but the embeddings."""
    learned: int
    layers: int
    width: int
    inner: int
    """Width between a layer's feed-forward projections."""
    keys: int
    """Width of a token's keys."""


class Memory(NamedTuple):
    """Of one worker, in bytes."""

    weights: int
    """Frozen ones."""
    learned: int
    """Learned ones with their gradients and moments."""
    kept: int
    """Activations that wait for the backward pass."""
    inside: int
    """Of the layer whose backward pass is under way."""

    @property
    def together(self) -> int:
        """All of it."""
        return sum(self)


def shape_of(encoder: nn.Module, config: Mapping[str, Any]) -> Shape:
    """Of an encoder with its adapters in place; its weights need not be there (`meta`).

    Args:
        config: the content of the model's `config.json`.
    """
    sizes = {name: (one.numel(), one.requires_grad) for name, one in encoder.named_parameters()}
    learned = sum(size for size, learns in sizes.values() if learns)
    adapters = sum(size for name, (size, _) in sizes.items() if "lora_" in name)
    embeddings = sum(size for name, (size, _) in sizes.items() if "embed" in name)
    total = sum(size for size, _ in sizes.values()) - adapters
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        parameters=total,
        in_layers=total - embeddings,
        learned=learned,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        keys=(config.get("num_key_value_heads") or heads) * head,
    )


def memory(
    shape: Shape,
    *,
    tokens: int,
    bytes_per_number: int = BFLOAT16,
    adapters: bool = True,
    checkpointing: bool = True,
    shares: int = 1,
) -> Memory:
    """What one worker needs.

    Args:
        shape: of the model.
        tokens: computed at once, padding included.
        bytes_per_number: of frozen weights and activations.
        adapters: learned weights come on top of the model's, rather than being the model's.
        checkpointing: activations are computed twice.
        shares: workers that the weights are spread over; 1 where each holds all.
    """
    frozen = shape.parameters if adapters else shape.parameters - shape.learned
    inside = tokens * layer_bytes_per_token(shape, bytes_per_number)
    layers_inputs = shape.layers * tokens * shape.width * bytes_per_number
    return Memory(
        weights=frozen * bytes_per_number // shares,
        learned=shape.learned * ADAMW // shares,
        kept=layers_inputs if checkpointing else shape.layers * inside,
        inside=inside,
    )


def layer_bytes_per_token(shape: Shape, bytes_per_number: int) -> int:
    """What the backward pass of one layer needs of a token.

    Eight times the width: the input, twice two forms of each norm's, query, attention's output,
    its projection. Twice the keys: keys and values. Five times the inner width: gate, up, its
    activation, their product, and a gradient. Attention scores are not kept (flash attention).
    """
    return (8 * shape.width + 2 * shape.keys + 5 * shape.inner) * bytes_per_number


def flop_per_token(shape: Shape, *, adapters: bool = True, checkpointing: bool = True) -> int:
    """Of a forward and a backward pass; attention's own, small below 2,000 tokens, left out."""
    gradient = 2 if adapters else 4
    return (2 + gradient + (2 if checkpointing else 0)) * shape.in_layers


def tokens_per_s(flop: int, *, peak_flop_per_s: float, utilisation: float) -> float:
    """At a share of a device's peak."""
    return peak_flop_per_s * utilisation / flop
