from __future__ import annotations

import numpy as np
import pytest

from moa.training.ridge import LEAST_ROWS, STRENGTHS, Floats, fit_experts

RANDOM = np.random.default_rng(11)


def folds(rows: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.arange(rows) % 5


def closed_form(features: Floats, target: Floats, strength: float) -> Floats:
    middle = features.mean(axis=0)
    centred = features - middle
    gram = centred.T @ centred + strength * np.eye(features.shape[1])
    slope = np.linalg.solve(gram, centred.T @ (target - target.mean()))
    return np.append(slope, target.mean() - middle @ slope)


def test_each_domain_has_the_line_that_made_its_data() -> None:
    features = RANDOM.normal(size=(600, 6))
    domain = np.arange(600) % 2
    truth = RANDOM.normal(size=(2, 7))
    target = np.einsum("nf,nf->n", features, truth[domain, :6]) + truth[domain, 6]

    found = fit_experts(features, target[:, None], domain, folds(600) // 2)

    lines = found.weights[:, :, 0].T
    assert lines == pytest.approx(truth, abs=0.02)
    assert found.out_of_fold[:, 0] == pytest.approx(target, abs=0.05)
    assert (found.strength == STRENGTHS[0]).all()


@pytest.mark.parametrize("rows", [50, 99, 100, 101, 300])
def test_few_rows_and_many_rows_are_solved_alike(rows: int) -> None:
    features = RANDOM.normal(size=(rows, 100))
    target = features @ RANDOM.normal(size=100) + RANDOM.normal(size=rows)

    found = fit_experts(features, target[:, None], np.zeros(rows, np.intp), folds(rows))

    exact = closed_form(features, target, found.strength[0, 0])
    assert found.weights[:, 0, 0] == pytest.approx(exact, abs=1e-7)


def test_noise_is_held_down_and_what_is_clear_is_not() -> None:
    features = RANDOM.normal(size=(200, 30))
    clear = features @ RANDOM.normal(size=30)
    noise = RANDOM.normal(size=200)

    found = fit_experts(
        features, np.stack([clear, noise], axis=1), np.zeros(200, np.intp), folds(200)
    )

    assert found.strength[0].tolist() == [STRENGTHS[0], STRENGTHS[-1]]


def test_a_missing_target_is_as_if_its_row_were_not_there() -> None:
    features, target = RANDOM.normal(size=(300, 8)), RANDOM.normal(size=300)
    target += features[:, 0]
    known = RANDOM.random(300) < 0.6
    both = np.stack([np.where(known, target, np.nan), target], axis=1)

    found = fit_experts(features, both, np.zeros(300, np.intp), folds(300))
    alone = fit_experts(
        features[known], target[known, None], np.zeros(known.sum(), np.intp), folds(300)[known]
    )

    assert found.weights[:, 0, 0] == pytest.approx(alone.weights[:, 0, 0], abs=1e-9)
    assert found.out_of_fold[known, 0] == pytest.approx(alone.out_of_fold[:, 0], abs=1e-9)
    assert np.isfinite(found.out_of_fold).all()


def test_a_query_is_never_told_by_a_map_that_has_seen_it() -> None:
    features = RANDOM.normal(size=(250, 40))
    target = features @ RANDOM.normal(size=40) + RANDOM.normal(size=250)
    domain, fold = np.arange(250) // 125, folds(250)
    changed = target.copy()
    changed[fold == 3] += 0.2 * RANDOM.normal(size=50)

    before = fit_experts(features, target[:, None], domain, fold)
    after = fit_experts(features, changed[:, None], domain, fold)

    assert np.array_equal(before.strength, after.strength)
    same = before.out_of_fold[:, 0] == after.out_of_fold[:, 0]
    assert same[fold == 3].all()
    assert not same[fold != 3].any()
    assert (before.weights != after.weights).any()


@pytest.mark.parametrize("rows", [LEAST_ROWS - 1, LEAST_ROWS + 5])
def test_of_rows_that_no_fold_could_be_told_by_only_the_mean_is_learnt(rows: int) -> None:
    features, target = RANDOM.normal(size=(rows, 5)), RANDOM.normal(size=rows)

    found = fit_experts(features, target[:, None], np.zeros(rows, np.intp), folds(rows))

    assert not found.weights[:-1].any()
    assert found.weights[-1, 0, 0] == pytest.approx(target.mean())
    others = [target[folds(rows) != fold].mean() for fold in folds(rows)]
    assert found.out_of_fold[:, 0] == pytest.approx(others)
    assert np.isnan(found.strength).all()


def test_a_domain_that_a_target_is_never_known_in_is_told_so() -> None:
    features, target = RANDOM.normal(size=(200, 5)), RANDOM.normal(size=(200, 1))
    domain = np.arange(200) % 2
    target[domain == 1] = np.nan

    found = fit_experts(features, target, domain, folds(200) // 2)

    assert np.isnan(found.weights[:, 1]).all()
    assert np.isnan(found.out_of_fold[domain == 1]).all()
    assert np.isfinite(found.weights[:, 0]).all()


def test_targets_together_are_as_targets_alone() -> None:
    features, targets = RANDOM.normal(size=(200, 5)), RANDOM.normal(size=(200, 3))
    targets[RANDOM.random((200, 3)) < 0.2] = np.nan
    domain = np.arange(200) % 2

    together = fit_experts(features, targets, domain, folds(200) // 2)

    for n in range(3):
        alone = fit_experts(features, targets[:, n : n + 1], domain, folds(200) // 2)
        assert together.weights[:, :, n] == pytest.approx(alone.weights[:, :, 0], abs=1e-9)
