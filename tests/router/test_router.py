from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ArtifactError, ConfigError
from moa.router.artifact import read_artifact
from moa.router.router import Router
from moa.storage.object_store import Folder

ROUTER = Router.load("moa/router/embedded")
POOL = ("openai/gpt-4o-mini", "google/gemini-1.5-pro", "openai/gpt-4o")
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=100)


@given(TEXTS)
def test_scores_are_what_they_say_and_depend_on_the_query_alone(texts: list[str]) -> None:
    together = ROUTER.score(texts, POOL)

    alone = [ROUTER.score([text], POOL) for text in texts]
    for name, values in together._asdict().items():
        apart = np.concatenate([getattr(a, name) for a in alone]) if alone else values
        assert np.array_equal(values, apart), name
        assert values.dtype == np.float32
        assert len(values) == len(texts)
    assert ((together.expected_grade >= 0) & (together.expected_grade <= 1)).all()
    assert ((together.novelty >= 0) & (together.novelty <= 1)).all()
    assert (together.expected_input_tokens >= 1).all()
    assert (together.expected_output_tokens >= 1).all()


def test_columns_follow_the_pool() -> None:
    texts = ["How many primes are there below 100?", "def add(a, b):"]

    there = ROUTER.score(texts, POOL)
    back = ROUTER.score(texts, POOL[::-1])

    assert np.array_equal(there.expected_grade, back.expected_grade[:, ::-1])
    assert np.array_equal(there.expected_output_tokens, back.expected_output_tokens[:, ::-1])


def test_a_query_unlike_all_training_is_novel() -> None:
    backlog = pq.read_table("moa/recordings/demo_backlog.parquet", columns=["prompt"])

    like = ROUTER.score(backlog["prompt"].to_pylist(), POOL).novelty
    unlike = ROUTER.score(["Napisz długi wiersz o jesieni nad Wisłą"], POOL).novelty

    assert np.median(like) < 0.7
    assert unlike[0] > 0.95


def test_a_pool_with_an_unknown_model_is_refused() -> None:
    ROUTER.check_pool(POOL)

    with pytest.raises(ConfigError, match=r"not trained on openai/gpt-9; it knows openai/gpt-4o,"):
        ROUTER.check_pool([*POOL, "openai/gpt-9"])


def test_the_best_constant_is_compared_on_common_queries() -> None:
    best = ROUTER.best_constant(ROUTER.models)

    # gpt-4o-mini has the higher mean, 0.790 against 0.732, on the easier queries it was asked.
    assert best.model == "openai/gpt-4o"
    assert ROUTER.best_constant(["openai/gpt-4o-mini"]).model == "openai/gpt-4o-mini"


def copied(folder: Path) -> Path:
    source = Path(__file__).parents[2] / "moa/router/embedded"
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / "weights.safetensors"), "weights.safetensors is damaged"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is not th"),
        (lambda folder: (folder / "artifact.json").unlink(), "artifact.json is not there"),
        (lambda folder: (folder / "artifact.json").write_text("{}"), "not the description"),
    ],
)
def test_a_damaged_artifact_is_told_by_its_file(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(copied(tmp_path))

    with pytest.raises(ArtifactError, match=said):
        Router.load(str(tmp_path))


def test_an_artifact_in_a_bucket_is_the_same_router(object_store: str) -> None:
    folder = Folder(f"{object_store}/routers/current")
    for path in (Path(__file__).parents[2] / "moa/router/embedded").iterdir():
        folder.put(path.name, path.read_bytes())

    router = Router.load(folder.url)

    assert router.version == ROUTER.version == read_artifact(folder.url).version
