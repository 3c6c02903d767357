from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from moa.config import ModelSource
from moa.errors import ArtifactError, ConfigError
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_files import bring_along, find_adapter, find_model
from moa.router.model_folder import describe_model, hash_adapter, hash_model, verify_model
from moa.storage.object_store import Folder

SOURCE = ModelSource()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4, "vocab_size": 9}))
    (folder / "tokenizer.json").write_text("{}")
    for number in (2, 1):
        save_file({"w": np.full(4, number, np.float32)}, folder / f"model-{number}.safetensors")
    return folder


def spec_of(folder: Path) -> LanguageModelSpec:
    return describe_model(
        folder, name="small", pooling="last", max_tokens=64, dtype="float32", template="{query}"
    )


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("model-1.safetensors", "weights"),
        ("config.json", "weights"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_another_file_is_refused_with_what_differs(model: Path, file: str, what: str) -> None:
    spec = spec_of(model)
    verify_model(spec, model)
    content = (model / file).read_bytes()
    (model / file).write_bytes(
        content.replace(b"4", b"4 ") if file == "config.json" else content + b" "
    )

    with pytest.raises(ArtifactError, match=f"its {what} .* trained on small"):
        verify_model(spec, model)


def test_files_that_change_places_are_another_model(model: Path) -> None:
    before = hash_model(model)
    for old, new in (("1", "3"), ("2", "1"), ("3", "2")):
        (model / f"model-{old}.safetensors").rename(model / f"model-{new}.safetensors")

    after = hash_model(model)

    assert after.weights_sha256 != before.weights_sha256
    assert after.tokenizer_sha256 == before.tokenizer_sha256


def test_what_is_beside_the_weights_does_not_count(model: Path) -> None:
    before = hash_model(model)
    (model / "README.md").write_text("about this model")

    assert hash_model(model) == before


@pytest.mark.parametrize("form", ["list", "dict"])
def test_a_dense_layer_after_the_pooling_is_refused(model: Path, form: str) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Pooling", "Dense")]
    (model / "modules.json").write_text(json.dumps(modules[:1]))
    hash_model(model)
    (model / "modules.json").write_text(
        json.dumps(modules if form == "list" else {"modules": modules})
    )

    with pytest.raises(ConfigError, match=r"modules\.json has a dense layer after the pooling"):
        hash_model(model)


@pytest.mark.parametrize("content", ["{", "3", "[3]"])
def test_modules_that_cannot_be_read_are_told(model: Path, content: str) -> None:
    (model / "modules.json").write_text(content)

    with pytest.raises(ConfigError, match=r"modules\.json cannot be read"):
        hash_model(model)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "*.safetensors"])
def test_a_folder_that_lacks_a_file_is_told_which(model: Path, file: str) -> None:
    for path in model.glob(file):
        path.unlink()

    with pytest.raises(ConfigError, match=file.replace("*", r"\*")):
        hash_model(model)


def test_a_config_without_a_width_is_no_text_model(model: Path) -> None:
    (model / "config.json").write_text("[]")

    with pytest.raises(ConfigError, match="hidden_size"):
        hash_model(model)


