from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from pydantic import ValidationError

from moa.catalog import AgreedPrice, Limits, Model, Rates
from moa.errors import ConfigError
from moa.prices import PriceTable
from moa.router.artifact import CARDS, read_artifact
from moa.router.facts import steps_of
from moa.router.router import Router, Scores
from moa.schema import GRADED_OUTCOMES
from moa.toml_file import read_toml
from moa.training.backbone import open_for_training
from moa.training.dataset import read_dataset
from moa.training.fit import fit
from moa.training.judge import judge
from moa.training.train import (
    TrainRouterConfig,
    fit_prompt_tokens,
    text_hashes,
    train_router,
)

ROOT = Path(__file__).parents[2]
QUERIES = 400


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """`good` is right wherever a question is short; `cheap` was asked every second query only."""
    random = np.random.default_rng(3)
    texts = [
        f"Is {n} even?" if n % 2 else f"Prove for all n below {n} that " + "it holds " * 30
        for n in range(QUERIES)
    ]
    ids = [f"q{n:03d}" for n in range(QUERIES)]
    queries = {
        "query_id": ids,
        "prompt": texts,
        "source": ["s"] * QUERIES,
        "split": ["train" if n < 300 else "demo" for n in range(QUERIES)],
        "duplicate_group": [f"g{n // 2}" for n in range(QUERIES)],
    }
    pq.write_table(pa.table(queries), tmp_path / "queries.parquet")
    graded = [
        {
            "query_id": ids[n], "model": model, "grade": grade, "input_tokens": len(texts[n]) // 4,
            "output_tokens": 10 if n % 2 else 200, "grader": "test",
        }
        for n in range(QUERIES)
        for model, grade in (
            ("v/good", float(n % 2 or random.random() < 0.2)),
            ("v/cheap", None if n % 3 else float(random.random() < 0.5)),
        )
    ]  # fmt: skip
    table = pa.Table.from_pylist(graded, schema=GRADED_OUTCOMES)
    pq.write_table(table, tmp_path / "graded_outcomes.parquet")
    return tmp_path


def config(recordings: Path, name: str = "artifact", **fields: object) -> TrainRouterConfig:
    return TrainRouterConfig.model_validate(
        {
            "recordings": str(recordings), "models": ["v/good", "v/cheap"], "catalog": "unused",
            "artifact": str(recordings / name),
            "backbone": {"kind": "hashing", "buckets": 64}, **fields,
        }
    )  # fmt: skip


def test_a_router_learns_what_a_model_is_good_at(recordings: Path) -> None:
    train_router(config(recordings))

    router = Router.load(str(recordings / "artifact"))
    demo = read_dataset(recordings, ["v/good"], split="demo")
    scores = router.score(demo.texts, ["v/good", "v/cheap"])

    right = demo.grade[:, 0] == 1
    assert scores.expected_grade[right, 0].mean() > 0.8
    assert scores.expected_grade[~right, 0].mean() < 0.4
    assert scores.expected_output_tokens[:, 0].sum() == pytest.approx(
        demo.output_tokens.sum(), rel=0.1
    )
    assert scores.expected_input_tokens[:, 0].sum() == pytest.approx(
        demo.input_tokens.sum(), rel=0.1
    )
    assert router.facts.training.outcomes == {"v/good": 300, "v/cheap": 100}


def test_equal_data_gives_equal_bytes(recordings: Path) -> None:
    first = train_router(config(recordings, "one"))
    second = train_router(config(recordings, "two"))

    assert first.version == second.version
    for name in ("artifact.json", "weights.safetensors", *CARDS):
        assert (recordings / "one" / name).read_bytes() == (recordings / "two" / name).read_bytes()


def test_nothing_is_learnt_from_the_demo_split(recordings: Path) -> None:
    before = train_router(config(recordings, "one"))
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    kept = table.filter(pa.compute.less(table["query_id"], "q300"))
    pq.write_table(kept, recordings / "graded_outcomes.parquet")

    after = train_router(config(recordings, "two"))

    assert before.version == after.version


def test_queries_with_one_normalised_prompt_are_in_one_fold(recordings: Path) -> None:
    data = read_dataset(recordings, ["v/good"], split="train")

    folds = data.folds(5)

    assert set(folds) == {0, 1, 2, 3, 4}
    assert (folds[0::2] == folds[1::2]).all()


def test_a_missing_grade_is_missing(recordings: Path) -> None:
    data = read_dataset(recordings, ["v/good", "v/cheap"], split="train")

    assert np.isnan(data.grade[1, 1])
    assert np.isnan(data.grade[:, 1]).sum() == 200


