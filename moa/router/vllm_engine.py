"""vLLM's engine as an embedder: what it is told, and what is checked before it starts."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from moa.config import EngineConfig
from moa.errors import ConfigError, EngineError
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import ADAPTER_CONFIG

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

CPU_KV_CACHE_BYTES = 512 << 20
"""Without a number vLLM takes most of a machine's memory: 18 of 24 GB were seen."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM has kernels for. Source: `vllm.config.lora.MaxLoRARanks`, 0.32."""


def start_engine(
    spec: LanguageModelSpec, engine: EngineConfig, folder: Path, adapter: Path | None
) -> LLM:
    """Start it, in a process that says nothing to anybody outside.

    Args:
        spec: of the model.
        engine: how to run it.
        folder: the model's.
        adapter: a LoRA adapter's.

    Raises:
        ConfigError: vLLM is not installed, or does not take these settings here.
        EngineError: it failed as it started.
    """
    _set_environment(alone=engine.tensor_parallel_size == 1)
    try:
        torch: Any = importlib.import_module("torch")
        vllm: Any = importlib.import_module("vllm")
        pooler: Any = importlib.import_module("vllm.config").PoolerConfig
    except ImportError as error:
        raise ConfigError(
            f"a language model as backbone needs vLLM, which cannot be imported ({error}): install "
            "the extra gpu (`pip install -e '.[gpu]'`), or on a machine without a GPU cpu "
            "(`make cpu`)"
        ) from None
    gpus = torch.cuda.device_count()
    _check_machine(spec, engine, gpus)
    pooling = pooler(task="embed", seq_pooling_type=spec.pooling.upper(), use_activation=False)
    arguments = {
        "model": str(folder),
        "pooler_config": pooling,
        **_arguments(spec, engine, on_cpu=gpus == 0),
    }
    if adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(adapter)}
    try:
        return vllm.LLM(**arguments)
    except ValueError as error:  # pydantic's too: vLLM's words for a setting that does not fit
        raise ConfigError(
            f"vLLM does not take {spec.name} with these settings (router.engine): {_said(error)}"
        ) from error
    except RuntimeError as error:  # memory ran out, or a device or a process of its own died
        raise EngineError(
            f"vLLM could not start {spec.name}: {type(error).__name__}: {error}. If memory ran "
            "out, lower router.engine.gpu_memory_utilization, or give a replica more GPUs"
        ) from error


def _set_environment(*, alone: bool) -> None:
    """vLLM reads it as it is imported. What somebody has set stays."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if alone else "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _arguments(spec: LanguageModelSpec, engine: EngineConfig, *, on_cpu: bool) -> dict[str, Any]:
    """Of `vllm.LLM`, those that need nothing but the configs."""
    alone = engine.tensor_parallel_size == 1
    return {
        "runner": "pooling",
        "convert": "embed",
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "max_model_len": spec.max_tokens,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "distributed_executor_backend": "uni" if alone else "mp",
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "kv_cache_memory_bytes": engine.kv_cache_memory_bytes
        or (CPU_KV_CACHE_BYTES if on_cpu else None),
        "enforce_eager": on_cpu if engine.enforce_eager is None else engine.enforce_eager,
        # None: where the model and its pooling allow it. True is not asked whether they do.
        "enable_prefix_caching": None if engine.enable_prefix_caching else False,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "use_tqdm_on_load": False,
    }


def _check_machine(spec: LanguageModelSpec, engine: EngineConfig, gpus: int) -> None:
    if engine.tensor_parallel_size > max(gpus, 1):
        raise ConfigError(
            f"router.engine.tensor_parallel_size = {engine.tensor_parallel_size}: this replica "
            f"sees {gpus} GPUs. Lower it, or give each replica as many (router.num_gpus)"
        )
    if spec.quantization is not None and gpus == 0:
        raise ConfigError(
            f"the router was trained with quantization = {spec.quantization!r}, which needs a GPU, "
            "and this replica sees none: give it one (router.num_gpus), or train without"
        )


def _said(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())


def _rank(adapter: Path) -> int:
    """The least that vLLM has room for and the adapter fits into."""
    try:
        rank = int(json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"])
        return next(room for room in LORA_RANKS if room >= rank)
    except (KeyError, TypeError, ValueError, StopIteration):
        raise ConfigError(
            f"{adapter}/{ADAPTER_CONFIG}: r should be a rank, 1 to {LORA_RANKS[-1]}"
        ) from None


def lora_request(adapter: Path) -> LoRARequest:
    """What puts an adapter on the prompts that it is given with."""
    request: Any = importlib.import_module("vllm.lora.request").LoRARequest
    return request("router", 1, str(adapter))
