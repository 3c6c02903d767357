from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.router.router import Router
from moa.schema import GRADED_OUTCOMES
from moa.toml_file import read_toml
from moa.training.dataset import read_dataset
from moa.training.linear import fit_log_odds, fit_mean
from moa.training.train import TrainRouterConfig, calibration_error, train_router

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
            "artifact": str(recordings / name), "buckets": 64, **fields,
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
    assert router.training.outcomes == {"v/good": 300, "v/cheap": 100}


def test_equal_data_gives_equal_bytes(recordings: Path) -> None:
    first = train_router(config(recordings, "one"))
    second = train_router(config(recordings, "two"))

    assert first.version == second.version
    for name in ("artifact.json", "weights.safetensors"):
        assert (recordings / "one" / name).read_bytes() == (recordings / "two" / name).read_bytes()


def test_nothing_is_learnt_from_the_demo_split(recordings: Path) -> None:
    before = train_router(config(recordings, "one"))
    table = pq.read_table(recordings / "graded_outcomes.parquet")
    kept = table.filter(pa.compute.less(table["query_id"], "q300"))
    pq.write_table(kept, recordings / "graded_outcomes.parquet")

    after = train_router(config(recordings, "two"))

    assert before.version == after.version


def test_near_duplicates_are_in_one_fold(recordings: Path) -> None:
    data = read_dataset(recordings, ["v/good"], split="train")

    folds = data.folds(5)

    assert set(folds) == {0, 1, 2, 3, 4}
    assert (folds[0::2] == folds[1::2]).all()


def test_a_missing_grade_is_missing(recordings: Path) -> None:
    data = read_dataset(recordings, ["v/good", "v/cheap"], split="train")

    assert np.isnan(data.grade[1, 1])
    assert np.isnan(data.grade[:, 1]).sum() == 200


@pytest.mark.parametrize(
    ("models", "said"), [(["v/none"], "no graded outcome of v/none"), (["v/good"], "not there")]
)
def test_what_is_not_there_is_named(recordings: Path, models: list[str], said: str) -> None:
    if models == ["v/good"]:
        (recordings / "queries.parquet").unlink()

    with pytest.raises(ConfigError, match=said):
        train_router(config(recordings, models=models))


def test_the_fits_find_what_made_the_data() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(20_000, 3))
    truth = np.array([1.0, -2.0, 0.5])
    odds = features @ truth - 0.7
    grade = (random.random(20_000) < 1 / (1 + np.exp(-odds))).astype(float)
    weight = np.ones(20_000)

    by_odds = fit_log_odds(features, grade, weight, l2=1e-3)
    by_mean = fit_mean(features, odds, weight, l2=1e-6)

    assert by_odds == pytest.approx([*truth, -0.7], abs=0.12)
    assert by_mean == pytest.approx([*truth, -0.7], abs=1e-6)


def test_calibration_error_is_the_distance_from_the_truth() -> None:
    expected = np.linspace(0, 1, 1000)

    assert calibration_error(expected, expected) == pytest.approx(0)
    assert calibration_error(expected, np.clip(expected - 0.2, 0, 1)) == pytest.approx(
        0.18, abs=0.01
    )


@pytest.mark.slow
def test_the_shipped_router_is_what_training_gives(tmp_path: Path) -> None:
    job = read_toml(
        TrainRouterConfig, ROOT / "jobs/configs/train_router.toml", [f"artifact={tmp_path}"]
    )

    train_router(job)

    for name in ("artifact.json", "weights.safetensors"):
        shipped = (ROOT / "moa/router/embedded" / name).read_bytes()
        assert (tmp_path / name).read_bytes() == shipped
