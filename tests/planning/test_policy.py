from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Lane, Limits, Model
from moa.config import PolicyConfig
from moa.errors import ConfigError
from moa.planning.policy import (
    BEST_BELOW_FLOOR,
    BEST_VALUE,
    CHEAPEST_ABOVE_FLOOR,
    NOBODY,
    NOBODY_CAN,
    NOVEL,
    ONLY_ONE_CAN,
    Candidates,
    Decisions,
    Floats,
    decide,
    reason_nobody,
)


def model(
    name: str,
    *,
    window: int = 1000,
    abilities: tuple[str, ...] = (),
    lanes: tuple[Lane, ...] = ("live",),
) -> Model:
    return Model(
        id=name,
        provider=name.partition("/")[0],
        api_name=name,
        context_window=window,
        max_output_tokens=500,
        abilities=frozenset(abilities),
        limits=Limits(),
        price_provider="openai",
        price_ref=name,
        lanes=lanes,
    )


STRONG, CHEAP, THIRD = model("a/strong"), model("b/cheap"), model("c/third")
POOL = (STRONG, CHEAP, THIRD)


class Query(NamedTuple):
    """One query as the policy sees it; lists in pool order."""

    grade: list[float]
    cost: list[float]
    input_tokens: int = 10
    max_output_tokens: int | None = None
    abilities: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    lanes: tuple[str, ...] | None = None
    min_grade: float | None = None
    novelty: float = 0.0


def candidates(
    queries: list[Query],
    models: tuple[Model, ...] = POOL,
    *,
    lanes: tuple[Lane, ...] = ("live",),
) -> Candidates:
    shape = (len(queries), len(models))
    tokens = np.array([q.input_tokens for q in queries], float).reshape(-1, 1)
    return Candidates.find(
        models,
        lanes=lanes,
        input_tokens=np.broadcast_to(tokens, shape),
        output_tokens=np.full(shape, 10.0),
        max_output_tokens=[q.max_output_tokens for q in queries],
        abilities=[q.abilities for q in queries],
        allowed_models=[q.allowed for q in queries],
        allowed_lanes=[q.lanes for q in queries],
        expected_grade=matrix([q.grade for q in queries], models),
        min_grade=[q.min_grade for q in queries],
    )


def matrix(rows: list[list[float]], models: tuple[Model, ...]) -> Floats:
    return np.array(rows, np.float64).reshape(len(rows), len(models))


def decided(
    queries: list[Query], policy: PolicyConfig, models: tuple[Model, ...] = POOL
) -> Decisions:
    return decide(
        candidates(queries, models),
        matrix([q.grade for q in queries], models),
        matrix([q.cost for q in queries], models),
        np.array([q.novelty for q in queries]),
        policy,
        models[0].id,
    )


def value(usd: float, *, max_novelty: float = 1) -> PolicyConfig:
    return PolicyConfig(willingness_to_pay=Decimal(str(usd)), max_novelty=max_novelty)


def floor(grade: float) -> PolicyConfig:
    return PolicyConfig(quality_floor=grade)


def test_the_greatest_value_wins_and_the_others_follow_in_its_order() -> None:
    query = Query(grade=[0.9, 0.6, 0.5], cost=[0.004, 0.001, 0.002])

    at_two_cents = decided([query], value(0.02))
    at_a_tenth_of_a_cent = decided([query], value(0.001))

    ids = [m.id for m in POOL]
    assert at_two_cents.chosen_ids(ids) == ["a/strong"]
    assert at_two_cents.fallback_ids(ids) == [["b/cheap", "c/third"]]
    assert at_a_tenth_of_a_cent.chosen_ids(ids) == ["b/cheap"]
    assert at_two_cents.rule.tolist() == [BEST_VALUE]


def test_the_cheapest_that_reaches_the_floor_wins() -> None:
    query = Query(grade=[0.9, 0.8, 0.5], cost=[0.004, 0.003, 0.001])

    decisions = decided([query], floor(0.8))

    assert decisions.chosen.tolist() == [1]
    assert decisions.fallbacks.tolist() == [[0, 2]]
    assert decisions.rule.tolist() == [CHEAPEST_ABOVE_FLOOR]


