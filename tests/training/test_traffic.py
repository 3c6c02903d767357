"""A router is judged by an outcome table, in which mostly one model has answered a query."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.evaluation.config import EvaluateRouterConfig
from moa.planning.policy import FALLBACK
from moa.router.facts import read_facts
from moa.training.dataset import read_dataset
from moa.training.evaluate import evaluate_router
from moa.training.traffic import data_hash, propensity_of
from tests.evaluation.logs import P3, RECORDINGS
from tests.router.artifacts import another_router

SHARE = 0.3


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's queries, each with the grade of one model: gpt-4o, or one drawn."""
    folder = tmp_path_factory.mktemp("table")
    queries = pq.read_table(RECORDINGS / "queries.parquet").filter(pc.field("split") == "demo")
    ids = queries["query_id"].to_pylist()
    random = np.random.default_rng(0)
    asked = np.where(random.random(len(ids)) < SHARE, random.integers(3, size=len(ids)), 0)
    place = queries.schema.get_field_index("split")
    queries = queries.set_column(place, "split", pa.array(["held_out"] * len(ids)))
    pq.write_table(queries, folder / "queries.parquet")
    of = dict(zip(ids, (P3[n] for n in asked.tolist()), strict=True))
    grades = pq.read_table(RECORDINGS / "graded_outcomes.parquet")
    kept = [row for row in grades.to_pylist() if of.get(row["query_id"]) == row["model"]]
    for row in kept:
        row["propensity"] = SHARE / 3 + (1 - SHARE if row["model"] == P3[0] else 0)
    pq.write_table(pa.Table.from_pylist(kept), folder / "graded_outcomes.parquet")
    return folder


def config(table: Path, tmp_path: Path, **more: object) -> EvaluateRouterConfig:
    pool = {"models": list(P3), "traffic": {"loss_usd": 10.0, "worth_usd": -10.0}}
    document = {
        "artifact": "moa/router/embedded", "recordings": str(table), "split": "held_out",
        "catalog": "jobs/configs/demo_catalog.toml", "output": str(tmp_path / "out"),
        "policy": {"willingness_to_pay": "0.05"}, "pools": {"P3": pool}, "replicates": 100,
        "perturb": False, **more,
    }  # fmt: skip
    return EvaluateRouterConfig.model_validate(document)


def test_a_router_is_judged_by_answers_of_mostly_one_model(table: Path, tmp_path: Path) -> None:
    found = evaluate_router(config(table, tmp_path, current=str(tmp_path / "routers")))

    (one,) = found.traffic
    assert found.pools == ()
    assert one.queries == one.answers == 1158
    assert one.candidate.out_of_reach == 0
    assert one.constants[P3[0]].grade.value == pytest.approx(0.816, abs=0.02)
    assert {check.what.split()[1] for check in one.gate.checks} == {"more", "less"}
    assert found.basis.current is None
    assert found.verdict().data_sha256 == found.basis.data_sha256


def test_queries_that_chance_sent_to_a_model_beyond_the_pool_count(
    table: Path, tmp_path: Path
) -> None:
    """Left out, the queries that are left would be chosen by what was drawn."""
    pool = {"models": list(P3[:2]), "traffic": {"worth_usd": -10.0}}

    (one,) = evaluate_router(config(table, tmp_path, pools={"two": pool})).traffic

    assert one.queries == 1158
    assert one.answers < 1158
    assert one.candidate.out_of_reach == 0


def test_an_answer_that_came_of_a_failure_is_learnt_from_and_judges_nothing(
    table: Path, tmp_path: Path
) -> None:
    grades = pq.read_table(table / "graded_outcomes.parquet").to_pylist()
    for number, row in enumerate(grades):
        row["rule"] = FALLBACK if number < 100 else "explored"
        row["propensity"] = 1.0 if number < 100 else row["propensity"]
    shutil.copy(table / "queries.parquet", tmp_path)
    pq.write_table(pa.Table.from_pylist(grades), tmp_path / "graded_outcomes.parquet")

    learnt = read_dataset(tmp_path, P3, split="held_out", most_weight=10)
    (one,) = evaluate_router(config(tmp_path, tmp_path)).traffic

    assert np.isfinite(learnt.grade).sum() == one.queries == 1158
    assert one.answers == 1058
    assert one.candidate.out_of_reach == 0


def test_the_router_in_use_decides_among_the_models_that_it_knows(
    table: Path, tmp_path: Path
) -> None:
    version = another_router(tmp_path / "other")

    found = evaluate_router(config(table, tmp_path, current=str(tmp_path / "other")))

    (one,) = found.traffic
    assert found.basis.current == found.verdict().current == version
    assert one.against_current is not None
    assert one.against_current.moved > 0
    assert version != read_facts("moa/router/embedded").version


def test_what_is_asked_of_answers_by_all_and_is_not_there_is_an_error(
    table: Path, tmp_path: Path
) -> None:
    pool = {"models": list(P3), "traffic": {}, "gate": {"aiq": 0.5}}

    with pytest.raises(ConfigError, match="no query has a grade and tokens of each"):
        evaluate_router(config(table, tmp_path, pools={"P3": pool}))


def test_the_hash_is_of_grades_and_propensities(table: Path) -> None:
    weighed = read_dataset(table, P3, split="held_out", most_weight=1000)
    bound = read_dataset(table, P3, split="held_out", most_weight=5)
    alike = read_dataset(table, P3, split="held_out", most_weight=1000)

    assert np.nanmin(propensity_of(weighed)) == pytest.approx(SHARE / 3)
    assert np.nanmin(propensity_of(bound)) == pytest.approx(1 / 5)
    assert data_hash(weighed) == data_hash(alike) != data_hash(bound)
