"""A 7B fine-tuned by LoRA on one GPU, random weights of the true shape: memory and speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa.fine_tuning.config import FineTuneConfig, LoraConfig
from moa.fine_tuning.examples import Examples
from moa.toml_file import check
from tests.router.language_models import QUIET, make_tokenizer, need

need("torch", "transformers", "peft", "tensorboard")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),  # 14 GB are made, written, hashed and read
    *(pytest.mark.filterwarnings(line) for line in QUIET),
]

QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "vocab_size": 152_064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
}
"""Of Qwen/Qwen2.5-7B-Instruct. Source: its config.json."""
STEPS, BATCH, TOKENS, PORTION = 10, 32, 512, 8192
PEAK_FLOP_PER_S = 9.89e14
"""Dense bfloat16 of an H100 SXM. Source: its data sheet."""


def test_ten_steps_of_a_7b_take_the_memory_and_the_time_that_arithmetic_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    from moa.fine_tuning.graded_encoder import outline, trainable
    from moa.fine_tuning.loop import Place, Plan, fine_tune_here
    from moa.fine_tuning.memory import flop_per_token, memory, shape_of
    from moa.router.model_folder import describe_model

    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    make_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    with torch.device("cuda"):
        made = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.bfloat16)
    made.save_pretrained(tmp_path)
    del made
    torch.cuda.empty_cache()
    config = the_config(tmp_path)
    spec = describe_model(
        tmp_path, name="random", pooling="last", max_tokens=TOKENS, dtype="bfloat16"
    )
    figures: list[dict[str, float]] = []
    torch.cuda.reset_peak_memory_stats()

    fine_tune_here(
        Plan(config, spec, the_examples()),
        tmp_path,
        Place(0, 1, "cuda"),
        lambda told, checkpoint: figures.append(dict(told)),
    )

    peak = torch.cuda.max_memory_allocated()
    with torch.device("meta"):
        shape = shape_of(trainable(outline(tmp_path), LoraConfig(rank=16)), QWEN_7B)
    counted = memory(shape, tokens=PORTION).together
    speed = figures[-1]["tokens_per_s"]
    share = speed * flop_per_token(shape) / PEAK_FLOP_PER_S
    with capsys.disabled():
        sys.stdout.write(
            f"\n{torch.cuda.get_device_name()}: peak {peak / 1e9:.1f} GB, by arithmetic "
            f"{counted / 1e9:.1f} GB; {speed:,.0f} tokens/s, {share:.0%} of an H100's peak\n"
        )
    assert peak < 1.3 * counted
    assert all(np.isfinite(one["held_out_loss"]) for one in figures)


def the_config(folder: Path) -> FineTuneConfig:
    document = {
        "recordings": "unused",
        "name": "shape",
        "storage": "unused",
        "output": "unused",
        "base": {
            "name": str(folder),
            "pooling": "last",
            "max_tokens": TOKENS,
            "dtype": "bfloat16",
        },
        "lora": {"rank": 16},
        "optimizer": {
            "steps": STEPS,
            "batch_queries": BATCH,
            "micro_batch_tokens": PORTION,
            "learning_rate": 1e-4,
            "evaluate_every": STEPS,
        },
        "cluster": {"gradient_checkpointing": True, "gpus_per_worker": 1},
    }
    return check(FineTuneConfig, document, where="the test")


def the_examples() -> Examples:
    """Made: 200 queries of 512 tokens, 20 models that were graded."""
    random = np.random.default_rng(0)
    count, models = 200, 20
    return Examples(
        ids=tuple(random.integers(0, 300, TOKENS, dtype=np.int32) for _ in range(count)),
        grade=random.integers(0, 2, (count, models)).astype(np.float32),
        log_tokens=np.full((count, models), 5, np.float32),
        source=np.zeros(count, np.int64),
        held_out=np.arange(count) < 16,
        models=tuple(f"made/{n}" for n in range(models)),
        sources=("made",),
        cut=0,
    )
