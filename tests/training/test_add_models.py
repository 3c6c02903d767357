from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from moa.errors import ConfigError
from moa.router.artifact import Artifact, read_artifact
from moa.router.facts import grades_of
from moa.router.router import Router
from moa.schema import GRADED_OUTCOMES
from moa.training.add_models import LEAST_GRADES, AddModelsConfig, add_models
from moa.training.train import TrainRouterConfig, text_hashes, train_router

QUERIES = 400
NEW = 240
Grades = dict[str, list[float | None]]


def text(number: int) -> str:
    """Short ones are easy."""
    if number % 2:
        return f"Is {number} even?"
    return f"Prove for all n below {number} that " + "it holds " * 30


def write(folder: Path, numbers: list[int], grades: Grades, times: int = 1) -> Path:
    """Queries by number, and grades of them; answers are of 30 or 300 tokens, times `times`."""
    folder.mkdir()
    ids = [f"q{place:03d}" for place in range(len(numbers))]
    queries = {"query_id": ids, "prompt": [text(number) for number in numbers]}
    pq.write_table(pa.table(queries), folder / "queries.parquet")
    graded = [
        {
            "query_id": ids[place], "model": model, "grade": grade, "grader": "test",
            "input_tokens": len(text(number)) // 4,
            "output_tokens": times * (30 if number % 2 else 300),
        }
        for model, values in grades.items()
        for place, (number, grade) in enumerate(zip(numbers, values, strict=True))
    ]  # fmt: skip
    table = pa.Table.from_pylist(graded, schema=GRADED_OUTCOMES)
    pq.write_table(table, folder / "graded_outcomes.parquet")
    return folder


