from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import pytest

from moa.catalog import AgreedPrice, Limits, Model, Rates
from moa.evaluation.perturbations import KINDS
from moa.evaluation.robustness import robustness
from moa.prices import PriceTable
from moa.router.router import Scores
from tests.evaluation.made import POLICY, POOL, judged

TEXTS = [f"How many apples are {n} apples and another apple? Find the total." for n in range(20)]
CHEAP, DEAR = 0.001, 0.01


def prices() -> PriceTable:
    """0.001 and 0.01 USD for a call of one input and no output token."""
    return PriceTable.build(
        [
            Model(
                id=name, provider="v", api_name=name, context_window=10**6,
                max_output_tokens=10**5, abilities=frozenset(), limits=Limits(),
                price_provider="", price_ref="",
                prices=(AgreedPrice("live", (Rates(usd, usd, usd, usd),), "a contract"),),
            )
            for name, usd in zip(POOL, map(_per_million, (CHEAP, DEAR)), strict=True)
        ]
    )  # fmt: skip


def _per_million(usd: float) -> Decimal:
    return Decimal(str(usd)) * 10**6


def router(wants_dear: Callable[[str], bool]) -> Callable[[Sequence[str], Sequence[str]], Scores]:
    """Expects the dear model to be right where a text says so, the cheap one elsewhere."""

    def score(texts: Sequence[str], pool: Sequence[str]) -> Scores:
        assert tuple(pool) == POOL
        dear = np.array([[wants_dear(text)] for text in texts], np.float32)
        ones = np.ones((len(texts), 2), np.float32)
        novelty = np.zeros(len(texts), np.float32)
        return Scores(np.concatenate([1 - dear, dear], axis=1), ones, 0 * ones, 0 * ones, novelty)

    return score


def test_a_router_that_reads_what_is_asked_never_flips() -> None:
    data = judged([[1, 1]] * 20, [CHEAP, DEAR], [[1, 0]] * 20)

    found = robustness(data, TEXTS, router(lambda _: False), prices(), POLICY, replicates=50)

    assert found.overall.rate.value == found.overall.rate.high == 0
    assert [one.kind for one in found.kinds] == list(KINDS)
    assert found.overall.changed == sum(one.changed for one in found.kinds)


def test_a_plea_that_is_heard_is_a_flip_and_its_price_is_told() -> None:
    # The dear model is right, the cheap one is not.
    data = judged([[0, 1]] * 20, [CHEAP, DEAR], [[1, 0]] * 20)
    flattered = router(lambda text: "model" in text and "apples" in text)

    found = robustness(data, TEXTS, flattered, prices(), POLICY, replicates=50)

    by_kind = {one.kind: one for one in found.kinds}
    plea = by_kind["“use the best model”"]
    assert plea.changed == 20
    assert plea.rate.value == 1
    assert plea.usd_per_flip.value == pytest.approx((DEAR - CHEAP) * 1000)
    assert plea.grade_per_flip.value == 1
    assert plea.dearer == 1
    assert by_kind["lower case"].rate.value == 0
    flips = sum(one.rate.value * one.changed for one in found.kinds)
    assert found.overall.rate.value == pytest.approx(flips / found.overall.changed)


def test_a_text_with_nothing_to_change_is_left_out() -> None:
    texts = ["2 + 2", *TEXTS[1:]]
    data = judged([[1, 1]] * 20, [CHEAP, DEAR], [[1, 0]] * 20)

    found = robustness(data, texts, router(lambda _: False), prices(), POLICY, replicates=50)

    by_kind = {one.kind: one for one in found.kinds}
    assert by_kind["typos"].changed == 19
    assert by_kind["politeness"].changed == 20
