from __future__ import annotations

import choix
import numpy as np
import pytest

from moa.grading.bradley_terry import connected, fit
from moa.grading.judgements import Pair
from tests.grading.simulated import STRENGTHS, judged, model


def test_known_strengths_are_recovered() -> None:
    found = fit(judged(20_000, seed=1))

    assert found.models == tuple(model(n) for n in range(len(STRENGTHS)))
    assert found.value == pytest.approx(STRENGTHS, abs=0.1)
    assert found.value.mean() == pytest.approx(0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = [
        (found.low <= STRENGTHS) & (found.high >= STRENGTHS)
        for found in (fit(judged(300, seed=seed)) for seed in range(60))
    ]

    assert 0.9 <= np.mean(held) <= 0.99


def test_copies_of_judgements_do_not_narrow_intervals() -> None:
    once, often = fit(judged(300, seed=2)), fit(judged(300, seed=2, times=9))

    assert often.deviation == pytest.approx(once.deviation, rel=0.15)


def test_one_rater_among_many_queries_is_no_better_than_several() -> None:
    pairs = judged(300, seed=2)
    by_one = [
        one._replace(rater="r1", share=1.0) if number % 3 else one._replace(rater=f"o{number}")
        for number, one in enumerate(pairs)
    ]
    apart = [one._replace(rater=f"r{number}") for number, one in enumerate(by_one)]

    assert fit(by_one).deviation.max() > fit(apart).deviation.max()


def test_without_a_prior_it_is_what_ilsr_finds() -> None:
    pairs = judged(400, seed=3)
    numbers = [(int(one.model_a[-1]), int(one.model_b[-1]), one.share) for one in pairs]
    won = [(a, b) if share else (b, a) for a, b, share in numbers]

    found = fit(pairs, prior=0)

    assert found.value == pytest.approx(choix.ilsr_pairwise(5, won), abs=1e-6)


def test_a_tie_is_half_a_win_for_each() -> None:
    tied = [Pair("q1", "x", "y", 0.5), Pair("q2", "x", "y", 0.5)]
    split = [Pair("q1", "x", "y", 1.0), Pair("q2", "x", "y", 0.0)]

    assert fit(tied).value == pytest.approx(fit(split).value)
    assert fit(tied).value == pytest.approx([0, 0], abs=1e-9)


def test_a_weight_counts_as_so_many_judgements() -> None:
    heavy = [Pair("q1", "x", "y", 1.0, weight=3.0), Pair("q2", "x", "y", 0.0)]
    several = [*[Pair("q1", "x", "y", 1.0)] * 3, Pair("q2", "x", "y", 0.0)]

    assert fit(heavy).value == pytest.approx(fit(several).value)


def test_who_has_won_each_time_is_strong_but_not_infinitely() -> None:
    few = fit([Pair(f"q{n}", "x", "y", 1.0) for n in range(3)])
    many = fit([Pair(f"q{n}", "x", "y", 1.0) for n in range(300)])

    assert few.value[0] - few.value[1] == pytest.approx(np.log(3.5 / 0.5))
    assert many.value[0] - many.value[1] == pytest.approx(np.log(300.5 / 0.5))
    assert few.low[0] < 0, "three wins prove nothing"


def test_models_are_connected_by_way_of_others() -> None:
    pairs = [("a", "b"), ("b", "c"), ("x", "y"), ("c", "d")]

    found = connected(Pair("q", one, other, 1.0) for one, other in pairs)

    assert found == [frozenset("abcd"), frozenset("xy")]