def change(recordings: Path, name: str, values: list[Any]) -> None:
    path = recordings / "graded_outcomes.parquet"
    table = pq.read_table(path)
    column = pa.array(values, table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def test_a_missing_count_of_tokens_is_not_an_empty_answer(recordings: Path) -> None:
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    tokens = table["output_tokens"].to_pylist()
    change(recordings, "output_tokens", [t if n % 6 < 3 else None for n, t in enumerate(tokens)])

    train_router(config(recordings))

    demo = read_dataset(recordings, ["v/good"], split="demo")
    scores = Router.load(str(recordings / "artifact")).score(demo.texts, ["v/good"])
    long = np.array([len(text) > 100 for text in demo.texts])
    assert scores.expected_output_tokens[long].mean() == pytest.approx(200, rel=0.1)
    assert scores.expected_output_tokens[~long].mean() == pytest.approx(10, rel=0.25)


def test_an_answer_without_tokens_is_not_a_free_one(recordings: Path) -> None:
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    tokens = table["output_tokens"].to_pylist()
    change(recordings, "output_tokens", [None if n % 4 == 0 else t for n, t in enumerate(tokens)])
    data = read_dataset(recordings, ["v/good", "v/cheap"], split="train")
    each = Decimal(10)
    models = [
        Model(
            id=name, provider="v", api_name=name, context_window=10**6, max_output_tokens=10**5,
            abilities=frozenset(), limits=Limits(), price_provider="", price_ref="",
            prices=(AgreedPrice("live", (Rates(each, each, each, each),), "a contract"),),
        )
        for name in data.models
    ]  # fmt: skip
    blank = np.ones_like(data.grade, np.float32)
    scores = Scores(blank, blank, blank, blank, blank[:, 0])

    found = judge(data, scores, data.models, PriceTable.build(models), best_constant="v/good")

    known = np.isfinite(data.grade + data.output_tokens).all(axis=1)
    assert found.queries == known.sum() < np.isfinite(data.grade).all(axis=1).sum()
    assert np.isfinite(found.cost_usd).all()
    assert (found.cost_usd > 0).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"models": ["v/good", "v/good"]}, "v/good named more than once"),
        ({"backbone": {"kind": "hashing", "buckets": 100}}, "a power of two from 64"),
        ({"folds": 2}, "greater than or equal to 3"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    recordings: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        config(recordings, **fields)


def test_a_model_without_any_count_of_tokens_is_refused(recordings: Path) -> None:
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    both = zip(table["model"].to_pylist(), table["output_tokens"].to_pylist(), strict=True)
    change(recordings, "output_tokens", [None if m == "v/cheap" else t for m, t in both])

    with pytest.raises(ConfigError, match="v/cheap has output_tokens on 0 training queries"):
        train_router(config(recordings))


@pytest.mark.parametrize(
    ("models", "said"), [(["v/none"], "no graded outcome of v/none"), (["v/good"], "not there")]
)
def test_what_is_not_there_is_named(recordings: Path, models: list[str], said: str) -> None:
    if models == ["v/good"]:
        (recordings / "queries.parquet").unlink()

    with pytest.raises(ConfigError, match=said):
        train_router(config(recordings, models=models))


def test_what_is_told_of_a_query_comes_from_routers_that_had_not_seen_it(recordings: Path) -> None:
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    before = train_router(config(recordings, "one"))
    fold = before.data.folds(5)
    mine = {query for query, n in zip(before.data.query_ids, fold, strict=True) if n == 2}
    rows = zip(table["query_id"].to_pylist(), table["grade"].to_pylist(), strict=True)
    change(recordings, "grade", [g if q not in mine or g is None else 1 - g for q, g in rows])

    after = train_router(config(recordings, "two"))

    assert before.version != after.version
    for name, values in before.held_out._asdict().items():
        same = values == getattr(after.held_out, name)
        assert same[fold == 2].all(), name
    assert (before.held_out.expected_grade != after.held_out.expected_grade)[fold != 2].any()


def test_a_fold_without_a_query_is_left_out(recordings: Path) -> None:
    queries = pq.read_table(recordings / "queries.parquet")
    one = queries.filter(pa.compute.is_in(queries["duplicate_group"], pa.array(some_folds())))
    pq.write_table(one, recordings / "queries.parquet")

    trained = train_router(config(recordings))

    assert np.isfinite(trained.held_out.expected_grade).all()
    assert set(trained.data.folds(5)) == {1, 3}


def some_folds() -> list[str]:
    """Groups of two folds of five."""
    groups = [f"g{n}" for n in range(QUERIES // 2)]
    return [group for group in groups if xxhash.xxh3_64_intdigest(group.encode()) % 5 in (1, 3)]


@pytest.mark.slow
def test_the_shipped_router_is_what_training_gives() -> None:
    # Without the cross-validation, which fits five times more. Within rounding: two threads of
    # OpenBLAS sum in another order than one, and 40 of 400,000 numbers came out a step higher.
    job = read_toml(TrainRouterConfig, ROOT / "jobs/configs/train_router.toml")
    shipped = read_artifact(str(ROOT / "moa/router/embedded"))
    data = read_dataset(ROOT / job.recordings, job.models, split="train")
    opened = open_for_training(job.backbone, artifact=Path("unused"))

    fitted = fit(data, opened.read(data.texts), folds=job.folds)

    description = shipped.description
    assert opened.spec == description.backbone.model_dump()
    assert fitted.domains == description.domains
    assert (
        dict(zip(job.models, fitted.calibration, strict=True)) == description.training.calibration
    )
    assert fit_prompt_tokens(data) == pytest.approx(description.tokens_per_feature, abs=1e-5)
    assert np.array_equal(steps_of(data.grade), shipped.tensors["training.grades"])
    assert np.array_equal(text_hashes(data.texts), shipped.tensors["training.text_hash"])
    for name, tensor in fitted.tensors.items():
        size = np.abs(tensor.astype(np.float64)).max()
        assert tensor == pytest.approx(shipped.tensors[name], rel=2e-3, abs=2e-3 * size), name


def test_ones_own_logs_need_no_more_than_prompts_and_grades(
    recordings: Path, tmp_path: Path
) -> None:
    queries = pq.read_table(recordings / "queries.parquet").select(["query_id", "prompt"])
    pq.write_table(queries, recordings / "queries.parquet")

    data = read_dataset(recordings, ["v/good", "v/cheap"], split="train")

    assert len(data.query_ids) == QUERIES
    assert set(data.sources) == {"log"}
    assert len(set(data.groups)) == QUERIES


def test_logs_with_other_columns_are_told_what_is_missing(recordings: Path) -> None:
    queries = pq.read_table(recordings / "queries.parquet").drop_columns(["prompt"])
    pq.write_table(queries, recordings / "queries.parquet")

    with pytest.raises(ConfigError, match=r"queries.parquet has no column 'prompt'"):
        read_dataset(recordings, ["v/good"], split="train")


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("prompt", [None, *["a"] * (QUERIES - 1)], "1 of 400 rows have no prompt"),
        ("source", [None, *["a"] * (QUERIES - 1)], "1 of 400 rows have no source"),
        ("duplicate_group", [None] * QUERIES, "400 of 400 rows have no duplicate_group"),
        ("query_id", ["q000"] * QUERIES, "a query_id more than once"),
        ("prompt", [["a"]] * QUERIES, "'prompt' is no text"),
    ],
)
def test_queries_that_cannot_be_learnt_from_are_refused(
    recordings: Path, column: str, values: list[Any], said: str
) -> None:
    queries = pq.read_table(recordings / "queries.parquet")
    place = queries.column_names.index(column)
    pq.write_table(
        queries.set_column(place, column, pa.array(values)), recordings / "queries.parquet"
    )

    with pytest.raises(ConfigError, match=said):
        train_router(config(recordings))


def test_ids_may_be_of_any_type_that_is_text_in_the_end(recordings: Path) -> None:
    queries = pq.read_table(recordings / "queries.parquet")
    graded = pq.read_table(recordings / "graded_outcomes.parquet")
    numbers = pa.array(range(QUERIES))
    ids = [str(int(name[1:])) for name in graded["query_id"].to_pylist()]
    sources = queries["source"].combine_chunks().dictionary_encode()
    queries = queries.set_column(0, "query_id", numbers).set_column(2, "source", sources)
    pq.write_table(queries, recordings / "queries.parquet")
    change(recordings, "query_id", ids)

    data = read_dataset(recordings, ["v/good"], split="train")

    assert data.query_ids == tuple(sorted(str(n) for n in range(300)))
    assert data.sources == ("s",) * 300


@pytest.mark.parametrize("grade", [5.0, -1.0])
def test_grades_on_another_scale_are_refused(recordings: Path, grade: float) -> None:
    grades = pq.read_table(recordings / "graded_outcomes.parquet")["grade"].to_pylist()
    change(recordings, "grade", [grade, *grades[1:]])

    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]: scale them"):
        train_router(config(recordings))


def test_an_artifact_is_not_written_to_a_folder_named_like_a_bucket(recordings: Path) -> None:
    with pytest.raises(ValidationError, match="should be a local folder"):
        config(recordings, artifact="s3://bucket/router")


def test_a_model_that_the_catalog_has_not_is_named_before_anything_is_read() -> None:
    command = [sys.executable, "jobs/train_router.py", "--config", "jobs/configs/train_router.toml"]

    done = subprocess.run(
        [*command, "--set", 'models=["openai/none"]'], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "has no model 'openai/none'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_with_a_handful_of_grades_is_refused(recordings: Path) -> None:
    path = recordings / "graded_outcomes.parquet"
    table = pq.read_table(path)
    cheap = np.array([model == "v/cheap" for model in table["model"].to_pylist()])
    few = ~cheap | (np.cumsum(cheap) <= 12)
    pq.write_table(table.filter(pa.array(few)), path)

    with pytest.raises(ConfigError, match=r"v/cheap has grade on 4 .*\(30 are needed\)"):
        train_router(config(recordings))
