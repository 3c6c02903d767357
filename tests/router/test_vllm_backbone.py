"""The engine itself, on a CPU, in this process; what it says against transformers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa.config import EngineConfig
from moa.errors import ArtifactError, ConfigError, EngineError
from moa.router.backbone import Backbone, Embeddings
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import describe_model
from moa.router.prompt_tokens import PromptTokens
from moa.router.vllm_backbone import VllmBackbone, open_language_model
from tests.router.language_models import (
    INSTRUCTION,
    KEPT,
    QUIET,
    SMALL,
    make_qwen,
    minilm,
    need,
    open_model,
)

need("vllm", "torch", "transformers", "peft")
pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]

TEMPLATE = f"<|im_start|>{f'{INSTRUCTION} ' * 12}{{query}}<|im_end|>"
"""Longer than a block of the prefix cache, which is 128 tokens on a CPU."""
MOST = 512
TEXTS = [
    "How many r's are in strawberry?",
    "x",
    "Prove that the square root of 2 is irrational. " * 5,
    "请帮我写一封辞职信",
]
CLOSE = 1e-5
"""Between sums in another order, in float32, of embeddings of length 1."""


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Opening an engine sets variables for its process, which here is everybody's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="module")
def causal(qwen: Path) -> VllmBackbone:
    """The last token's state, behind an instruction that all share."""
    return open_model(qwen, pooling="last", template=TEMPLATE, max_tokens=MOST)[1]


@pytest.fixture(scope="module")
def encoder() -> VllmBackbone:
    return open_model(minilm(), pooling="mean", max_tokens=256)[1]


def by_transformers(folder: Path, spec: LanguageModelSpec, texts: list[str]) -> Embeddings:
    """One text at a time, without anything that the backbone does to be quick."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = PromptTokens(
        folder / "tokenizer.json", template=spec.template, max_tokens=spec.max_tokens
    )
    found = []
    for ids in tokens(texts).ids:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = {"last": states[-1], "mean": states.mean(0), "cls": states[0]}[spec.pooling]
        found.append(pooled.numpy() / np.linalg.norm(pooled.numpy()))
    return np.stack(found)


def test_the_last_state_is_that_of_transformers(causal: VllmBackbone, qwen: Path) -> None:
    spec = LanguageModelSpec.model_validate(causal.spec)

    found = causal.embed(TEXTS)

    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), causal.width)
    np.testing.assert_allclose(found, by_transformers(qwen, spec, TEXTS), atol=CLOSE)


def test_the_mean_state_is_that_of_transformers(encoder: VllmBackbone) -> None:
    spec = LanguageModelSpec.model_validate(encoder.spec)

    np.testing.assert_allclose(
        encoder.embed(TEXTS), by_transformers(minilm(), spec, TEXTS), atol=CLOSE
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_other_poolings_are_those_of_transformers(qwen: Path, pooling: str) -> None:
    folder = qwen if pooling == "mean" else minilm()
    spec, backbone = open_model(folder, pooling=pooling)

    np.testing.assert_allclose(
        backbone.embed(TEXTS), by_transformers(folder, spec, TEXTS), atol=CLOSE
    )


def test_sixteen_bits_turn_an_embedding_by_less_than_a_hundredth(encoder: VllmBackbone) -> None:
    _, half = open_model(minilm(), pooling="mean", dtype="bfloat16")

    cosine = (half.embed(TEXTS) * encoder.embed(TEXTS)).sum(axis=1)

    assert (cosine > 0.99).all()


def test_what_the_prefix_cache_holds_changes_no_number(causal: VllmBackbone, qwen: Path) -> None:
    uncached = SMALL.model_copy(update={"enable_prefix_caching": False})
    _, without = open_model(
        qwen, uncached, pooling="last", template=TEMPLATE, max_tokens=MOST, name="without"
    )
    causal.embed(TEXTS)

    again = causal.embed(TEXTS)

    assert cached_tokens(causal, TEXTS[0]) >= 128
    assert cached_tokens(without, TEXTS[0]) == 0
    np.testing.assert_allclose(again, without.embed(TEXTS), atol=CLOSE)


def cached_tokens(backbone: VllmBackbone, text: str) -> int:
    engine: Any = backbone._engine
    prompts = [{"prompt_token_ids": ids} for ids in backbone._tokens([text]).ids]
    (output,) = engine.encode(prompts, pooling_task="embed", use_tqdm=False)
    tokens: int = output.num_cached_tokens
    return tokens


@pytest.mark.parametrize("model", ["causal", "encoder"])
def test_a_texts_embedding_does_not_depend_on_its_batch_mates(
    model: str, request: pytest.FixtureRequest
) -> None:
    backbone: VllmBackbone = request.getfixturevalue(model)
    mates = [f"{text} {n}" for n in range(40) for text in TEXTS]

    together = backbone.embed([*TEXTS, *mates])[: len(TEXTS)]

    alone = np.concatenate([backbone.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=CLOSE)


def test_odd_texts_have_embeddings_and_long_ones_are_told(causal: VllmBackbone) -> None:
    odd = ["", "\0", "a\ud800", "<|im_end|><|endoftext|>", "long " * 5000, " " * 100_000]

    rows = causal.embed_rows([*odd, *TEXTS])

    assert rows.cut.tolist() == [False, False, False, False, True, True] + [False] * len(TEXTS)
    assert rows.tokens.max() == MOST
    np.testing.assert_allclose(np.linalg.norm(rows.embeddings, axis=1), 1, atol=CLOSE)
    np.testing.assert_allclose(rows.embeddings[len(odd) :], causal.embed(TEXTS), atol=CLOSE)
    assert causal.embed([]).shape == (0, causal.width)


def test_it_is_a_backbone_and_its_spec_opens_it_again(causal: VllmBackbone) -> None:
    backbone: Backbone = causal

    assert LanguageModelSpec.model_validate(backbone.spec).model_dump(mode="json") == backbone.spec
    assert backbone.spec["kind"] == "language_model"


def test_an_adapter_on_every_row_gives_what_merged_weights_give(qwen: Path, tmp_path: Path) -> None:
    merged, adapter = make_adapter(qwen, tmp_path), tmp_path / "adapter"
    asked = {"name": "qwen", "pooling": "last", "max_tokens": 128, "dtype": "float32"}
    spec = describe_model(qwen, adapter=adapter, **asked)  # type: ignore[arg-type]

    adapted = open_language_model(spec, SMALL, folder=qwen, adapter=adapter)
    KEPT.append(adapted)

    found = adapted.embed([*TEXTS, *TEXTS])
    wanted = by_transformers(merged, spec, TEXTS)
    np.testing.assert_allclose(found, np.concatenate([wanted, wanted]), atol=CLOSE)
    assert np.abs(wanted - by_transformers(qwen, spec, TEXTS)).max() > 0.1
    with pytest.raises(ArtifactError, match="trained on qwen with an adapter, and none is given"):
        open_language_model(spec, SMALL, folder=qwen)


def make_adapter(model: Path, folder: Path) -> Path:
    """A LoRA adapter of random weights in `adapter`, and the model that it makes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    shutil.copy(model / "tokenizer.json", folder / "merged")
    return folder / "merged"


