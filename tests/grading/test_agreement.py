from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from moa.grading.agreement import agreement


def test_it_is_cohens_kappa_of_any_number_of_classes() -> None:
    rng = np.random.default_rng(1)
    mine = rng.choice(list("abc"), 200, p=[0.5, 0.3, 0.2])
    other = np.where(rng.random(200) < 0.7, mine, rng.choice(list("abc"), 200))

    found = agreement(list(zip(mine.tolist(), other.tolist(), strict=True)))

    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(mine, other))
    assert found.accuracy.value == pytest.approx((mine == other).mean())
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert found.judged == 200


def test_by_chance_is_no_agreement() -> None:
    rng = np.random.default_rng(2)

    found = agreement(list(zip(rng.random(500) < 0.9, rng.random(500) < 0.9, strict=True)))

    assert found.accuracy.value > 0.75
    assert found.kappa is not None
    assert abs(found.kappa.value) < 0.1


def test_to_agree_each_time_proves_no_more_than_the_rule_of_three() -> None:
    found = agreement([("a", "a")] * 30 + [("b", "b")] * 30)

    assert found.kappa is not None
    assert found.accuracy.value == found.kappa.value == 1
    assert found.accuracy.low == pytest.approx(0.95)
    assert found.kappa.low == pytest.approx(0.90)


def test_one_answer_to_everything_tells_nothing_beyond_chance() -> None:
    found = agreement([(True, True)] * 100)

    assert found.kappa is None
    assert found.accuracy.low == pytest.approx(0.97)


def test_a_judge_that_says_one_thing_of_different_ones_agrees_by_chance() -> None:
    found = agreement([(True, True)] * 80 + [(True, False)] * 20)

    assert found.kappa is not None
    assert found.kappa.value == found.kappa.high == 0


def test_answers_to_one_query_are_drawn_together() -> None:
    said = [("a", "a"), ("b", "b"), ("a", "b"), ("b", "b")] * 25
    of_query = [n // 20 for n in range(100)]

    apart, together = agreement(said), agreement(said, of_query)
    copied = agreement(said * 10, list(range(100)) * 10)

    assert together.kappa is not None
    assert apart.kappa is not None
    assert copied.kappa is not None
    assert together.kappa.value == pytest.approx(apart.kappa.value)
    # Each query has the same answers: which queries are drawn makes no difference.
    assert together.kappa.low == pytest.approx(together.kappa.high)
    assert copied.kappa.low == pytest.approx(apart.kappa.low)