@pytest.mark.parametrize("grade", [0.3, 0.7, 0.9])
def test_a_grade_in_single_precision_reaches_the_floor_that_it_was_rounded_from(
    grade: float,
) -> None:
    query = Query(grade=[0.95, float(np.float32(grade)), 0.1], cost=[0.004, 0.003, 0.001])

    assert decided([query], floor(grade)).chosen.tolist() == [1]


def test_when_none_reaches_the_floor_the_best_is_taken_and_the_rule_says_so() -> None:
    query = Query(grade=[0.7, 0.8, 0.5], cost=[0.004, 0.003, 0.001])

    decisions = decided([query], floor(0.95))

    assert decisions.chosen.tolist() == [1]
    assert decisions.rule.tolist() == [BEST_BELOW_FLOOR]


@pytest.mark.parametrize("policy", [value(0.0), value(1.0), floor(0.2), floor(0.9)])
def test_a_tie_goes_to_the_cheaper_model_then_to_the_smaller_id(policy: PolicyConfig) -> None:
    even = Query(grade=[0.5, 0.5, 0.5], cost=[0.25, 0.25, 0.125])
    all_even = Query(grade=[0.5, 0.5, 0.5], cost=[0.25, 0.25, 0.25])

    decisions = decided([even, all_even], policy, (THIRD, STRONG, CHEAP))

    assert decisions.chosen.tolist() == [2, 1]
    assert decisions.fallbacks.tolist() == [[1, 0], [2, 0]]


def test_equal_value_at_a_lower_cost_is_preferred() -> None:
    query = Query(grade=[0.75, 0.5, 0.0], cost=[0.5, 0.25, 1.0])

    decisions = decided([query], value(1.0))

    assert decisions.chosen.tolist() == [1]


def test_a_novel_query_goes_to_the_default_model_where_that_can_take_it() -> None:
    known = Query(grade=[0.1, 0.9, 0.9], cost=[1, 0, 0.5], novelty=0.9)
    novel = known._replace(novelty=0.91)
    not_allowed = novel._replace(allowed=("b/cheap", "c/third"))

    decisions = decided([known, novel, not_allowed], value(0.01, max_novelty=0.9))

    assert decisions.chosen.tolist() == [1, 0, 1]
    assert decisions.rule.tolist() == [BEST_VALUE, NOVEL, BEST_VALUE]
    assert decisions.fallbacks.tolist()[1] == [1, 2]


def test_nothing_is_too_novel_by_default() -> None:
    query = Query(grade=[0.1, 0.9, 0.9], cost=[1, 0, 0], novelty=1.0)

    decisions = decided([query], value(0.01))

    assert decisions.rule.tolist() == [BEST_VALUE]


def test_a_model_is_left_out_for_its_window_its_abilities_or_by_the_query() -> None:
    small = model("a/small", window=100, abilities=("tools",))
    large = model("b/large", window=1000)
    plain = Query(grade=[1.0, 0.0], cost=[0.0, 1.0])
    queries = [
        plain,
        plain._replace(input_tokens=91),
        plain._replace(input_tokens=60, max_output_tokens=41),
        plain._replace(abilities=("tools",)),
        plain._replace(allowed=("b/large", "z/elsewhere")),
    ]

    mask = candidates(queries, (small, large)).can

    assert mask.tolist() == [
        [True, True],
        [False, True],
        [False, True],
        [True, False],
        [False, True],
    ]


def test_wanted_output_counts_up_to_what_the_model_can_write() -> None:
    query = Query(grade=[1, 1, 1], cost=[0, 0, 0], input_tokens=500, max_output_tokens=100_000)
    longer = query._replace(input_tokens=501)

    mask = candidates([query, longer]).fits

    assert mask.tolist() == [[True] * 3, [False] * 3]


def test_the_only_model_that_can_take_a_query_gets_it_by_a_rule_of_its_own() -> None:
    query = Query(grade=[0.9, 0.0, 0.9], cost=[0, 1, 0], allowed=("b/cheap",), novelty=1.0)

    decisions = decided([query], value(0.01, max_novelty=0.5))

    assert decisions.chosen.tolist() == [1]
    assert decisions.fallbacks.tolist() == [[NOBODY, NOBODY]]
    assert decisions.rule.tolist() == [ONLY_ONE_CAN]


