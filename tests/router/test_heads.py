from __future__ import annotations

import numpy as np
import pytest

from moa.router.factors import QueryFactors, factor_values, softmax
from moa.router.heads import Heads

RANDOM = np.random.default_rng(9)
DOMAINS, MODELS, WIDTH = 3, 5, 30
FEATURES = (RANDOM.normal(size=(150, WIDTH)) / 8).astype(np.float32)
SHARE = softmax(RANDOM.normal(size=(150, DOMAINS)))
EASE = RANDOM.normal(size=150)
FACTORS = QueryFactors(SHARE, EASE, factor_values(SHARE, EASE, np.array([0.5, 0.0, -0.5])))
LEVEL = np.zeros((WIDTH + 1, 1, 1))
LEVEL[-1] = 8
HEADS = Heads(
    grade=RANDOM.normal(size=(2 * DOMAINS + 3, MODELS)),
    log_tokens=RANDOM.normal(size=(WIDTH + 1, DOMAINS, MODELS)).astype(np.float16) + LEVEL,
    token_factor=RANDOM.uniform(0.8, 1.5, (DOMAINS, MODELS)),
    token_spread=RANDOM.uniform(1, 3, (DOMAINS, MODELS)),
    token_limit=np.full(MODELS, 1e9),
)


def test_log_odds_are_linear_in_the_factors() -> None:
    found = HEADS(FEATURES, FACTORS).log_odds

    assert found == pytest.approx(FACTORS.values @ HEADS.grade[:-1] + HEADS.grade[-1])


def test_tokens_are_the_mean_over_the_domains_a_query_may_be_of() -> None:
    found = HEADS(FEATURES, FACTORS)

    for model in range(MODELS):
        mean = most = np.zeros(150)
        for domain in range(DOMAINS):
            line = HEADS.log_tokens[:, domain, model]
            each = np.expm1(FEATURES @ line[:-1] + line[-1]) * HEADS.token_factor[domain, model]
            mean = mean + SHARE[:, domain] * each
            most = most + SHARE[:, domain] * each * HEADS.token_spread[domain, model]
        assert found.tokens[:, model] == pytest.approx(mean, rel=1e-3)
        assert found.most_tokens[:, model] == pytest.approx(most, rel=1e-3)


def test_no_estimate_is_below_one_token_or_beyond_the_longest_answer() -> None:
    short = Heads(
        HEADS.grade, HEADS.log_tokens - 250 * LEVEL, HEADS.token_factor, HEADS.token_spread,
        HEADS.token_limit,
    )(FEATURES, FACTORS)  # fmt: skip
    long = Heads(
        HEADS.grade, HEADS.log_tokens + 250 * LEVEL, HEADS.token_factor, HEADS.token_spread,
        np.array([10.0, 20, 30, 40, 50]),
    )(FEATURES, FACTORS)  # fmt: skip

    assert (short.tokens == 1).all()
    assert (short.most_tokens == 1).all()
    assert (long.tokens == [10, 20, 30, 40, 50]).all()
    assert (long.most_tokens == [10, 20, 30, 40, 50]).all()


def test_fewer_models_get_what_they_got_among_all() -> None:
    whole = HEADS(FEATURES, FACTORS)

    some = HEADS.of([4, 1])(FEATURES, FACTORS)

    for name, values in some._asdict().items():
        assert np.array_equal(values, getattr(whole, name)[:, [4, 1]]), name


def test_a_querys_expectations_depend_on_it_alone() -> None:
    together = HEADS(FEATURES, FACTORS)

    for n in range(150):
        one = slice(n, n + 1)
        alone = HEADS(FEATURES[one], QueryFactors(*(whole[one] for whole in FACTORS)))
        for name, values in alone._asdict().items():
            assert np.array_equal(values, getattr(together, name)[one]), name
