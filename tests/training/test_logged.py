"""Training on outcome tables: sparse, weighted, in buckets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.router.facts import read_facts
from moa.router.router import Router
from moa.schema import GRADED_OUTCOMES
from moa.storage.object_store import Folder
from moa.storage.outcome_table import GRADES, read_log
from moa.training.add_models import AddModelsConfig, add_models
from moa.training.data_look import data_look, effective
from moa.training.dataset import EVERY_SPLIT, read_dataset, read_grades
from moa.training.fit import estimated_grades, fit, grade_weights
from moa.training.train import TrainRouterConfig, train_router
from tests.training.logged import EXPLORED, MODELS, nights
from tests.training.made import made


def config(table: str, folder: Path, **fields: object) -> TrainRouterConfig:
    return TrainRouterConfig.model_validate(
        {
            "recordings": table, "models": list(MODELS), "artifact": str(folder / "artifact"),
            "catalog": "unused", "backbone": {"kind": "hashing", "buckets": 64}, **fields,
        }
    )  # fmt: skip


def test_a_router_learns_from_a_table_in_a_bucket_with_one_grade_a_query(
    object_store: str, tmp_path: Path
) -> None:
    nights(f"{object_store}/table")

    trained = train_router(config(f"{object_store}/table", tmp_path))

    router = Router.load(str(tmp_path / "artifact"))
    asked = ["Is case 17 of night 9 even?", "Prove for all of case 4 that " + "it holds " * 30]
    short, long = router.score(asked, MODELS).expected_grade
    assert (np.isfinite(trained.data.grade).sum(axis=1) == 1).all()
    assert short[1] > 0.7
    assert long[0] > 0.4 > long[1]
    assert any("one of train" in line for line in trained.look)
    card = (tmp_path / "artifact/DATA_CARD.md").read_text()
    assert "by propensity" in card
    assert "graded from 2026-11-24 to 2026-11-25" in card


def test_the_best_constant_of_a_log_is_not_whom_the_router_asked_most(tmp_path: Path) -> None:
    # Three in four are short: of them "cheap", which is worse on all, is asked nine in ten.
    nights(str(tmp_path / "table"), each=900, long_one_in=4)

    trained = train_router(config(str(tmp_path / "table"), tmp_path))

    facts = read_facts(str(tmp_path / "artifact"))
    good, cheap = (facts.training.estimated_grade[model] for model in MODELS)
    asked_good, asked_cheap = np.isfinite(trained.data.grade).sum(axis=0)
    assert asked_cheap > 2 * asked_good
    assert facts.training.mean_grade["v/cheap"] > facts.training.mean_grade["v/good"]
    assert facts.best_constant(MODELS).model == "v/good"
    assert abs(good - (0.75 * 0.95 + 0.25 * 0.6)) < 0.05
    assert abs(cheap - (0.75 * 0.9 + 0.25 * 0.1)) < 0.05


def test_a_model_with_few_grades_is_no_best_constant_by_estimate() -> None:
    data = made(queries=300).data
    few = data.grade.copy()
    few[50:, 0] = np.nan

    estimated = estimated_grades(replace(data, grade=few), np.full_like(few, 0.5))

    assert data.models[0] not in estimated
    assert set(estimated) <= set(data.models[1:])
    assert estimated


def test_nothing_is_learnt_from_queries_that_are_held_out(tmp_path: Path) -> None:
    nights(str(tmp_path))

    train = read_dataset(str(tmp_path), MODELS, split="train")
    held_out = read_dataset(str(tmp_path), MODELS, split="held_out")

    assert not set(train.groups) & set(held_out.groups)
    assert len(held_out.texts) == pytest.approx(120, abs=50)
    assert len(train.texts) + len(held_out.texts) <= 600


def test_a_new_model_is_added_from_an_outcome_table(tmp_path: Path) -> None:
    nights(str(tmp_path / "old"))
    train_router(config(str(tmp_path / "old"), tmp_path))
    nights(str(tmp_path / "new"), ("v/new", "v/new"), each=400, count=1)

    added = add_models(
        AddModelsConfig(
            router=str(tmp_path / "artifact"), recordings=str(tmp_path / "new"), models=["v/new"],
            artifact=str(tmp_path / "larger"),
        )
    )  # fmt: skip

    assert added.graded["v/new"] == pytest.approx(320, abs=40)
    assert Router.load(str(tmp_path / "larger")).facts.models == (*MODELS, "v/new")


def test_a_grade_weighs_one_over_its_propensity_up_to_the_bound(tmp_path: Path) -> None:
    nights(str(tmp_path))

    data = read_dataset(str(tmp_path), MODELS, split=EVERY_SPLIT, most_weight=4.0)

    assert data.weight is not None
    known = np.isfinite(data.grade)
    assert np.array_equal(np.isfinite(data.weight), known)
    assert set(np.round(data.weight[known], 4)) == {round(1 / (1 - EXPLORED), 4), 4.0}
    assert read_dataset(str(tmp_path), MODELS, split=EVERY_SPLIT).weight is None


def test_weights_of_a_model_sum_to_what_its_grades_are_worth() -> None:
    data = made(queries=300).data
    random = np.random.default_rng(0)
    weight = np.where(np.isnan(data.grade), np.nan, random.choice([1.0, 20.0], data.grade.shape))

    found = grade_weights(replace(data, weight=weight))

    for column in range(weight.shape[1]):
        mine = weight[np.isfinite(weight[:, column]), column]
        assert found[:, column].sum() == pytest.approx(effective(mine))
        assert (found[np.isnan(weight[:, column]), column] == 0).all()
        assert 1 < effective(mine) < len(mine)


def test_weights_of_one_change_no_bit_of_a_router() -> None:
    made_up = made(queries=300)
    ones = np.where(np.isnan(made_up.data.grade), np.nan, 1.0)

    plain = fit(made_up.data, made_up.reading, folds=3)
    weighted = fit(replace(made_up.data, weight=ones), made_up.reading, folds=3)

    assert plain.tensors.keys() == weighted.tensors.keys()
    for name, tensor in plain.tensors.items():
        assert np.array_equal(tensor, weighted.tensors[name]), name


def test_weights_move_a_head_towards_what_was_rarely_tried() -> None:
    made_up = made(queries=600)
    hard = made_up.ease < 0
    weight = np.where(np.isnan(made_up.data.grade), np.nan, np.where(hard, 10.0, 1.0)[:, None])

    plain = fit(made_up.data, made_up.reading, folds=3)
    weighted = fit(replace(made_up.data, weight=weight), made_up.reading, folds=3)

    assert weighted.tensors["heads.grade"][-1].mean() < plain.tensors["heads.grade"][-1].mean()


def change(folder: Path, name: str, values: list[object]) -> None:
    path = folder / GRADES
    (file, *_) = sorted(path.rglob("*.parquet"))
    table = pq.ParquetFile(file).read()
    column = pa.array(values[: len(table)], table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), file)


def test_a_propensity_that_is_none_is_refused(tmp_path: Path) -> None:
    nights(str(tmp_path), count=1)
    change(tmp_path, "propensity", [0.0] * 300)

    with pytest.raises(ConfigError, match="a propensity is 0"):
        read_dataset(str(tmp_path), MODELS, split="train")


def test_of_two_grades_of_one_answer_the_later_counts(tmp_path: Path) -> None:
    nights(str(tmp_path), count=1)
    table = read_log(Folder(str(tmp_path)), GRADES)
    before = read_dataset(str(tmp_path), MODELS, split=EVERY_SPLIT).grade
    older, newer = ([1 - g for g in table["grade"].to_pylist()], table["graded_at"].to_pylist())
    change(tmp_path, "grade", older)
    again = table.select([name for name in table.column_names if name != "date"])
    number = again.column_names.index("graded_at")
    later = pa.array([at.replace(year=2027) for at in newer], again.schema.field(number).type)
    pq.write_table(again.set_column(number, "graded_at", later), tmp_path / GRADES / "a.parquet")

    after = read_dataset(str(tmp_path), MODELS, split=EVERY_SPLIT).grade

    assert np.array_equal(before, after, equal_nan=True)


def test_of_several_graders_the_last_that_has_a_grade_counts(tmp_path: Path) -> None:
    (tmp_path / GRADES).mkdir()
    said = [
        ("q0", "a/1", 0.0), ("q0", "b/1", 1.0),
        ("q1", "b/1", 1.0), ("q1", "a/1", 0.0),
        ("q2", "b/1", 1.0), ("q2", "a/1", None),
        ("q3", "a/1", 1.0), ("q3", "a/1", None),
        ("q4", "a/1", 1.0), ("q4", "b/1", 0.0), ("q4", "b/1", None),
    ]  # fmt: skip
    rows = [
        {"query_id": query, "model": "v/m", "grader": grader, "grade": grade}
        for query, grader, grade in said
    ]
    table = pa.Table.from_pylist(rows, schema=GRADED_OUTCOMES)
    pq.write_table(table, tmp_path / GRADES / "a.parquet")

    found = read_grades(tmp_path).to_pylist()

    assert {row["query_id"]: row["grade"] for row in found} == {
        "q0": 1.0, "q1": 0.0, "q2": 1.0, "q4": 1.0,
    }  # fmt: skip


def test_the_look_counts_queries_that_judge_and_were_learnt_from(tmp_path: Path) -> None:
    recordings = tmp_path / "mine"
    recordings.mkdir()
    prompt = "Why is the sky over the old harbour so red at night when the fishing boats come"
    prompts = [f"{prompt} home", f"{prompt} back", f"What is the {7} th prime", f"{prompt} home"]
    splits = ["train", "held_out", "held_out", "train"]
    ids = [f"q{n}" for n in range(4)]
    pq.write_table(
        pa.table({"query_id": ids, "prompt": prompts, "split": splits}),
        recordings / "queries.parquet",
    )
    grades = {
        "query_id": ids, "model": ["v/m"] * 4, "grade": pa.array([1.0, 0, 1, 0], pa.float32()),
        "input_tokens": pa.array([1] * 4, pa.int32()), "grader": ["g"] * 4,
        "output_tokens": pa.array([1] * 4, pa.int32()),
    }  # fmt: skip
    pq.write_table(pa.table(grades), recordings / GRADES)
    data = read_dataset(recordings, ["v/m"], split="train")

    look = "\n".join(data_look(data, recordings))

    assert "held_out: 1 of 2 queries are nearly the same as one of train (50.0 %)" in look
    assert "1 of the queries repeat another's text" in look
    assert "v/m: 2 grades, 50.0 % of them right, mean 0.500" in look
