from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moa.evaluation.calibration import calibration
from moa.router.predictor import Prediction, Predictor
from moa.training.fit import FULL_DOMAIN, Fitted, balance, fit
from moa.training.train import held_out
from tests.training.made import ABSENT, MODELS, SOURCES, Made, made

TAUGHT, NEW = made(1, queries=1500), made(2, queries=1500)
FOLDS = 4


def told(fitted: Fitted, of: Made = NEW) -> Prediction:
    return Predictor(fitted.tensors)(*of.reading, range(3))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TAUGHT.data, TAUGHT.reading, folds=FOLDS)


@pytest.fixture(scope="module")
def prediction(fitted: Fitted) -> Prediction:
    return told(fitted)


def test_what_is_expected_of_new_queries_is_near_the_truth(
    fitted: Fitted, prediction: Prediction
) -> None:
    assert fitted.domains == list(SOURCES)
    for model in range(3):
        asked = NEW.domain != ABSENT if model == 2 else np.ones(1500, bool)
        expected, truth = prediction.grade[asked, model], NEW.likely[asked, model]
        assert np.corrcoef(expected, truth)[0, 1] > 0.85
        assert np.abs(expected - truth).mean() < 0.12


def test_expected_grades_of_new_queries_are_calibrated(prediction: Prediction) -> None:
    random = np.random.default_rng(0)
    grade = (random.random(NEW.likely.shape) < NEW.likely).astype(float)

    for model in range(2):
        found = calibration(MODELS[model], prediction.grade[:, model], grade[:, model])
        assert found.ece.value < 0.05


def test_expected_tokens_are_right_in_sum_and_nine_in_ten_stay_below_the_most(
    prediction: Prediction,
) -> None:
    for domain in range(3):
        for model in range(3):
            tokens = NEW.data.output_tokens[:, model]
            rows = (NEW.domain == domain) & ~np.isnan(tokens)
            if not rows.any():
                continue
            total = prediction.output_tokens[rows, model].sum()
            assert total == pytest.approx(tokens[rows].sum(), rel=0.1)
            below = (tokens[rows] <= prediction.most_output_tokens[rows, model]).mean()
            assert below == pytest.approx(0.9, abs=0.06)


def test_a_model_that_was_never_asked_in_a_domain_has_sensible_figures_there(
    prediction: Prediction,
) -> None:
    absent = NEW.domain == ABSENT

    grade, truth = prediction.grade[absent, 2], NEW.likely[absent, 2]
    tokens = prediction.output_tokens[absent]
    assert ((grade >= 0) & (grade <= 1)).all()
    # It is weaker than the others everywhere, and talk is easy: both can be told from elsewhere,
    # if not by how much.
    assert grade.mean() < prediction.grade[absent, :2].mean()
    assert grade.mean() > prediction.grade[NEW.domain == 0, 2].mean() + 0.1
    assert grade.mean() == pytest.approx(truth.mean(), abs=0.25)
    assert np.corrcoef(grade, truth)[0, 1] > 0.7
    # The models are equally long-winded, so it should talk about as much as they do.
    assert tokens[:, 2].mean() == pytest.approx(tokens[:, :2].mean(), rel=0.35)
    assert (prediction.most_output_tokens[absent, 2] >= tokens[:, 2] * 0.99).all()


def test_all_that_is_told_is_finite(fitted: Fitted, prediction: Prediction) -> None:
    for name, tensor in fitted.tensors.items():
        assert np.isfinite(tensor).all(), name
    for name, values in prediction._asdict().items():
        assert np.isfinite(values).all(), name


def test_equal_data_gives_equal_bytes(fitted: Fitted) -> None:
    again = fit(TAUGHT.data, TAUGHT.reading, folds=FOLDS)

    assert again.domains == fitted.domains
    assert again.calibration == fitted.calibration
    assert again.tensors.keys() == fitted.tensors.keys()
    for name, tensor in fitted.tensors.items():
        assert tensor.tobytes() == again.tensors[name].tobytes(), name


def test_a_missing_grade_is_not_a_bad_one(prediction: Prediction) -> None:
    random = np.random.default_rng(3)
    gone = random.random(1500) < 0.6
    fewer = TAUGHT.data.grade.copy()
    fewer[gone, 1] = np.nan

    found = told(fit(replace(TAUGHT.data, grade=fewer), TAUGHT.reading, folds=FOLDS))

    assert found.grade[:, 1].mean() == pytest.approx(prediction.grade[:, 1].mean(), abs=0.04)


def test_grades_of_other_models_help_and_are_not_needed(prediction: Prediction) -> None:
    alone = replace(TAUGHT.data, other_grade=np.empty((1500, 0)))

    found = told(fit(alone, TAUGHT.reading, folds=FOLDS))

    truth = NEW.likely[:, 1]
    with_help = ((prediction.grade[:, 1] - truth) ** 2).mean()
    without = ((found.grade[:, 1] - truth) ** 2).mean()
    assert with_help < without < ((truth - truth.mean()) ** 2).mean()


def test_nothing_is_learnt_of_a_query_from_its_own_fold() -> None:
    data = TAUGHT.data
    fold = data.folds(FOLDS)
    mine = (fold == 1)[:, None]
    turned = replace(
        data,
        grade=np.where(mine, 1 - data.grade, data.grade),
        other_grade=np.where(mine, 1 - data.other_grade, data.other_grade),
        output_tokens=np.where(mine, 5 * data.output_tokens, data.output_tokens),
    )

    before = held_out(data, TAUGHT.reading, FOLDS)
    after = held_out(turned, TAUGHT.reading, FOLDS)

    for name, values in before._asdict().items():
        assert np.array_equal(values[fold == 1], getattr(after, name)[fold == 1]), name
    assert not np.array_equal(before.grade[fold != 1], after.grade[fold != 1])


def test_a_backbone_that_sees_nothing_expects_the_mean() -> None:
    blind = TAUGHT.reading._replace(
        embeddings=np.zeros_like(TAUGHT.reading.embeddings),
        surface=np.zeros_like(TAUGHT.reading.surface),
    )
    one_source = replace(TAUGHT.data, sources=("log",) * 1500)

    found = Predictor(fit(one_source, blind, folds=FOLDS).tensors)(*blind, range(3))

    means = np.nanmean(TAUGHT.data.grade, axis=0)
    assert found.grade.std(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
    assert found.grade[0] == pytest.approx(means, abs=0.03)


def test_a_large_domain_weighs_no_more_than_a_full_one() -> None:
    domain = np.repeat([0, 1, 2], [10, FULL_DOMAIN, 4 * FULL_DOMAIN])

    weight = balance(domain)

    sums = np.bincount(domain, weight)
    assert sums == pytest.approx([10, FULL_DOMAIN, FULL_DOMAIN])
