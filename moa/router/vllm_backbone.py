"""A language model's embeddings, one per query, by vLLM's pooling runner in this very process.

On one device the engine has no process of its own (`VLLM_ENABLE_V1_MULTIPROCESSING=0`: it starts in
2.5 s instead of 13 s, and dies with its actor); with `tensor_parallel_size` above 1 vLLM starts a
process per GPU. One engine a process: when vLLM 0.32 loses one, the others of its process end too.

Prefix caching and chunked prefill are vLLM's to switch on: both work for causal models with the
last token's state, and for nothing else, as the mean needs all states and an encoder all tokens.

LoRA: the fine-tuner merges, and one adapter for all rows is taken too, for a base model that is too
large to be kept once a router. Found with vllm 0.32 on a CPU: so used, a tiny Qwen2 agrees with its
merged twin to 1e-5 of numbers around 2.6; but a batch that mixes rows with and without an adapter
silently gives the plain rows its weights. So there is one for every row, or none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import JsonValue

from moa.config import EngineConfig
from moa.errors import ArtifactError, ConfigError, EngineError
from moa.router.backbone import Embeddings
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import CONFIG, read_model_config, window
from moa.router.prompt_tokens import TOKENIZER, PromptTokens
from moa.router.vllm_engine import lora_request, start_engine

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

_PROBE = "How many letters are in “strawberry”?"

log = structlog.get_logger()


class Embedded(NamedTuple):
    """n texts, as a model reads them."""

    embeddings: Embeddings
    """Shape (n, width)."""
    tokens: NDArray[np.int64]
    """That were computed for each, template included, shape (n,)."""
    cut: NDArray[np.bool_]
    """Whose middle was left out, shape (n,)."""


class VllmBackbone:
    """See the module. Made by `open_language_model`; for one thread.

    A text's embedding depends on its batch mates by rounding only: kernels sum in another order.
    """

    def __init__(
        self,
        spec: LanguageModelSpec,
        tokens: PromptTokens,
        engine: LLM,
        adapter: LoRARequest | None = None,
    ) -> None:
        self._spec = spec
        self._tokens = tokens
        self._adapter = adapter
        self._engine: LLM | None = engine

    @property
    def width(self) -> int:
        """See `Backbone.width`."""
        return self._spec.width

    @property
    def spec(self) -> Mapping[str, JsonValue]:
        """See `Backbone.spec`."""
        return self._spec.model_dump(mode="json")

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """See `Backbone.embed`; as `embed_rows`."""
        return self.embed_rows(texts).embeddings

    def embed_rows(self, texts: Sequence[str]) -> Embedded:
        """Embed texts, and tell what was computed for each.

        Any text has an embedding: see `PromptTokens`.

        Raises:
            EngineError: the engine failed. No row can be at fault, as its tokens have been checked;
                so the engine is not asked again, and its process should end.
            ArtifactError: embeddings that are no numbers: `dtype` is too small for this model.
        """
        rows = self._tokens(texts)
        return Embedded(
            embeddings=self.embed_tokens(rows.ids),
            tokens=np.array([len(ids) for ids in rows.ids], np.int64),
            cut=rows.cut,
        )

    def embed_tokens(self, prompts: Sequence[Sequence[int]]) -> Embeddings:
        """Embed prompts that `PromptTokens` has made; raises as `embed_rows`."""
        if not prompts:
            return np.empty((0, self.width), np.float32)
        found = self._pooled(prompts)
        if found.shape != (len(prompts), self.width):
            raise ArtifactError(
                f"the model {self._spec.name} gives embeddings of {found.shape[1]} numbers where "
                f"the router was trained on {self.width}: train again (jobs/train_router.py)"
            )
        if not np.isfinite(found).all():
            raise ArtifactError(
                f"the model {self._spec.name} gives embeddings that are no numbers in "
                f"{self._spec.dtype}: train with bfloat16 or float32"
            )
        if self._spec.normalized:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found

    def _pooled(self, prompts: Sequence[Sequence[int]]) -> Embeddings:
        if self._engine is None:
            raise EngineError("the engine has failed before: end this process and start another")
        try:
            # `embed` would make Python lists of the tensors.
            outputs = self._engine.encode(
                [{"prompt_token_ids": ids} for ids in prompts],
                lora_request=self._adapter,
                pooling_task="embed",
                use_tqdm=False,
            )
            return np.stack([output.outputs.data.float().numpy() for output in outputs])
        except Exception as error:  # vLLM raises its own, torch's, CUDA's: all mean the same here
            self._engine = None
            raise EngineError(
                f"vLLM failed on {len(prompts)} prompts of {self._spec.name}: "
                f"{type(error).__name__}: {error}"
            ) from error


def open_language_model(
    spec: LanguageModelSpec, engine: EngineConfig, *, folder: Path, adapter: Path | None = None
) -> VllmBackbone:
    """Start the engine of a language model; seconds on a CPU, a minute or more for a 7B on a GPU.

    Args:
        spec: what the router was trained on.
        engine: how to run it.
        folder: the model's, as `moa.router.model_files.find_model` gives it.
        adapter: as `find_adapter` gives it.

    Raises:
        ConfigError: the extra is not installed, or a value does not fit the model or the machine;
            told before the engine starts, but for what only vLLM knows.
        ArtifactError: the model is not the one of the spec.
        EngineError: the engine failed as it started.
    """
    _check_model(spec, folder)
    if (adapter is None) != (spec.adapter_sha256 is None):
        raise ArtifactError(
            f"the router was trained on {spec.name} {'without' if adapter else 'with'} an adapter, "
            f"and {adapter or 'none'} is given: open it with what find_adapter says"
        )
    tokens = PromptTokens(folder / TOKENIZER, template=spec.template, max_tokens=spec.max_tokens)
    _check_vocabulary(tokens, folder)
    started = time.perf_counter()
    llm = start_engine(spec, engine, folder, adapter)
    backbone = VllmBackbone(spec, tokens, llm, adapter and lora_request(adapter))
    backbone.embed([_PROBE])
    log.info(
        "router.engine_started", model=spec.name, seconds=round(time.perf_counter() - started, 1)
    )
    return backbone


def _check_model(spec: LanguageModelSpec, folder: Path) -> None:
    config = read_model_config(folder)
    if config["hidden_size"] != spec.width:
        raise ArtifactError(
            f"{folder}/{CONFIG}: hidden_size = {config['hidden_size']}, and the router was trained "
            f"on embeddings of {spec.width} numbers: give the folder of {spec.name}, or train again"
        )
    if spec.pooling == "cls" and any("Causal" in one for one in config.get("architectures") or []):
        raise ConfigError(
            f"pooling = 'cls': {spec.name} is a causal model, whose first token knows nothing of "
            "the others. Take last or mean, and train again"
        )
    most = window(folder)
    if most is not None and spec.max_tokens > most:
        raise ConfigError(
            f"max_tokens = {spec.max_tokens}: the window of {spec.name} is {most} tokens, says "
            f"{folder}; train with at most that many"
        )


def _check_vocabulary(tokens: PromptTokens, folder: Path) -> None:
    size = read_model_config(folder).get("vocab_size")
    if isinstance(size, int) and tokens.largest_id >= size:
        raise ArtifactError(
            f"{folder}/{TOKENIZER} makes token ids up to {tokens.largest_id}, and the model knows "
            f"those below {size} (vocab_size in {CONFIG}): the two files are of different models"
        )