def test_a_query_that_nobody_can_take_goes_to_nobody() -> None:
    query = Query(grade=[0.9, 0.9, 0.9], cost=[0, 0, 0], abilities=("images",))

    decisions = decided([query], value(0.01))

    assert decisions.chosen_ids([m.id for m in POOL]) == [None]
    assert decisions.fallback_ids([m.id for m in POOL]) == [[]]
    assert decisions.rule.tolist() == [NOBODY_CAN]


def test_the_reason_names_what_rules_all_models_out_or_what_rules_out_each() -> None:
    narrow = model("a/narrow", window=10, abilities=("tools",))
    plain = model("b/plain")
    query = Query(grade=[1, 1], cost=[0, 0])
    queries = [
        query._replace(allowed=("z/elsewhere",)),
        query._replace(abilities=("images",)),
        query._replace(input_tokens=5000),
        query._replace(grade=[0.5, 0.7], min_grade=0.8),
        query._replace(input_tokens=50, abilities=("tools",)),
        query._replace(input_tokens=50, grade=[0.5, 0.7], min_grade=0.6, abilities=("tools",)),
    ]

    found = candidates(queries, (narrow, plain))
    reasons = [reason_nobody(found, row) for row in range(len(queries))]

    assert [reason.partition(":")[0] for reason in reasons[:4]] == [
        "allowed_models",
        "abilities",
        "window",
        "min_grade",
    ]
    assert reasons[4].endswith("a/narrow by window, b/plain by abilities")
    assert reasons[5].endswith("a/narrow by window and min_grade, b/plain by abilities")


def test_a_model_can_be_bought_in_the_lanes_that_run_query_and_model_have_in_common() -> None:
    plain = Query(grade=[1, 1, 1], cost=[0, 0, 0])
    queries = [
        plain,
        plain._replace(lanes=("batch",)),
        plain._replace(lanes=("flex", "live")),
        plain._replace(lanes=()),
    ]
    pool = (
        model("a/live"),
        model("b/both", lanes=("live", "batch")),
        model("c/all", lanes=("batch", "flex", "live")),
    )

    found = candidates(queries, pool, lanes=("batch", "live"))

    assert found.lanes == ("batch", "live")
    assert found.buyable.tolist() == [
        [[False, True], [True, True], [True, True]],
        [[False, False], [True, False], [True, False]],
        [[False, True], [False, True], [False, True]],
        [[False, False]] * 3,
    ]
    assert found.can.tolist() == [[True] * 3, [False, True, True], [True] * 3, [False] * 3]


def test_a_run_that_buys_live_only_has_nobody_for_a_query_that_forbids_it() -> None:
    query = Query(grade=[1, 1], cost=[0, 0], lanes=("batch", "flex"))
    pool = (model("a/live"), model("b/both", lanes=("live", "batch")))

    found = candidates([query], pool)

    assert found.buyable.shape == (1, 2, 1)
    assert not found.can.any()
    assert reason_nobody(found, 0) == (
        "allowed_lanes: the query allows no lane in which this run can buy a model of the pool; "
        "the run buys live"
    )


def test_a_model_below_the_least_grade_of_a_query_may_not_answer_it() -> None:
    query = Query(grade=[0.9, 0.8, float(np.float32(0.7))], cost=[9, 1, 0])
    queries = [query, *(query._replace(min_grade=least) for least in (0.7, 0.75, 0.85, 0.95))]

    found = candidates(queries)
    decisions = decided(queries, value(0.01))

    assert found.good.tolist() == [
        [True, True, True],
        [True, True, True],
        [True, True, False],
        [True, False, False],
        [False, False, False],
    ]
    assert decisions.chosen.tolist() == [2, 2, 1, 0, NOBODY]
    assert decisions.rule.tolist() == [BEST_VALUE] * 3 + [ONLY_ONE_CAN, NOBODY_CAN]
    assert decisions.fallbacks[2].tolist() == [0, NOBODY]


