from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ArtifactError
from moa.router import hashing_backbone
from moa.router.artifact import CARDS, read_artifact, write_artifact
from moa.router.router import Router
from moa.storage.object_store import Folder

ROUTER = Router.load("moa/router/embedded")
POOL = ("openai/gpt-4o-mini", "google/gemini-1.5-pro", "openai/gpt-4o")
UNLIKE = [
    "Napisz długi wiersz o jesieni nad Wisłą",
    "Write a SQL query that returns the ten customers with most orders",
    "Hi, how are you?",
    "Write a cover letter for a job as a nurse in a children's hospital.",
    "Implement an LRU cache in Rust with tests.",
    "Draft a polite reply to a customer who complains about a late delivery",
    "请帮我写一封辞职信",
]
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
    assert (together.most_output_tokens >= 1).all()


def test_columns_follow_the_pool() -> None:
    texts = ["How many primes are there below 100?", "def add(a, b):"]

    there = ROUTER.score(texts, POOL)
    back = ROUTER.score(texts, POOL[::-1])

    assert np.array_equal(there.expected_grade, back.expected_grade[:, ::-1])
    assert np.array_equal(there.expected_output_tokens, back.expected_output_tokens[:, ::-1])


def test_a_query_unlike_all_training_is_novel() -> None:
    backlog = pq.read_table("moa/recordings/demo_backlog.parquet", columns=["prompt"])

    like = ROUTER.score(backlog["prompt"].to_pylist(), POOL).novelty
    unlike = ROUTER.score(UNLIKE, POOL).novelty

    # Spread evenly above 0.5, or below that: each look is allowed half of the surprise.
    for most in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        assert 0.5 * (1 - most) < (like > most).mean() < (1 - most) + 0.02, most
    assert unlike.min() > 0.95


def copied(folder: Path) -> Path:
    source = Path(__file__).parents[2] / "moa/router/embedded"
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Write an artifact whose hashes agree, with parts of its description changed."""
    artifact = read_artifact(str(copied(folder)))
    description = artifact.description.model_dump(exclude={"sha256"})
    tensors = {**artifact.tensors, **changes.pop("tensors", {})}  # type: ignore[dict-item]
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    cards = [(folder / card).read_text() for card in CARDS]
    write_artifact(folder, {**description, **changes}, kept, cards)


def edit(folder: Path, **changes: object) -> None:
    """Change the description alone."""
    document = orjson.loads((copied(folder) / "artifact.json").read_bytes())
    kept = {k: v for k, v in {**document, **changes}.items() if v is not None}
    (folder / "artifact.json").write_bytes(orjson.dumps(kept))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: edit(f, sha256={}), "hashes of weights.safetensors"),
        (lambda f: edit(f, sha256={"other": "0"}), "hashes of weights.safetensors"),
        (lambda f: edit(f, format=None), "format"),
        (lambda f: edit(f, models=["openai/gpt-4o"] * 6), "named more than once"),
        (lambda f: edit(f, tokens_per_feature=[1.0]), "tokens_per_feature"),
        (lambda f: edit(f, domains=[]), "domains"),
        (lambda f: edit(f, domains=["one"]), r"factors\.domain is float16 .* is needed"),
        (lambda f: edit(f, models=["openai/gpt-4o"]), r"calibration\.1\.grade is no part of a r"),
        (
            lambda f: edit(f, backbone={"kind": "hashing", "buckets": 1024, "digest": "0" * 16}),
            "trained on a backbone .* train again",
        ),
        (lambda f: edit(f, backbone={"kind": "hashing", "buckets": 1024}), "train again"),
        (lambda f: rewrite(f, tensors={"heads.grade": None}), r"heads\.grade is missing"),
        (
            lambda f: rewrite(f, tensors={"heads.grade": np.zeros((3, 6), np.float16)}),
            r"heads\.grade is float16 \(3, 6\) where float64 \(19, 6\) is needed",
        ),
        (
            lambda f: rewrite(f, tensors={"heads.token_limit": np.ones(6, np.float32)}),
            "float32",
        ),
        (
            lambda f: rewrite(f, tensors={"heads.token_factor": np.full((8, 6), np.nan)}),
            "no numbers",
        ),
        (
            lambda f: rewrite(f, tensors={"novelty.similarity": np.zeros((201, 2))}),
            r"novelty\.similarity",
        ),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(tmp_path)

    with pytest.raises(ArtifactError, match=said):
        Router.load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("NGRAMS", (3, 4)), ("MOST_BYTES", 100), ("_PRIME", np.uint64(7))],
)
def test_a_backbone_that_has_changed_refuses_what_was_trained_on_the_old_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    # Stands for another version of the code, which is what the router has to refuse.
    monkeypatch.setattr(hashing_backbone, name, value)

    with pytest.raises(ArtifactError, match="train again"):
        Router.load("moa/router/embedded")


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

    assert router.facts.version == ROUTER.facts.version == read_artifact(folder.url).version
