"""The backbone at the shape of Qwen2.5-7B, with random weights: what a CPU has no room for.

Needs 20 GB of disk, and a GPU of 40 GB. Speed and the share of the roofline are measured by
`python -m tests.bench.bench_router --model FOLDER --pooling last --dtype bfloat16`.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from moa.config import EngineConfig
from moa.router.backbone import Embeddings
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import describe_model
from moa.router.prompt_tokens import PromptTokens
from tests.router.language_models import INSTRUCTION, QUIET, make_tokenizer, need, open_model

need("vllm", "torch", "transformers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    *(pytest.mark.filterwarnings(line) for line in QUIET),
]

SHAPE = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "vocab_size": 152064,
}
"""Of Qwen2.5-7B-Instruct. Source: its config.json."""
TEMPLATE = f"<|im_start|>{f'{INSTRUCTION} ' * 4}{{query}}<|im_end|>"
TEXTS = [
    "How many r's are in strawberry?",
    "",
    "Prove it. " * 400,
    *(f"{n} + {n}" for n in range(61)),
]
ALIKE = 0.995
"""Least cosine between two ways to compute in bfloat16."""
ENGINE = EngineConfig(gpu_memory_utilization=0.6)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7.6e9 parameters in bfloat16, made on the GPU."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    folder = tmp_path_factory.mktemp("models") / "qwen7b"
    make_tokenizer(folder)
    torch.manual_seed(7)
    config = Qwen2Config(**SHAPE, tie_word_embeddings=False, dtype=torch.bfloat16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    del model
    _give_back()
    return folder


def _give_back() -> None:
    """Memory that torch keeps for itself, to the engine."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def by_transformers(folder: Path, spec: LanguageModelSpec) -> Embeddings:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval().to("cuda")
    tokens = PromptTokens(
        folder / "tokenizer.json", template=spec.template, max_tokens=spec.max_tokens
    )
    found = []
    for ids in tokens(TEXTS).ids:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids], device="cuda")).last_hidden_state
        last = states[0, -1].float().cpu().numpy()
        found.append(last / np.linalg.norm(last))
    del states, model
    _give_back()
    return np.stack(found)


def test_a_7b_gives_what_transformers_gives_whatever_is_cached(qwen: Path) -> None:
    asked = {"pooling": "last", "template": TEMPLATE, "max_tokens": 1024, "dtype": "bfloat16"}
    spec = describe_model(qwen, name="qwen7b", **asked)  # type: ignore[arg-type]
    wanted = by_transformers(qwen, spec)

    _, backbone = open_model(qwen, ENGINE, **asked)
    first = backbone.embed_rows(TEXTS)
    again = backbone.embed_rows(TEXTS)  # the instruction is in the prefix cache now

    assert first.embeddings.shape == (len(TEXTS), SHAPE["hidden_size"])
    assert first.cut.tolist() == [n == 2 for n in range(len(TEXTS))]
    assert ((first.embeddings * wanted).sum(axis=1) > ALIKE).all()
    assert ((again.embeddings * first.embeddings).sum(axis=1) > ALIKE).all()
