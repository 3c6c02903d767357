"""A language model with a head of log odds for every model that was graded, in torch.

The head reads the embedding that the router will read, after it has been standardised by what the
model gave before the first step: so heads learn at one rate whatever the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from moa.errors import ConfigError
from moa.fine_tuning.config import BaseConfig, LoraConfig
from moa.fine_tuning.examples import Examples

UNUSED = "pooler"
"""Layers after the last hidden state, which no pooling of ours reads."""
_LEAST_SCALE = 1e-6


class Predicted(NamedTuple):
    """Of n queries."""

    log_odds: Tensor
    """Of a full grade, shape (n, m)."""
    log_tokens: Tensor
    """log(1 + output tokens), shape (n, m)."""


class GradedEncoder(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """See the module.

    Args:
        encoder: a Hugging Face model without a language model's head, with or without adapters.
        base: how its states become an embedding.
        examples: their models, sources, and the biases to begin with.
    """

    def __init__(self, encoder: nn.Module, base: BaseConfig, examples: Examples) -> None:
        super().__init__()
        self.encoder = encoder
        self._pooling, self._normalized = base.pooling, base.normalized
        width, models = encoder.config.hidden_size, len(examples.models)
        self.grade_head = nn.Linear(width, models, bias=False)
        self.tokens_head = nn.Linear(width, models, bias=False)
        nn.init.zeros_(self.grade_head.weight)
        nn.init.zeros_(self.tokens_head.weight)
        self.grade_bias = nn.Parameter(torch.from_numpy(examples.prior_log_odds()))
        self.tokens_bias = nn.Parameter(torch.from_numpy(examples.prior_log_tokens()))
        self.register_buffer("centre", torch.zeros(width), persistent=False)
        self.register_buffer("scale", torch.ones(width), persistent=False)

    def embed(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Embeddings as the router has them, in float32, shape (n, width)."""
        states = self.encoder(input_ids=ids, attention_mask=counts).last_hidden_state.float()
        pooled = pool(states, counts, self._pooling)
        return functional.normalize(pooled, dim=-1) if self._normalized else pooled

    def forward(self, ids: Tensor, counts: Tensor, source: Tensor) -> Predicted:
        """Predictions for queries of these sources."""
        features = (self.embed(ids, counts) - self.centre) / self.scale
        return Predicted(
            log_odds=self.grade_head(features) + self.grade_bias[source],
            log_tokens=self.tokens_head(features) + self.tokens_bias[source],
        )

    def standardise(self, embeddings: Tensor) -> None:
        """Take mean and spread of these as what the heads are to be spared."""
        self.centre.copy_(embeddings.mean(0))
        self.scale.copy_(embeddings.std(0).clamp_min(_LEAST_SCALE))


def pool(states: Tensor, counts: Tensor, pooling: str) -> Tensor:
    """Hidden states (n, tokens, width) and which of them count → (n, width)."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        rows = torch.arange(len(states), device=states.device)
        return states[rows, counts.sum(1) - 1]
    weight = counts.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)


def quiet() -> None:
    """Keep transformers from telling of each weight that it loads, in this process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_encoder(folder: Path, dtype: torch.dtype) -> nn.Module:
    """A model's layers, without a language model's head; nothing is fetched, no code is run.

    Raises:
        ConfigError: transformers cannot load it.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} cannot be loaded by transformers ({error}): name the folder of a text model "
            "that this version knows"
        ) from None
    model.config.use_cache = False
    return model


def outline(folder: Path) -> nn.Module:
    """The same without its weights, to count and to look up names."""
    from transformers import AutoConfig, AutoModel

    try:
        with torch.device("meta"):
            return AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} cannot be read by transformers ({error}): name the folder of a text model "
            "that this version knows"
        ) from None


def check_lora(encoder: nn.Module, lora: LoraConfig, *, name: str) -> None:
    """Check that the layers to be changed are there, and larger than the changes.

    Raises:
        ConfigError: they are not; with the names that there are.
    """
    linear = linear_layers(encoder)
    for target in lora.targets:
        if not any(_ends(layer, target) for layer in linear):
            known = sorted({layer.rpartition(".")[2] for layer in linear})
            raise ConfigError(
                f"lora.targets: {name} has no linear layer {target!r}; it has {', '.join(known)}"
            )
    chosen = [one for n, one in linear.items() if not lora.targets or _targeted(n, lora)]
    least = min(min(one.in_features, one.out_features) for one in chosen)
    if lora.rank > least:
        raise ConfigError(
            f"lora.rank = {lora.rank}: the smallest layer that is changed in {name} is {least} "
            f"wide. Take a rank of at most {least}; 8 to 64 is usual"
        )


def linear_layers(encoder: nn.Module) -> Mapping[str, nn.Linear]:
    """Name → linear layer, those that no pooling reads left out."""
    return {
        layer: module
        for layer, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and UNUSED not in layer.split(".")
    }


def _ends(layer: str, target: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def _targeted(layer: str, lora: LoraConfig) -> bool:
    return any(_ends(layer, target) for target in lora.targets)


def trainable(encoder: nn.Module, lora: LoraConfig | None) -> nn.Module:
    """The encoder with adapters in place, and only what is learned asking for gradients."""
    if lora is not None:
        from peft import LoraConfig as Adapters
        from peft import get_peft_model

        layers = [
            layer for layer in linear_layers(encoder) if not lora.targets or _targeted(layer, lora)
        ]
        encoder = get_peft_model(
            encoder,
            Adapters(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=layers,
                bias="none",
            ),
        )
    for name, parameter in encoder.named_parameters():
        if UNUSED in name.split("."):
            parameter.requires_grad_(False)
    return encoder


def merged(encoder: nn.Module) -> nn.Module:
    """The encoder with its adapters added into its weights; one without stays as it is."""
    return encoder.merge_and_unload() if hasattr(encoder, "merge_and_unload") else encoder
