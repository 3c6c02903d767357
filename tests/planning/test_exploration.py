"""Which queries are explored, by whom, and with what probability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from moa.planning.exploration import Exploration, explored
from moa.planning.policy import EXPLORED, NOBODY, Bools, Decisions

MODELS = 4
seeds = st.integers(0, 2**31)
shares = st.sampled_from([0.01, 0.02, 0.3, 1.0])


def ids(count: int) -> list[str]:
    return [f"night/query {n}" for n in range(count)]


def random_options(count: int, seed: int) -> Bools:
    """As `Exploration.options` gives them."""
    can = np.random.default_rng(seed).random((count, MODELS)) < 0.6
    return Exploration(0.5, 0).options(can, np.ones(can.shape))


def random_decisions(count: int, seed: int) -> Decisions:
    """Every model can take every query."""
    random = np.random.default_rng(seed)
    ranked = np.argsort(random.random((count, MODELS)), axis=1)
    return Decisions(ranked[:, 0], ranked[:, 1:], np.full(count, "best_value"))


@settings(max_examples=20)
@given(seeds, shares)
def test_the_share_is_that_of_the_config_and_each_model_as_likely(seed: int, share: float) -> None:
    count = 4000
    everybody = np.ones((count, MODELS), np.bool_)

    drawn = Exploration(share, seed).draw(ids(count), everybody)

    found = int((drawn != NOBODY).sum())
    assert binomtest(found, count, share).pvalue > 1e-6
    each = np.bincount(drawn[drawn != NOBODY], minlength=MODELS)
    assert chisquare(each).pvalue > 1e-6 if found else True


@settings(max_examples=50)
@given(seeds, shares)
def test_only_options_are_drawn_and_nothing_where_there_is_but_one(seed: int, share: float) -> None:
    options = random_options(300, seed)

    drawn = Exploration(share, seed).draw(ids(300), options)

    rows = np.flatnonzero(drawn != NOBODY)
    assert options[rows, drawn[rows]].all()
    assert (options.sum(axis=1)[rows] > 1).all()
    if share == 1:
        assert len(rows) == options.any(axis=1).sum()


@settings(max_examples=50)
@given(seeds, shares)
def test_what_is_drawn_does_not_depend_on_other_queries(seed: int, share: float) -> None:
    exploration, names, options = Exploration(share, seed), ids(200), random_options(200, seed)
    order = np.random.default_rng(seed).permutation(200)

    whole = exploration.draw(names, options)
    again = exploration.draw([names[n] for n in order], options[order])
    parts = [exploration.draw(names[n : n + 7], options[n : n + 7]) for n in range(0, 200, 7)]

    assert np.array_equal(whole[order], again)
    assert np.array_equal(whole, np.concatenate(parts))


def test_another_seed_draws_others() -> None:
    everybody = np.ones((2000, MODELS), np.bool_)

    one, other = (Exploration(0.5, seed).draw(ids(2000), everybody) for seed in (1, 2))

    both = (one != NOBODY) & (other != NOBODY)
    assert 400 < both.sum() < 600
    assert (one[both] != other[both]).mean() == pytest.approx(0.75, abs=0.1)


@settings(max_examples=50)
@given(seeds, shares)
def test_the_probabilities_of_all_models_sum_to_one(seed: int, share: float) -> None:
    options = random_options(100, seed)
    preferred = np.random.default_rng(seed).integers(0, MODELS, 100)
    exploration = Exploration(share, seed)

    each = [
        exploration.propensity(options, preferred, np.full(100, model)) for model in range(MODELS)
    ]

    some = options.any(axis=1)
    assert np.sum(each, axis=0)[some] == pytest.approx(1)
    alone = exploration.propensity(options, preferred, preferred)
    assert (alone[~some] == 1).all()


def test_a_probability_is_how_often_a_model_is_chosen() -> None:
    share, count = 0.4, 3000
    options = np.tile([[True, True, False, True]], (count, 1))
    preferred = np.full(count, 1)
    exploration = Exploration(share, 7)

    drawn = exploration.draw(ids(count), options)
    chosen = np.where(drawn == NOBODY, preferred, drawn)

    for model, expected in ((0, 0.4 / 3), (1, 0.6 + 0.4 / 3), (2, 0.0), (3, 0.4 / 3)):
        told = exploration.propensity(options, preferred, np.full(count, model))
        assert told == pytest.approx(expected)
        assert binomtest(int((chosen == model).sum()), count, expected).pvalue > 1e-6


def test_too_dear_a_model_is_not_drawn_but_may_be_preferred() -> None:
    exploration = Exploration(0.5, 3, max_usd_per_query=0.01)
    cost = np.tile([[0.02, 0.01, 0.001, 0.005]], (500, 1))

    options = exploration.options(np.ones((500, MODELS), np.bool_), cost)
    drawn = exploration.draw(ids(500), options)

    assert options[0].tolist() == [False, True, True, True]
    assert set(drawn.tolist()) == {NOBODY, 1, 2, 3}
    dear = exploration.propensity(options, np.zeros(500, np.intp), np.zeros(500, np.intp))
    assert dear == pytest.approx(0.5)


def test_of_one_affordable_model_nothing_is_drawn() -> None:
    exploration = Exploration(1.0, 3, max_usd_per_query=0.01)

    options = exploration.options(np.ones((1, 2), np.bool_), np.array([[0.02, 0.01]]))

    assert exploration.draw(["q"], options).tolist() == [NOBODY]
    assert exploration.propensity(options, np.array([0]), np.array([0])).tolist() == [1.0]


def test_a_query_that_nobody_can_take_stays_so() -> None:
    exploration, nobody = Exploration(1.0, 3), np.array([NOBODY])
    options = exploration.options(np.zeros((1, 2), np.bool_), np.ones((1, 2)))

    assert exploration.draw(["q"], options).tolist() == [NOBODY]
    assert exploration.propensity(options, nobody, nobody).tolist() == [1.0]


@settings(max_examples=50)
@given(seeds)
def test_who_would_have_been_asked_is_the_first_fallback(seed: int) -> None:
    decisions = random_decisions(80, seed)
    random = np.random.default_rng(seed)
    drawn = np.where(random.random(80) < 0.5, random.integers(0, MODELS, 80), NOBODY)
    preferred = random.integers(0, MODELS, 80)  # by a plan: any of them

    found = explored(decisions, drawn, preferred)

    is_drawn = drawn != NOBODY
    assert np.array_equal(found.chosen, np.where(is_drawn, drawn, preferred))
    assert (found.rule[is_drawn] == EXPLORED).all()
    assert (found.rule[~is_drawn] == "best_value").all()
    elsewhere = is_drawn & (drawn != preferred)
    assert np.array_equal(found.fallbacks[elsewhere, 0], preferred[elsewhere])
    every = np.column_stack([found.chosen, found.fallbacks])
    assert (np.sort(every, axis=1) == np.arange(MODELS)).all()


def test_without_a_draw_decisions_stay_as_they_were() -> None:
    decisions = random_decisions(30, 5)

    found = explored(decisions, np.full(30, NOBODY), decisions.chosen)

    assert np.array_equal(found.chosen, decisions.chosen)
    assert np.array_equal(found.fallbacks, decisions.fallbacks)
    assert np.array_equal(found.rule, decisions.rule)