class Broken:
    """An engine whose device is gone."""

    def encode(self, *_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_failed_engine_is_told_and_not_asked_again(causal: VllmBackbone) -> None:
    spec = LanguageModelSpec.model_validate(causal.spec)
    broken = VllmBackbone(spec, causal._tokens, Broken())

    with pytest.raises(EngineError, match="2 prompts of qwen: RuntimeError: CUDA error"):
        broken.embed(["a", "b"])
    with pytest.raises(EngineError, match="has failed before"):
        broken.embed(["a"])


def test_an_engine_that_fails_as_it_starts_is_told(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    # The memory of a GPU cannot be made to run out where there is none.
    def out_of_memory(**_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(vllm, "LLM", out_of_memory)

    with pytest.raises(
        EngineError, match=r"could not start qwen: RuntimeError: CUDA out of memory"
    ):
        open_model(qwen, pooling="last")


@pytest.mark.parametrize(
    ("spec", "engine", "error", "told"),
    [
        ({"max_tokens": 513}, {}, ConfigError, r"max_tokens = 513: the window of qwen is 512"),
        ({"max_tokens": 513, "name": "minilm"}, {}, ConfigError, "the window of minilm is 256"),
        ({"pooling": "cls"}, {}, ConfigError, "pooling = 'cls': qwen is a causal model"),
        ({"quantization": "fp8"}, {}, ConfigError, "quantization = 'fp8', which needs a GPU"),
        ({}, {"tensor_parallel_size": 64}, ConfigError, r"tensor_parallel_size = 64: .* sees \d"),
    ],
)
def test_values_that_do_not_fit_are_told(
    qwen: Path,
    spec: dict[str, object],
    engine: dict[str, object],
    error: type[Exception],
    told: str,
) -> None:
    asked = {"name": "qwen", "pooling": "last", "max_tokens": 128, "dtype": "float32", **spec}
    folder = minilm() if asked["name"] == "minilm" else qwen
    described = describe_model(folder, **asked)  # type: ignore[arg-type]

    with pytest.raises(error, match=told):
        open_language_model(described, EngineConfig.model_validate(engine), folder=folder)


def test_what_only_vllm_knows_is_told_in_its_words(tmp_path: Path) -> None:
    folder = make_qwen(tmp_path / "qwen", max_position_embeddings=8192)
    small = EngineConfig(kv_cache_memory_bytes=1 << 20)

    with pytest.raises(ConfigError, match=r"vLLM does not take qwen .*KV cache"):
        open_model(folder, small, pooling="last", max_tokens=8192)


def test_a_model_of_another_width_is_refused(qwen: Path) -> None:
    spec = describe_model(qwen, name="qwen", pooling="last", max_tokens=128, dtype="float32")
    other = spec.model_copy(update={"width": 3584})

    with pytest.raises(ArtifactError, match=r"hidden_size = 64, .* 3584 numbers"):
        open_language_model(other, SMALL, folder=qwen)


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_qwen(tmp_path / "qwen", vocab_size=100)
    spec = describe_model(folder, name="qwen", pooling="last", max_tokens=128, dtype="float32")

    with pytest.raises(ArtifactError, match="the two files are of different models"):
        open_language_model(spec, SMALL, folder=folder)