def drawn(numbers: list[int], *, easy: float, hard: float, seed: int = 0) -> list[float | None]:
    random = np.random.default_rng(seed)
    return [float(random.random() < (easy if number % 2 else hard)) for number in numbers]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router that knows `v/good` and `v/weak`."""
    folder, numbers = tmp_path_factory.mktemp("old"), list(range(QUERIES))
    grades = {
        "v/good": drawn(numbers, easy=0.95, hard=0.5, seed=1),
        "v/weak": drawn(numbers, easy=0.7, hard=0.1, seed=2),
    }
    config = TrainRouterConfig.model_validate(
        {
            "recordings": str(write(folder / "recordings", numbers, grades)), "catalog": "unused",
            "models": ["v/good", "v/weak"], "artifact": str(folder / "router"),
            "backbone": {"kind": "hashing", "buckets": 64},
        }
    )  # fmt: skip
    train_router(config)
    return folder / "router"


def added(router: Path, recordings: Path, artifact: Path, *models: str) -> Artifact:
    add_models(config(router, recordings, str(artifact), *models))
    return read_artifact(str(artifact))


def config(router: Path, recordings: Path, artifact: str, *models: str) -> AddModelsConfig:
    fields: dict[str, Any] = {
        "router": str(router), "recordings": str(recordings), "models": list(models),
        "artifact": artifact,
    }  # fmt: skip
    return AddModelsConfig.model_validate(fields)


UNSEEN = list(range(1000, 1000 + NEW))


def test_a_new_model_is_learnt_and_the_others_are_as_they_were(old: Path, tmp_path: Path) -> None:
    grades = {"v/new": drawn(UNSEEN, easy=0.9, hard=0.2)}
    recordings = write(tmp_path / "recordings", UNSEEN, grades, times=3)

    added(old, recordings, tmp_path / "router", "v/new")

    texts, known = [text(n) for n in range(5000, 5200)], ["v/good", "v/weak"]
    before = Router.load(str(old)).score(texts, known)
    router = Router.load(str(tmp_path / "router"))
    for was, now in zip(before, router.score(texts, known), strict=True):
        assert np.array_equal(was, now)
    new = router.score(texts, ["v/new"])
    short = np.arange(5000, 5200) % 2 == 1
    assert new.expected_grade[short].mean() == pytest.approx(0.9, abs=0.07)
    assert new.expected_grade[~short].mean() == pytest.approx(0.2, abs=0.07)
    assert new.expected_output_tokens[short].mean() == pytest.approx(90, rel=0.15)
    assert new.expected_output_tokens[~short].mean() == pytest.approx(900, rel=0.15)


def test_two_models_graded_on_the_same_queries_are_learnt_alike_one_after_the_other(
    old: Path, tmp_path: Path
) -> None:
    same = drawn(UNSEEN, easy=0.9, hard=0.2)
    recordings = write(tmp_path / "recordings", UNSEEN, {"v/one": same, "v/two": same})

    added(old, recordings, tmp_path / "one", "v/one")
    both = added(tmp_path / "one", recordings, tmp_path / "both", "v/two")

    heads = both.tensors["heads.grade"]
    assert heads[:, -1] == pytest.approx(heads[:, -2], abs=0.02)
    assert np.abs(heads[1, -1]) > 0.1


def test_a_text_that_is_there_twice_keeps_the_grades_of_both(old: Path, tmp_path: Path) -> None:
    nobody: list[float | None] = [None] * NEW
    grades: Grades = {
        "v/one": [*drawn(UNSEEN, easy=0.9, hard=0.2), *nobody],
        "v/two": [*nobody, *drawn(UNSEEN, easy=0.8, hard=0.4)],
    }
    numbers = list(range(NEW))
    recordings = write(tmp_path / "recordings", numbers + numbers, grades)

    artifact = added(old, recordings, tmp_path / "router", "v/one", "v/two")

    kept = grades_of(artifact.tensors["training.grades"])
    assert len(kept) == QUERIES
    row_of = {int(one): n for n, one in enumerate(artifact.tensors["training.text_hash"])}
    rows = [row_of[int(one)] for one in text_hashes([text(number) for number in numbers])]
    assert kept[rows, 2].tolist() == grades["v/one"][:NEW]
    assert kept[rows, 3].tolist() == grades["v/two"][NEW:]


def test_what_cannot_be_learnt_from_is_refused(old: Path, tmp_path: Path) -> None:
    enough = drawn(UNSEEN, easy=0.9, hard=0.2)
    few = [*enough[: LEAST_GRADES - 1], *[None] * (NEW - LEAST_GRADES + 1)]
    recordings = write(tmp_path / "recordings", UNSEEN, {"v/few": few, "v/weak": enough})
    target = str(tmp_path / "router")

    with pytest.raises(ConfigError, match="v/few has 199 grades"):
        add_models(config(old, recordings, target, "v/few"))
    with pytest.raises(ConfigError, match="knows v/weak already"):
        add_models(config(old, recordings, target, "v/weak"))


def test_a_model_without_counts_of_tokens_is_refused(old: Path, tmp_path: Path) -> None:
    recordings = write(tmp_path / "r", UNSEEN, {"v/new": drawn(UNSEEN, easy=0.9, hard=0.2)})
    graded = pq.read_table(recordings / "graded_outcomes.parquet")
    place = graded.column_names.index("output_tokens")
    nothing = pa.nulls(len(graded), pa.int32())
    graded = graded.set_column(place, "output_tokens", nothing)
    pq.write_table(graded, recordings / "graded_outcomes.parquet")

    with pytest.raises(ConfigError, match="v/new has output_tokens on 0 training queries"):
        add_models(config(old, recordings, str(tmp_path / "router"), "v/new"))


def test_the_folder_of_the_router_itself_is_refused_however_it_is_spelt(
    old: Path, tmp_path: Path
) -> None:
    spelt = f"{old.parent}/./{old.name}/"

    with pytest.raises(ConfigError, match="the folder of the router itself"):
        add_models(config(old, tmp_path, spelt, "v/new"))
    with pytest.raises(ValidationError, match="should be a local folder"):
        config(old, tmp_path, "s3://bucket/router", "v/new")
