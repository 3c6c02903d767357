from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.evaluation.left_out import Stranger, auroc, left_out
from tests.evaluation.made import POLICY, judged

CHEAP, DEAR = 0.001, 0.01
CAREFUL = POLICY.model_copy(update={"max_novelty": 0.9})


def test_abstention_goes_to_the_best_constant_where_the_router_would_be_wrong() -> None:
    # The router believes in the cheap model, which fails here; half of the queries look strange.
    data = judged([[0, 1]] * 4, [CHEAP, DEAR], [[1, 0]] * 4, novelty=[0.95, 0.95, 0.2, 0.3])

    (found,) = left_out({"logic": Stranger(data, np.array([0.1, 0.25]))}, CAREFUL, replicates=50)

    assert found.source == "logic"
    assert found.best_constant == "v/dear"
    assert found.difference.value == -0.5
    assert found.difference_without_abstention.value == -1
    assert found.quality_difference.value == -0.5
    assert found.quality_difference_without_abstention.value == -1
    assert found.abstained == 0.5
    assert found.saving.value == pytest.approx(1 - (2 * CHEAP + 2 * DEAR) / (4 * DEAR))
    assert found.novelty == pytest.approx(0.6)
    assert found.familiar_novelty == pytest.approx(0.175)
    # Of eight pairs, only (0.2, 0.25) is the wrong way round.
    assert found.auroc == pytest.approx(7 / 8)


def test_without_familiar_queries_there_is_nothing_to_compare_novelty_with() -> None:
    (found,) = left_out({"s": Stranger(judged([[1, 1]], [CHEAP, DEAR]), np.empty(0))}, CAREFUL)

    assert found.auroc is None
    assert found.familiar_novelty is None


def test_sources_come_in_alphabetical_order() -> None:
    one = Stranger(judged([[1, 1]], [CHEAP, DEAR]), np.empty(0))

    assert [each.source for each in left_out({"b": one, "a": one}, CAREFUL)] == ["a", "b"]


NOVELTIES = st.lists(st.integers(0, 10), min_size=1, max_size=20)


@given(NOVELTIES, NOVELTIES)
def test_auroc_counts_pairs(strange: list[int], familiar: list[int]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in strange for b in familiar]

    assert auroc(np.array(strange, float), np.array(familiar, float)) == pytest.approx(
        sum(pairs) / len(pairs)
    )
