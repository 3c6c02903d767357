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

    assert found.kappa.value == pytest.approx(cohen_kappa_score(mine, other))
    assert found.accuracy.value == pytest.approx((mine == other).mean())
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert found.judged == 200


def test_by_chance_is_no_agreement() -> None:
    rng = np.random.default_rng(2)

    found = agreement(list(zip(rng.random(500) < 0.9, rng.random(500) < 0.9, strict=True)))

    assert found.accuracy.value > 0.75
    assert abs(found.kappa.value) < 0.1


def test_to_agree_each_time_proves_no_more_than_the_rule_of_three() -> None:
    found = agreement([("a", "a")] * 30 + [("b", "b")] * 30)

    assert found.accuracy.value == found.kappa.value == 1
    assert found.accuracy.low == pytest.approx(0.95)
    assert found.kappa.low == pytest.approx(0.90)


def test_one_answer_to_everything_is_no_evidence() -> None:
    found = agreement([(True, True)] * 100)

    assert found.kappa.value == found.kappa.low == 0