def test_the_named_folder_goes_before_the_artifacts_own(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "router"
    shutil.copytree(model, artifact / "small")
    spec = spec_of(model)

    named = find_model(spec, ModelSource(folder=str(model)), artifact=str(artifact))
    own = find_model(spec, SOURCE, artifact=str(artifact))

    assert named == model
    assert own == artifact / "small"


def test_without_either_a_local_folder_of_its_name_is_taken(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)

    assert find_model(spec_of(model), SOURCE, artifact=str(tmp_path)).resolve() == model


def test_a_named_folder_that_is_none_is_not_replaced_by_another(model: Path) -> None:
    source = ModelSource(folder=str(model / "nowhere"))

    with pytest.raises(ConfigError, match=r"nowhere is no model: it has no config\.json"):
        find_model(spec_of(model), source, artifact=str(model.parent))


def test_a_model_that_is_nowhere_is_told_with_the_remedies(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = spec_of(model).model_copy(update={"name": "nobody/nothing"})

    with pytest.raises(ConfigError, match=r"nobody/nothing.*router\.model\.folder"):
        find_model(spec, SOURCE, artifact=str(tmp_path))


@pytest.fixture
def bucket(model: Path, object_store: str) -> str:
    """The model's folder in S3."""
    url = f"{object_store}/models/small"
    for path in model.iterdir():
        Folder(url).put(path.name, path.read_bytes())
    return url


def test_a_model_in_a_bucket_is_copied_once(model: Path, bucket: str, tmp_path: Path) -> None:
    spec = spec_of(model)
    source = ModelSource(folder=bucket, cache=str(tmp_path / "cache"))

    first = find_model(spec, source, artifact="unused")
    Folder(bucket).remove_all("")  # the second time nobody asks for it
    second = find_model(spec, source, artifact="unused")

    assert first == second
    assert hash_model(first) == hash_model(model)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_a_damaged_copy_is_told_with_the_folder_to_remove(
    model: Path, bucket: str, tmp_path: Path
) -> None:
    source = ModelSource(folder=bucket, cache=str(tmp_path / "cache"))
    copy = find_model(spec_of(model), source, artifact="unused")
    (copy / "model-1.safetensors").write_bytes(b"cut")

    with pytest.raises(ArtifactError, match=f"{copy}, the copy of .* Remove this folder"):
        find_model(spec_of(model), source, artifact="unused")

    shutil.rmtree(copy)
    assert hash_model(find_model(spec_of(model), source, artifact="unused")) == hash_model(model)


def test_a_model_inside_an_artifact_in_a_bucket_is_found(
    model: Path, bucket: str, tmp_path: Path
) -> None:
    source = ModelSource(cache=str(tmp_path / "cache"))

    folder = find_model(spec_of(model), source, artifact=bucket.removesuffix("/small"))

    assert hash_model(folder) == hash_model(model)


def test_another_model_in_the_bucket_is_refused_and_not_kept(
    model: Path, bucket: str, tmp_path: Path
) -> None:
    Folder(bucket).put("tokenizer.json", b"another")
    source = ModelSource(folder=bucket, cache=str(tmp_path / "cache"))

    with pytest.raises(ArtifactError, match="tokenizer"):
        find_model(spec_of(model), source, artifact="unused")

    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_in_a_bucket_without_a_model_is_told(model: Path, object_store: str) -> None:
    source = ModelSource(folder=f"{object_store}/elsewhere")

    with pytest.raises(ConfigError, match=r"elsewhere is no model"):
        find_model(spec_of(model), source, artifact="unused")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """One with a LoRA adapter in it."""
    folder = tmp_path / "router"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 8}')
    save_file({"a": np.ones(4, np.float32)}, folder / "adapter" / "adapter_model.safetensors")
    return folder


def test_an_adapter_comes_with_its_artifact_and_is_verified(model: Path, artifact: Path) -> None:
    spec = spec_of(model).model_copy(update={"adapter_sha256": hash_adapter(artifact / "adapter")})

    assert find_adapter(spec, SOURCE, artifact=str(artifact)) == artifact / "adapter"
    assert find_adapter(spec_of(model), SOURCE, artifact=str(artifact)) is None

    (artifact / "adapter" / "adapter_config.json").write_text('{"r": 16}')
    with pytest.raises(ArtifactError, match="this adapter has SHA-256"):
        find_adapter(spec, SOURCE, artifact=str(artifact))


def test_an_artifact_that_lost_its_adapter_is_told(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model).model_copy(update={"adapter_sha256": "0" * 64})

    with pytest.raises(ConfigError, match=r"is no LoRA adapter: it needs adapter_config\.json"):
        find_adapter(spec, SOURCE, artifact=str(tmp_path))


WITHOUT_EXTRAS = """
import sys
for name in ("vllm", "torch", "transformers", "tokenizers", "huggingface_hub", "peft"):
    sys.modules[name] = None  # as if it were not installed
from pathlib import Path
import moa.pipeline.run, moa.stages, moa.router.vllm_backbone
from moa.errors import ConfigError
from moa.config import EngineConfig
from moa.router.model_folder import describe_model
folder = Path(sys.argv[1])
spec = describe_model(folder, name="small", pooling="last", max_tokens=64, dtype="float32")
try:
    moa.router.vllm_backbone.open_language_model(spec, EngineConfig(), folder=folder)
except ConfigError as error:
    print(error)
"""


def test_the_core_imports_without_the_extras_and_says_which_one_is_needed(model: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_EXTRAS, str(model)]

    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "install the extra cpu (`make cpu`), gpu or fine-tune" in told


def test_what_lies_in_an_artifact_is_brought_along_to_another(model: Path, tmp_path: Path) -> None:
    spec, old, new = spec_of(model), tmp_path / "old", tmp_path / "new"
    shutil.copytree(model, old / "small")

    bring_along(spec, ModelSource(folder=str(model)), artifact=str(old), target=new)

    assert find_model(spec, SOURCE, artifact=str(new)) == new / "small"


def test_a_model_that_lies_elsewhere_is_not_copied(model: Path, tmp_path: Path) -> None:
    source = ModelSource(folder=str(model))

    bring_along(spec_of(model), source, artifact=str(tmp_path), target=tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_an_adapter_is_brought_along(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "old" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"a": np.ones(4, np.float32)}, adapter / "adapter_model.safetensors")
    spec = spec_of(model).model_copy(update={"adapter_sha256": hash_adapter(adapter)})

    bring_along(spec, SOURCE, artifact=str(tmp_path / "old"), target=tmp_path / "new")

    found = find_adapter(spec, SOURCE, artifact=str(tmp_path / "new"))
    assert found == tmp_path / "new" / "adapter"