def test_a_least_grade_rules_out_a_model_of_which_nothing_is_known() -> None:
    query = Query(grade=[np.nan, 0.5, 0.5], cost=[0, 0, 0])

    good = candidates([query, query._replace(min_grade=0.0)]).good

    assert good.tolist() == [[True, True, True], [False, True, True]]


def test_a_least_grade_that_is_missing_may_be_written_as_no_number() -> None:
    queries = [Query(grade=[0.0, 0.5, 1.0], cost=[0, 0, 0], min_grade=g) for g in (None, 0.5, None)]
    unwritten = [query._replace(min_grade=query.min_grade or np.nan) for query in queries]

    good = candidates(unwritten).good

    assert good.tolist() == candidates(queries).good.tolist()
    assert good.tolist() == [[True, True, True], [False, True, True], [True, True, True]]


def test_an_empty_batch_gives_no_decisions() -> None:
    decisions = decided([], value(0.01))

    assert decisions.chosen.shape == (0,)
    assert decisions.fallbacks.shape == (0, 2)


def test_a_default_model_outside_the_pool_is_refused() -> None:
    query = Query(grade=[1, 1, 1], cost=[0, 0, 0])
    found = candidates([query])

    with pytest.raises(ConfigError, match=r"z/elsewhere.*not in the pool"):
        decide(found, np.ones((1, 3)), np.ones((1, 3)), np.zeros(1), value(1), "z/elsewhere")


def test_a_missing_expectation_of_a_model_that_can_is_a_bug_and_of_one_that_cannot_is_not() -> None:
    query = Query(grade=[np.nan, 1, 1], cost=[0, 0, 0])

    with pytest.raises(ValueError, match="no expected grade or cost"):
        decided([query], value(1))
    decisions = decided([query._replace(allowed=("b/cheap", "c/third"))], value(1))

    assert decisions.chosen.tolist() == [1]


# Sixteenths: sums and products are exact, so that ties are ties.
sixteenths = st.integers(0, 16).map(lambda k: k / 16)
queries_of_three = st.builds(
    Query,
    grade=st.lists(sixteenths, min_size=3, max_size=3),
    cost=st.lists(sixteenths, min_size=3, max_size=3),
    input_tokens=st.sampled_from([10, 995]),
    max_output_tokens=st.sampled_from([None, 5, 100]),
    abilities=st.sampled_from([(), ("tools",), ("tools", "images")]),
    allowed=st.sampled_from([None, (), ("a/strong",), ("b/cheap", "c/third")]),
    lanes=st.sampled_from([None, (), ("batch",), ("flex", "live")]),
    min_grade=st.none() | sixteenths,
    novelty=sixteenths,
)
policies = st.one_of(
    st.builds(value, st.integers(0, 32).map(lambda k: k / 16), max_novelty=sixteenths),
    st.builds(lambda f, n: PolicyConfig(quality_floor=f, max_novelty=n), sixteenths, sixteenths),
)
ABLE_POOL = (
    replace(STRONG, abilities=frozenset({"tools", "images"})),
    replace(CHEAP, abilities=frozenset({"tools"}), context_window=2000),
    THIRD,
)


def one_by_one(query: Query, policy: PolicyConfig, pool: tuple[Model, ...]) -> list[int]:
    """The policy for one query in the plainest words: model numbers, best first."""

    def can(m: Model) -> bool:
        room = 10 if query.max_output_tokens is None else query.max_output_tokens
        fits = query.input_tokens + min(room, m.max_output_tokens) <= m.context_window
        allowed = query.allowed is None or m.id in query.allowed
        lane = query.lanes is None or "live" in query.lanes
        good = query.min_grade is None or query.grade[pool.index(m)] >= query.min_grade
        return fits and allowed and lane and good and set(query.abilities) <= m.abilities

    def badness(i: int) -> tuple[float, ...]:
        grade, cost = query.grade[i], query.cost[i]
        if policy.willingness_to_pay is not None:
            return (cost - float(policy.willingness_to_pay) * grade, cost)
        assert policy.quality_floor is not None
        return (0, cost, -grade) if grade >= policy.quality_floor else (1, -grade, cost)

    able = [i for i, m in enumerate(pool) if can(m)]
    best_first = sorted(able, key=lambda i: (*badness(i), pool[i].id))
    if query.novelty > policy.max_novelty and 0 in able:
        best_first.remove(0)
        best_first.insert(0, 0)
    return best_first


