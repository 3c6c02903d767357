from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.best_constant import all_comparable, best_constant

NAN = float("nan")
SEEDS = st.integers(0, 2**32 - 1)


def test_a_model_that_was_asked_easy_ones_only_does_not_win_by_its_mean() -> None:
    easy_only = [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, NAN], [1.0, NAN], [0.0, NAN]]

    best = best_constant(np.array(easy_only), ["v/asked", "v/flattered"])

    # 4 of 6 against 2 of 3 by their means; 3 of 3 against 2 of 3 on what both were asked.
    assert best.model == "v/asked"
    assert "v/flattered on 3" in best.why


def test_a_model_that_is_better_where_both_were_asked_wins() -> None:
    best = best_constant(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, NAN]]), ["v/asked", "v/better"])

    assert best.model == "v/better"
    assert "0.500 above that of v/asked on 2 training queries" in best.why


@given(SEEDS, st.integers(1, 5))
def test_where_all_are_known_the_best_is_the_one_of_the_highest_mean(
    seed: int, models: int
) -> None:
    grade = np.random.default_rng(seed).random((30, models))
    pool = [f"v/{n}" for n in range(models)]

    best = best_constant(grade, pool)

    assert best.model == pool[int(grade.mean(axis=0).argmax())]


@given(SEEDS)
def test_the_best_does_not_depend_on_the_order_of_the_pool(seed: int) -> None:
    random = np.random.default_rng(seed)
    grade = random.integers(0, 2, (20, 4)).astype(float)
    grade[random.random((20, 4)) < 0.3] = NAN
    pool = np.array(["v/a", "v/b", "v/c", "v/d"])
    order = random.permutation(4)

    one = best_constant(grade, pool.tolist())
    other = best_constant(grade[:, order], pool[order].tolist())

    assert one.model == other.model


@pytest.mark.parametrize("pool", [["v/b", "v/a"], ["v/a", "v/b"]])
def test_ties_go_to_the_smaller_id(pool: list[str]) -> None:
    assert best_constant(np.ones((3, 2)), pool).model == "v/a"


def test_a_model_that_was_asked_nothing_in_common_cannot_win() -> None:
    grade = np.array([[0.0, NAN], [0.0, NAN], [NAN, 1.0]])

    assert best_constant(grade, ["v/asked", "v/apart"]).model == "v/asked"


def test_of_one_model_it_is_said_that_it_is_the_only_one() -> None:
    best = best_constant(np.array([[1.0], [NAN], [0.0]]), ["v/a"])

    assert best == ("v/a", "the only model; graded on 2 training queries")


def test_one_lucky_query_makes_no_best_constant() -> None:
    grade = np.full((200, 2), NAN)
    grade[:, 0] = np.arange(200) % 4 > 0
    grade[0, 1] = 1.0

    assert best_constant(grade, ["v/often", "v/once"]).model == "v/often"


def test_where_nothing_is_in_common_estimates_tell_and_not_who_was_asked_most() -> None:
    grade = np.array([[1.0, NAN], [1.0, NAN], [1.0, NAN], [NAN, 0.0]])
    estimated = {"v/liked": 0.5, "v/good": 0.775, "v/elsewhere": 1.0}

    best = best_constant(grade, ["v/liked", "v/good"], estimated)

    assert best.model == "v/good"
    assert "estimated at 0.775" in best.why
    assert "v/liked 0.500" in best.why


def test_where_enough_is_in_common_estimates_count_for_nothing() -> None:
    grade = np.array([[1.0, 0.0], [1.0, NAN], [1.0, NAN]])

    assert best_constant(grade, ["v/a", "v/b"], {"v/a": 0.0, "v/b": 1.0}).model == "v/a"
    assert all_comparable(grade)
    assert not all_comparable(np.array([[1.0, NAN], [NAN, 1.0]]))
