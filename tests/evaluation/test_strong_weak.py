from __future__ import annotations

import math

import numpy as np
import pytest

from moa.evaluation.judged import Judged
from moa.evaluation.strong_weak import StrongWeak, strong_weak
from tests.evaluation.made import POLICY, by_chance, judged

CHEAP, DEAR = 0.001, 0.01


def between(data: Judged) -> StrongWeak | None:
    return strong_weak(data, POLICY, weak=0, points=150, seed=0, replicates=100)


def test_the_right_order_recovers_the_gap_by_the_queries_that_need_it() -> None:
    # One of four queries needs the strong model, and the router knows which.
    found = between(judged([[0, 1], [1, 1], [1, 1], [1, 1]], [CHEAP, DEAR]))

    assert found is not None
    assert (found.strong, found.weak) == ("v/dear", "v/cheap")
    # From (0, 0) to (1/4, 1), and level to (1, 1).
    assert found.apgr.value == pytest.approx(0.25 / 2 + 0.75)
    assert found.cpt_50.value == pytest.approx(0.125)
    assert found.cpt_80.value == pytest.approx(0.2)


def test_the_wrong_order_recovers_nothing_until_the_end() -> None:
    expected = [[0.5, 0.4], [0.5, 0.9], [0.5, 0.9], [0.5, 0.9]]
    found = between(judged([[0, 1], [1, 1], [1, 1], [1, 1]], [CHEAP, DEAR], expected))

    assert found is not None
    # Level to (3/4, 0), then up to (1, 1).
    assert found.apgr.value == pytest.approx(0.125)
    assert found.cpt_50.value == pytest.approx(0.875)


def test_a_router_without_insight_is_at_one_half() -> None:
    random = np.random.default_rng(2)
    data = by_chance(8, queries=4000, models=2)
    noise = np.stack([np.zeros(4000), random.uniform(0, 1, 4000)], axis=1)
    blind = judged(data.grade.tolist(), data.cost_usd.mean(axis=0).tolist(), noise.tolist())

    found = between(blind)

    assert found is not None
    assert found.apgr.value == pytest.approx(0.5, abs=0.06)
    assert found.apgr.low < 0.5 < found.apgr.high


def test_a_strong_model_that_is_not_better_has_no_gap() -> None:
    found = between(judged([[1, 0], [1, 1]], [CHEAP, DEAR]))

    assert found is not None
    assert math.isnan(found.apgr.value)
    assert math.isnan(found.cpt_50.value)


def test_one_model_is_no_pair() -> None:
    assert between(judged([[1, 0]], [CHEAP, DEAR], best_constant=0)) is None