@given(st.lists(queries_of_three, max_size=8), policies)
def test_a_batch_is_decided_like_its_queries_one_by_one(
    queries: list[Query], policy: PolicyConfig
) -> None:
    decisions = decided(queries, policy, ABLE_POOL)

    for row, query in enumerate(queries):
        expected = one_by_one(query, policy, ABLE_POOL)
        got = [decisions.chosen[row], *decisions.fallbacks[row]]
        assert [i for i in got if i != NOBODY] == expected
        assert (decisions.rule[row] == NOBODY_CAN) == (not expected)


@given(st.lists(queries_of_three, max_size=8), policies)
def test_whoever_is_chosen_or_falls_back_can_take_the_query(
    queries: list[Query], policy: PolicyConfig
) -> None:
    can = candidates(queries, ABLE_POOL).can

    decisions = decided(queries, policy, ABLE_POOL)

    for row, (chosen, rest) in enumerate(zip(decisions.chosen, decisions.fallbacks, strict=True)):
        named = [i for i in (chosen, *rest) if i != NOBODY]
        assert sorted(named) == np.flatnonzero(can[row]).tolist()


@given(st.lists(queries_of_three, min_size=1, max_size=8), policies, st.randoms())
def test_shuffled_queries_get_the_same_decisions(
    queries: list[Query], policy: PolicyConfig, random: Random
) -> None:
    order = list(range(len(queries)))
    random.shuffle(order)

    straight = decided(queries, policy, ABLE_POOL)
    shuffled = decided([queries[i] for i in order], policy, ABLE_POOL)

    assert shuffled.chosen.tolist() == straight.chosen[order].tolist()
    assert shuffled.fallbacks.tolist() == straight.fallbacks[order].tolist()
    assert shuffled.rule.tolist() == straight.rule[order].tolist()


@given(st.lists(queries_of_three, max_size=8), sixteenths, sixteenths)
def test_paying_more_never_lowers_the_expected_grade(
    queries: list[Query], one: float, other: float
) -> None:
    less, more = sorted([one, other])

    frugal = decided(queries, value(less), ABLE_POOL).chosen
    generous = decided(queries, value(more), ABLE_POOL).chosen

    for query, before, after in zip(queries, frugal, generous, strict=True):
        assert (before == NOBODY) == (after == NOBODY)
        if before != NOBODY:
            assert query.grade[after] >= query.grade[before]


@settings(max_examples=25)
@given(st.permutations(range(3)), queries_of_three, policies)
def test_the_order_of_the_pool_changes_nothing(
    order: list[int], query: Query, policy: PolicyConfig
) -> None:
    pool = tuple(ABLE_POOL[i] for i in order)
    moved = query._replace(
        grade=[query.grade[i] for i in order], cost=[query.cost[i] for i in order], novelty=0.0
    )

    here = decided([query._replace(novelty=0.0)], policy, ABLE_POOL)
    there = decided([moved], policy, pool)

    assert there.chosen_ids([m.id for m in pool]) == here.chosen_ids([m.id for m in ABLE_POOL])


def test_ten_thousand_queries_are_decided_in_a_moment() -> None:
    random = np.random.default_rng(0)
    pool = tuple(model(f"p/{i}", abilities=("tools",)) for i in range(6))
    shape = (10_000, 6)
    grade, cost = random.random(shape), random.random(shape) / 100

    started = time.perf_counter()
    found = Candidates.find(
        pool,
        input_tokens=random.uniform(1, 1000, shape),
        output_tokens=random.uniform(1, 100, shape),
        max_output_tokens=[None, 50] * 5000,
        abilities=[("tools",), ()] * 5000,
        allowed_models=[None, ("p/1", "p/2")] * 5000,
        allowed_lanes=[None, ("live",)] * 5000,
        expected_grade=grade,
        min_grade=[None, 0.1] * 5000,
    )
    decide(found, grade, cost, random.random(10_000), value(0.02), "p/0")
    took_s = time.perf_counter() - started

    # 16 ms on an idle core; the room is for a shared one.
    assert took_s < 0.3
