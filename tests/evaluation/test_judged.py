from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from moa.config import PolicyConfig
from moa.evaluation.frontier import oracle, sweep
from moa.evaluation.judged import QUALITY_ALONE, Judged, at, willingnesses
from tests.evaluation.made import POLICY, by_chance, judged


def test_what_a_model_did_not_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="grade has holes"):
        judged([[1, np.nan]], [0.001, 0.01])


def test_shapes_that_do_not_fit_are_refused() -> None:
    good = judged([[1, 0]], [0.001, 0.01])

    with pytest.raises(ValueError, match=r"cost_usd has shape \(1, 1\), not \(1, 2\)"):
        Judged(
            good.pool, good.sources, good.domains, good.grade, good.cost_usd[:, :1],
            good.expected_grade, good.expected_cost_usd, good.novelty, 0,
        )  # fmt: skip


def test_some_queries_and_some_models_keep_what_belongs_together() -> None:
    data = by_chance(1, queries=6, models=3)

    some = data.only(np.array([True, False, True, False, True, False]))
    pair = some.of_models([2, 0])

    assert some.sources == ("s", "s", "s")
    assert (some.grade == data.grade[::2]).all()
    assert pair.pool == ("v/m2", "v/m0")
    assert pair.pool[pair.best_constant] == "v/m2"
    assert (pair.cost_usd == some.cost_usd[:, [2, 0]]).all()


def test_all_of_the_policy_but_the_price_of_quality_is_kept() -> None:
    template = PolicyConfig.model_validate({"quality_floor": 0.5, "max_novelty": 0.7})

    changed = at(template, Decimal("0.25"))

    assert changed.willingness_to_pay == Decimal("0.25")
    assert changed.quality_floor is None
    assert changed.max_novelty == 0.7


def test_the_configured_policy_abstains_and_the_frontier_does_not() -> None:
    data = judged([[1, 0], [1, 0]], [0.001, 0.01], novelty=[0.2, 0.9])
    careful = POLICY.model_copy(update={"max_novelty": 0.5})

    swept = sweep(data, careful, points=10)

    assert (swept.routed == 0).all()
    assert swept.configured.tolist() == [0, 1]
    assert swept.abstained.tolist() == [False, True]


def test_the_sweep_goes_from_the_cheapest_to_quality_alone() -> None:
    prices = willingnesses(20)

    assert prices[0] == 0
    assert prices[-1] == QUALITY_ALONE
    assert prices == sorted(prices)
    data = by_chance(2)
    swept = sweep(data, POLICY, points=20)
    assert (swept.routed[0] == data.expected_cost_usd.argmin(axis=1)).all()
    assert (
        data.of_chosen(data.expected_grade, swept.routed[-1]) == data.expected_grade.max(axis=1)
    ).all()


def test_the_oracle_takes_the_cheapest_of_the_best() -> None:
    data = judged([[1, 1], [0, 1], [0, 0]], [0.001, 0.01])

    chosen = oracle(data, [Decimal(0), QUALITY_ALONE])

    assert chosen.tolist() == [[0, 0, 0], [0, 1, 0]]
