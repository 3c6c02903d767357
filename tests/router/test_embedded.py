"""The shipped router on recorded queries that nothing was fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moa.catalog import load_catalog
from moa.config import RouteBatchConfig
from moa.evaluation.calibration import calibration
from moa.evaluation.robustness import robustness
from moa.prices import PriceTable
from moa.router.artifact import CARDS, read_artifact, write_artifact
from moa.router.router import Router
from moa.toml_file import read_toml
from moa.training.dataset import Dataset, read_dataset
from moa.training.judge import answered_by_all, judge

ROOT = Path(__file__).parents[2]
ROUTER = Router.load("moa/router/embedded")


@pytest.fixture(scope="module")
def demo() -> Dataset:
    return read_dataset(ROOT / "moa/recordings", ROUTER.facts.models, split="demo")


def test_no_demo_query_was_trained_on(demo: Dataset) -> None:
    train = read_dataset(ROOT / "moa/recordings", ROUTER.facts.models, split="train")

    assert len(train.texts) == ROUTER.facts.training.queries
    assert not set(train.groups) & set(demo.groups)
    assert not set(train.texts) & set(demo.texts)


def test_expected_grades_are_calibrated_for_every_model(demo: Dataset) -> None:
    expected = ROUTER.score(demo.texts, demo.models).expected_grade.astype(np.float64)

    for column, model in enumerate(demo.models):
        known = ~np.isnan(demo.grade[:, column])
        found = calibration(
            model, expected[known, column], demo.grade[known, column], replicates=100
        )
        # Exact probabilities would show 0.02 to 0.03 on so few queries.
        assert found.ece.value <= 0.05, model
        assert found.brier.value < found.brier_of_mean, model


def test_expected_tokens_are_right_in_sum_and_nine_in_ten_stay_below_the_most(
    demo: Dataset,
) -> None:
    scores = ROUTER.score(demo.texts, demo.models)

    for column, model in enumerate(demo.models):
        known = ~np.isnan(demo.output_tokens[:, column])
        tokens = demo.output_tokens[known, column]
        total = scores.expected_output_tokens[known, column].sum()
        assert total == pytest.approx(tokens.sum(), rel=0.15), model
        below = (tokens <= scores.most_output_tokens[known, column]).mean()
        assert below == pytest.approx(0.9, abs=0.05), model


@pytest.mark.slow
def test_another_wording_seldom_sends_a_query_elsewhere(demo: Dataset) -> None:
    job = read_toml(RouteBatchConfig, ROOT / "jobs/configs/demo.toml")
    catalog = load_catalog(ROOT / job.catalog)
    prices = PriceTable.build([catalog.models[name] for name in job.pool])
    best = ROUTER.facts.best_constant(job.pool).model
    scores = ROUTER.score(demo.texts, demo.models)
    judged = judge(demo, scores, job.pool, prices, best_constant=best)
    asked = demo.only(answered_by_all(demo, job.pool))

    found = robustness(judged, asked.texts, ROUTER.score, prices, job.policy, replicates=100)

    assert found.overall.rate.value <= 0.08


def test_written_again_it_has_the_same_version(tmp_path: Path) -> None:
    shipped = read_artifact("moa/router/embedded")
    cards = [(Path(shipped.url) / name).read_text() for name in CARDS]
    description = shipped.description.model_dump(exclude={"format", "sha256"})

    version = write_artifact(tmp_path, description, shipped.tensors, cards)

    assert version == shipped.version
