from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from moa.catalog import AgreedPrice, Limits, Model, Rates
from moa.evaluation.left_out import Stranger, auroc
from moa.prices import PriceTable
from moa.training.backbone import HashingConfig, open_for_training
from moa.training.dataset import Dataset
from moa.training.left_out import strangers

EACH = 150
MODELS = ("v/dear", "v/cheap", "v/apart")
POOLS = {"two": MODELS[:2], "all": MODELS}
KINDS: dict[str, Callable[[int], str]] = {
    "code": lambda n: f"def f{n}(items):\n    return [item * {n} for item in items if item > {n}]",
    "maths": lambda n: f"Tom has {n} apples and buys {2 * n} more. How many apples has he?",
    "talk": lambda n: f"Write a warm letter, number {n}, to a friend who moved to another town.",
}
USD = Decimal(1)
PRICES = PriceTable.build(
    [
        Model(
            id=name, provider="v", api_name=name, context_window=10**6, max_output_tokens=10**5,
            abilities=frozenset(), limits=Limits(), price_provider="", price_ref="",
            prices=(AgreedPrice("live", (Rates(USD, USD, USD, USD),), "a contract"),),
        )
        for name in MODELS
    ]
)  # fmt: skip


def dataset(seed: int = 1) -> Dataset:
    """Three sources; `v/dear` is better, but in talk; `v/apart` has never been asked for code."""
    random = np.random.default_rng(seed)
    sources = [name for name in KINDS for _ in range(EACH)]
    of = np.repeat(np.arange(3), EACH)
    likely = np.array([[0.9, 0.4, 0.5], [0.8, 0.5, 0.5], [0.1, 0.9, 0.5]])[of]
    grade = (random.random(likely.shape) < likely).astype(float)
    grade[of == 0, 2] = np.nan
    known = np.where(np.isnan(grade), np.nan, 1)
    return Dataset(
        query_ids=tuple(f"q{n:03d}" for n in range(3 * EACH)),
        texts=tuple(KINDS[source](n) for n, source in enumerate(sources)),
        models=MODELS,
        grade=grade,
        input_tokens=known * 20,
        output_tokens=known * np.array([200, 50, 100])[of][:, None],
        sources=tuple(sources),
        groups=tuple(f"g{n}" for n in range(3 * EACH)),
        other_grade=np.empty((3 * EACH, 0)),
    )


def find(train: Dataset, every: Dataset | None = None) -> dict[str, dict[str, Stranger]]:
    backbone = open_for_training(HashingConfig(buckets=128), artifact=Path("unused"))
    return strangers(train, every or train, backbone, POOLS, PRICES, folds=3)


DATA = dataset()


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Stranger]]:
    return find(DATA)


def turned(source: str) -> Dataset:
    """With every grade of a source the other way round, and its answers ten times as long."""
    mine = np.array([one == source for one in DATA.sources])[:, None]
    return replace(
        DATA,
        grade=np.where(mine, 1 - DATA.grade, DATA.grade),
        output_tokens=np.where(mine, 10 * DATA.output_tokens, DATA.output_tokens),
    )


def test_each_pool_has_the_sources_that_all_its_models_have_answered(
    found: dict[str, dict[str, Stranger]],
) -> None:
    assert set(found["two"]) == {"code", "maths", "talk"}
    assert set(found["all"]) == {"maths", "talk"}
    for pool, by_source in found.items():
        for source, stranger in by_source.items():
            assert stranger.judged.pool == POOLS[pool]
            assert set(stranger.judged.sources) == {source}
            assert stranger.judged.queries == EACH


@pytest.mark.parametrize("source", list(KINDS))
def test_a_stranger_is_scored_by_a_router_that_never_saw_its_source(
    found: dict[str, dict[str, Stranger]], source: str
) -> None:
    after = find(turned(source))

    before, now = found["two"][source], after["two"][source]
    assert np.array_equal(before.judged.expected_grade, now.judged.expected_grade)
    assert np.array_equal(before.judged.expected_cost_usd, now.judged.expected_cost_usd)
    assert np.array_equal(before.judged.novelty, now.judged.novelty)
    assert np.array_equal(before.familiar, now.familiar)
    assert before.judged.best_constant == now.judged.best_constant
    assert np.array_equal(before.judged.grade, 1 - now.judged.grade)
    others = [name for name in KINDS if name != source]
    for other in others:
        was, is_now = found["two"][other].judged, after["two"][other].judged
        assert not np.array_equal(was.expected_grade, is_now.expected_grade)


def test_the_best_constant_is_that_of_the_other_sources(
    found: dict[str, dict[str, Stranger]],
) -> None:
    judged = found["two"]["talk"].judged

    assert judged.pool[judged.best_constant] == "v/dear"
    assert judged.grade.mean(axis=0).argmax() == 1


def test_a_source_that_was_left_out_is_novel_beside_familiar_queries(
    found: dict[str, dict[str, Stranger]],
) -> None:
    for source in KINDS:
        stranger = found["two"][source]
        assert len(stranger.familiar) > 0
        assert auroc(stranger.judged.novelty, stranger.familiar) > 0.95


def test_queries_of_other_splits_are_looked_at_too(found: dict[str, dict[str, Stranger]]) -> None:
    train = DATA.only(np.array([n % 2 == 0 for n in range(3 * EACH)]))

    half = find(train, DATA)

    assert half["two"]["talk"].judged.queries == EACH
    judged = half["two"]["talk"].judged
    assert not np.array_equal(judged.expected_grade, found["two"]["talk"].judged.expected_grade)


def test_a_log_of_one_source_has_no_stranger() -> None:
    talk = DATA.only(np.array([source == "talk" for source in DATA.sources]))

    assert find(talk) == {"two": {}, "all": {}}


def test_a_model_that_only_the_source_has_asked_is_measured_nowhere() -> None:
    elsewhere = np.array([source != "maths" for source in DATA.sources])
    unasked = np.zeros(DATA.grade.shape, bool)
    unasked[elsewhere, MODELS.index("v/apart")] = True
    data = replace(
        DATA,
        grade=np.where(unasked, np.nan, DATA.grade),
        output_tokens=np.where(unasked, np.nan, DATA.output_tokens),
    )

    found = find(data)

    assert not found["all"]
    assert set(found["two"]) == set(KINDS)
