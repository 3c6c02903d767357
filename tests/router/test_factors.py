from __future__ import annotations

import numpy as np
import pytest

from moa.router.factors import SHARED, Factors, factor_values, softmax

RANDOM = np.random.default_rng(6)
FEATURES = (RANDOM.normal(size=(150, 40)) / 8).astype(np.float32)
FACTORS = Factors(
    domain=RANDOM.normal(size=(41, 3)).astype(np.float16).astype(np.float64),
    ease=RANDOM.normal(size=(41, 3)).astype(np.float16).astype(np.float64),
    domain_ease=np.array([1.0, -0.5, -0.5]),
)


def test_shares_are_those_of_a_softmax_and_sum_to_one() -> None:
    share = FACTORS(FEATURES).share

    odds = np.exp(FEATURES @ FACTORS.domain[:-1] + FACTORS.domain[-1])
    assert share == pytest.approx(odds / odds.sum(axis=1, keepdims=True), abs=1e-4)
    assert share.sum(axis=1) == pytest.approx(np.ones(150))


def test_odds_beyond_all_numbers_are_still_shares() -> None:
    assert softmax(np.array([[1e4, -1e4, 0.0]])).tolist() == [[1, 0, 0]]


def test_the_values_of_a_query_are_as_told() -> None:
    share = np.array([[0.25, 0.75]])

    (values,) = factor_values(share, np.array([2.0]), np.array([1.0, -1.0]))

    common = [SHARED * (0.25 - 0.75), SHARED * 2.0]
    assert values.tolist() == [*common, 0.25, 0.75, 0.5, 1.5]


def test_a_querys_ease_is_that_of_the_domains_it_may_be_of() -> None:
    found = FACTORS(FEATURES)

    each = FEATURES @ FACTORS.ease[:-1] + FACTORS.ease[-1]
    assert found.values[:, 1] == pytest.approx(SHARED * (found.share * each).sum(axis=1), abs=1e-4)
    assert found.values.shape == (150, 2 * 3 + 2)


def test_a_querys_factors_depend_on_it_alone() -> None:
    together = FACTORS(FEATURES)

    alone = [FACTORS(FEATURES[n : n + 1]) for n in range(150)]
    assert np.array_equal(together.values, np.concatenate([one.values for one in alone]))
    assert np.array_equal(together.share, np.concatenate([one.share for one in alone]))
