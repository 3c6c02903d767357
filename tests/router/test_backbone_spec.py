from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from moa.config import EngineConfig
from moa.router.backbone_spec import HashingSpec, LanguageModelSpec
from moa.router.hashing_backbone import HashingBackbone

SPEC = {
    "kind": "language_model",
    "name": "Qwen/Qwen2.5-7B-Instruct",
    "pooling": "last",
    "template": "Judge: {query}",
    "max_tokens": 2048,
    "dtype": "bfloat16",
    "width": 3584,
    "weights_sha256": "a" * 64,
    "tokenizer_sha256": "b" * 64,
}


def test_a_spec_is_known_by_its_kind_and_survives_json() -> None:
    either: TypeAdapter[HashingSpec | LanguageModelSpec] = TypeAdapter(
        HashingSpec | LanguageModelSpec
    )

    model = either.validate_python(SPEC)

    assert isinstance(model, LanguageModelSpec)
    assert either.validate_json(model.model_dump_json()) == model
    assert isinstance(either.validate_python(dict(HashingBackbone().spec)), HashingSpec)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("template", "Judge:", "has it 0 times"),
        ("template", "{query} {query}", "has it 2 times"),
        ("max_tokens", 15, "greater than or equal to 16"),
        ("pooling", "max", "'last', 'mean' or 'cls'"),
        ("weights_sha256", "A" * 64, "pattern"),
        ("gpu_memory_utilization", 0.5, "Extra inputs"),  # speed is no part of the numbers
    ],
)
def test_a_value_that_means_nothing_is_refused(key: str, value: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LanguageModelSpec.model_validate({**SPEC, key: value})


def test_the_engine_has_a_default_for_everything() -> None:
    assert EngineConfig() == EngineConfig.model_validate({})
