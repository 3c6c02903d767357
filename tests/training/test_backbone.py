from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from moa.errors import ConfigError
from moa.router.backbone import Embeddings
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.hashing_backbone import HashingBackbone
from moa.router.model_folder import describe_model, verify_model
from moa.router.surface import plain, surface
from moa.training import backbone as module
from moa.training.backbone import (
    HashingConfig,
    LanguageModelConfig,
    OpenedBackbone,
    open_for_training,
)

TEXTS = ["How many primes are below 100?", "def add(a, b):", ""]
SPEC = {
    "kind": "language_model", "name": "v/model", "revision": None, "weights_sha256": "a" * 64,
    "tokenizer_sha256": "b" * 64, "width": 4, "pooling": "mean", "max_tokens": 64,
    "dtype": "float32", "template": "{query}", "quantization": None,
}  # fmt: skip


def test_the_hashing_backbone_is_read_as_the_router_will_read_it(tmp_path: Path) -> None:
    opened = open_for_training(HashingConfig(buckets=128), artifact=tmp_path)

    reading = opened.read(TEXTS)

    assert opened.spec == HashingBackbone(128).spec
    assert opened.folder is None
    assert np.array_equal(reading.embeddings, HashingBackbone(128).embed(TEXTS))
    assert np.array_equal(reading.surface, surface([plain(text) for text in TEXTS]))


class Engine:
    """Stands for a language model, which needs 3 GB that `make test` can do without: what is tested
    is that it is not started. The real one is in tests/jobs/test_language_model.py."""

    def __init__(self) -> None:
        self.started = 0
        self.asked: list[str] = []

    def start(self, *_: object, **__: object) -> Engine:
        self.started += 1
        return self

    def embed(self, texts: Sequence[str]) -> Embeddings:
        self.asked += texts
        return np.array([[len(text), n, 0, 1] for n, text in enumerate(texts)], np.float32)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(module, "open_language_model", engine.start)
    return engine


def opened(cache: Path | None, **spec: Any) -> OpenedBackbone:  # noqa: ANN401 - any of a spec's
    config = LanguageModelConfig(
        kind="language_model", folder="unused", name="v/model", pooling="mean", max_tokens=64,
        dtype="float32", cache=None if cache is None else str(cache),
    )  # fmt: skip
    return OpenedBackbone({**SPEC, **spec}, config, Path("unused"))


def test_embeddings_that_are_kept_are_used_without_the_model(
    tmp_path: Path, engine: Engine
) -> None:
    cache = tmp_path / "new/folder"

    first = opened(cache).read(TEXTS)
    again = opened(cache).read(TEXTS)

    assert engine.started == 1
    assert engine.asked == TEXTS
    assert np.array_equal(first.embeddings, again.embeddings)
    assert np.array_equal(first.surface, again.surface)
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


@pytest.mark.parametrize(
    "spec", [{"weights_sha256": "c" * 64}, {"template": "Q: {query}"}, {"max_tokens": 32}]
)
def test_embeddings_of_another_model_or_template_are_not_used(
    tmp_path: Path, engine: Engine, spec: dict[str, Any]
) -> None:
    opened(tmp_path).read(TEXTS)

    opened(tmp_path, **spec).read(TEXTS)

    assert engine.started == 2


@pytest.mark.parametrize("texts", [TEXTS[::-1], TEXTS[:2], [*TEXTS, "another"], ["".join(TEXTS)]])
def test_embeddings_of_other_texts_are_not_used(
    tmp_path: Path, engine: Engine, texts: list[str]
) -> None:
    opened(tmp_path).read(TEXTS)

    reading = opened(tmp_path).read(texts)

    assert engine.started == 2
    assert len(reading.embeddings) == len(texts)


def test_without_a_folder_for_them_embeddings_are_made_each_time(engine: Engine) -> None:
    opened(None).read(TEXTS)
    opened(None).read(TEXTS)

    assert engine.started == 2


def test_half_written_embeddings_are_not_used(tmp_path: Path, engine: Engine) -> None:
    opened(tmp_path).read(TEXTS)
    (kept,) = tmp_path.glob("*.npy")
    kept.rename(kept.with_suffix(".part.npy"))

    reading = opened(tmp_path).read(TEXTS)

    assert engine.started == 2
    assert np.array_equal(np.load(kept), reading.embeddings)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder, of two files of weights."""
    folder = tmp_path / "models" / "tuned"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4}))
    (folder / "tokenizer.json").write_text("{}")
    for number in (1, 2):
        save_file({"w": np.full(4, number, np.float32)}, folder / f"model-{number}.safetensors")
    return folder


def of(folder: Path | str, **changes: object) -> LanguageModelConfig:
    values = {
        "kind": "language_model", "folder": str(folder), "name": "tuned", "pooling": "last",
        "max_tokens": 64, "dtype": "float32", "template": "Q: {query}", **changes,
    }  # fmt: skip
    return LanguageModelConfig.model_validate(values)


def test_a_model_comes_into_the_artifact_in_place_of_another(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "router"
    open_for_training(of(model, copy_model=True), artifact=artifact)
    (model / "model-2.safetensors").unlink()

    opened = open_for_training(of(model, copy_model=True), artifact=artifact)

    verify_model(LanguageModelSpec.model_validate(opened.spec), artifact / "tuned")
    assert [path.name for path in artifact.iterdir()] == ["tuned"]


def test_a_fine_tuned_model_is_read_as_it_learned_to_be(model: Path, tmp_path: Path) -> None:
    tuned = describe_model(
        model, name="tuned", pooling="last", max_tokens=64, dtype="bfloat16", template="Q: {query}"
    )
    (model / "backbone.json").write_text(tuned.model_dump_json())

    opened = open_for_training(of(model), artifact=tmp_path)

    assert opened.spec["weights_sha256"] == tuned.weights_sha256
    for change in ({"pooling": "mean"}, {"template": "{query}"}, {"normalized": False}):
        (name,) = change
        with pytest.raises(ConfigError, match=rf"backbone\.{name} = .* was fine-tuned with"):
            open_for_training(of(model, **change), artifact=tmp_path)


def test_a_model_in_a_bucket_is_told_to_be_copied_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is in a bucket: copy the model to this machine"):
        open_for_training(of("s3://models/tuned"), artifact=tmp_path)
