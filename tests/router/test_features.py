from __future__ import annotations

import numpy as np
import pytest

from moa.router.features import MOST_DEVIATIONS, WEIGHT, fit_features

RANDOM = np.random.default_rng(2)
EMBEDDINGS = (RANDOM.normal(size=(500, 30)) * 3 + 1).astype(np.float32)
SURFACE = (RANDOM.random((500, 5)) * 100).astype(np.float32)
EVEN = np.ones(500)


def test_features_have_the_mean_and_the_deviation_that_were_asked_for() -> None:
    features = fit_features(EMBEDDINGS, SURFACE, EVEN)(EMBEDDINGS, SURFACE)

    deviations = np.repeat([WEIGHT / np.sqrt(30), WEIGHT / np.sqrt(5)], [30, 5])
    assert features.mean(axis=0) == pytest.approx(np.zeros(35), abs=1e-3)
    assert features.std(axis=0) == pytest.approx(deviations, rel=0.01)


def test_an_embedding_and_a_surface_weigh_alike_however_wide_they_are() -> None:
    features = fit_features(EMBEDDINGS, SURFACE, EVEN)(EMBEDDINGS, SURFACE)

    length = (features**2).sum(axis=1)
    assert length.mean() == pytest.approx(2 * WEIGHT**2, rel=0.01)
    assert (features[:, :30] ** 2).sum(axis=1).mean() == pytest.approx(WEIGHT**2, rel=0.01)


def test_a_query_of_no_weight_changes_nothing() -> None:
    strange = np.concatenate([EMBEDDINGS, np.full((1, 30), 1e6, np.float32)])
    weight = np.append(EVEN, 0)

    with_it = fit_features(strange, np.concatenate([SURFACE, SURFACE[:1]]), weight)
    without = fit_features(EMBEDDINGS, SURFACE, EVEN)

    assert np.array_equal(with_it.mean, without.mean)
    assert np.array_equal(with_it.scale, without.scale)


def test_a_column_that_never_varied_says_nothing() -> None:
    constant = SURFACE.copy()
    constant[:, 2] = 7
    features = fit_features(EMBEDDINGS, constant, EVEN)

    changed = constant.copy()
    changed[:, 2] = 1e9
    assert not features(EMBEDDINGS, changed)[:, 32].any()


def test_what_is_far_out_is_cut_off() -> None:
    features = fit_features(EMBEDDINGS, SURFACE, EVEN)

    far = features(EMBEDDINGS * 1e6, SURFACE * -1e6)

    assert (np.abs(far) <= MOST_DEVIATIONS * features.weight * 1.0001).all()
    assert np.isfinite(far).all()


def test_a_querys_features_depend_on_it_alone_and_leave_what_was_given() -> None:
    features = fit_features(EMBEDDINGS, SURFACE, EVEN)
    embeddings, surface = EMBEDDINGS.copy(), SURFACE.copy()

    together = features(embeddings, surface)

    alone = [features(embeddings[n : n + 1], surface[n : n + 1])[0] for n in range(500)]
    assert np.array_equal(together, alone)
    assert np.array_equal(embeddings, EMBEDDINGS)
    assert np.array_equal(surface, SURFACE)
