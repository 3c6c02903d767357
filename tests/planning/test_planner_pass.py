from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.planning.capacity import Backlog, Capacity, Objective, with_limits
from moa.planning.prices import Prices, find_prices
from moa.planning.rounding import Begun, Pass
from tests.planning.planner_problems import backlog, every, highs, model, usual

FIVE_CENTS = Objective(0.05)
ROWS = 3_000
QUERIES = backlog(ROWS, seed=7)


def prices_of(queries: Backlog, capacities: list[Capacity]) -> Prices:
    found = find_prices(queries, capacities, FIVE_CENTS)
    assert isinstance(found, Prices)
    return found


PRICES = prices_of(QUERIES, usual(ROWS))


def begin(begun: Begun | None = None, headroom: float = 1.0) -> Pass:
    return Pass(PRICES, usual(ROWS), FIVE_CENTS, rows=ROWS, begun=begun, headroom=headroom)


WHOLE = begin().take(QUERIES).tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, ROWS), max_size=30))
def test_blocks_of_any_size_get_the_same(cuts: list[int]) -> None:
    queries = begin()
    edges = [0, *sorted(cuts), ROWS]

    found = [queries.take(QUERIES.take(slice(*edge))) for edge in pairwise(edges)]

    assert np.concatenate(found).tolist() == WHOLE


@settings(max_examples=15, deadline=None)
@given(st.integers(0, ROWS))
def test_a_pass_that_goes_on_in_the_middle_decides_as_the_first_would_have(stop: int) -> None:
    first = begin()
    before = first.take(QUERIES.take(slice(0, stop)))

    second = begin(first.begun)
    after = second.take(QUERIES.take(slice(stop, ROWS)))

    assert [*before.tolist(), *after.tolist()] == WHOLE
    unbroken = begin()
    unbroken.take(QUERIES)
    assert second.used.tolist() == unbroken.used.tolist()
    assert second.worth == pytest.approx(unbroken.worth)
    assert second.counts.tolist() == unbroken.counts.tolist()


def test_a_pass_that_knows_only_what_was_used_keeps_the_limits() -> None:
    first = begin()
    first.take(QUERIES.take(slice(0, 1_000)))
    wasted = first.used * np.array([1.25, 1, 1, 1, 1])  # the bill was greater than expected

    second = begin(Begun(1_000, wasted), headroom=4.0)
    second.take(QUERIES.take(slice(1_000, ROWS)))

    budget = usual(ROWS)[0].limit
    assert second.over == 0
    assert 0.98 * budget < second.used[0] <= budget
    assert second.used[4] >= usual(ROWS)[4].limit


def test_what_a_pass_tells_is_what_its_choices_add_up_to() -> None:
    queries = begin()

    choice = queries.take(QUERIES)

    rows = np.arange(ROWS)
    cost = QUERIES.cost_usd.reshape(ROWS, -1)[rows, choice].sum(dtype=np.float64)
    grade = QUERIES.grade[rows, choice // 2].sum(dtype=np.float64)
    assert queries.rows == ROWS
    assert queries.cost_usd == pytest.approx(cost)
    assert queries.grade == pytest.approx(grade)
    assert queries.worth == pytest.approx(0.05 * grade - cost)
    assert queries.counts.ravel().tolist() == np.bincount(choice, minlength=8).tolist()
    assert queries.used[0] == pytest.approx(cost)


def test_more_queries_than_were_announced_are_refused() -> None:
    queries = begin()
    queries.take(QUERIES)

    with pytest.raises(ValueError, match="more than the 3000 queries"):
        queries.take(QUERIES.take(slice(0, 1)))


def ordered(queries: Backlog, order: str) -> Backlog:
    if order == "easy ones last":
        return queries.take(np.argsort(queries.grade.mean(axis=1)))
    if order == "dear ones last":
        return queries.take(np.argsort(queries.cost_usd[:, 3, 0]))
    return queries


@pytest.mark.parametrize("order", ["as they come", "easy ones last", "dear ones last"])
@pytest.mark.parametrize("sampled", [5_000, 20_000])
def test_prices_from_a_sample_keep_every_limit_of_a_stream_in_any_order(
    order: str, sampled: int
) -> None:
    rows = 100_000
    queries = backlog(rows, seed=11, barred=0.0)
    sample = queries.take(np.random.default_rng(3).choice(rows, sampled, replace=False))
    limits = usual(rows)
    bound = prices_of(queries, limits).bound
    prices = prices_of(sample, with_limits(limits, sampled / rows))
    queries = ordered(queries, order)

    stream = Pass(prices, limits, FIVE_CENTS, rows=rows)
    for start in range(0, rows, 7_777):
        stream.take(queries.take(slice(start, start + 7_777)))

    assert stream.over == 0
    for used, one in zip(stream.used, limits, strict=True):
        assert used >= one.limit if one.at_least else used <= one.limit * (1 + 1e-9)
    assert stream.worth > bound * (0.999 if order == "as they come" else 0.98)


def test_a_budget_that_is_nearly_the_least_is_kept_to_the_last_query() -> None:
    rows = 5_000
    queries = backlog(rows, seed=5)
    least = float(queries.cost_usd.min(axis=(1, 2)).sum(dtype=np.float64))
    limits = [Capacity("budget", "usd", every(), least * 1.0005)]

    tight = Pass(prices_of(queries, limits), limits, FIVE_CENTS, rows=rows)
    tight.take(queries)

    assert tight.over == 0
    assert least <= tight.used[0] <= limits[0].limit


def test_a_budget_is_kept_where_the_cheapest_options_are_full_before_the_end() -> None:
    rows = 5_000
    queries = backlog(rows, seed=6, barred=0.0)
    full = [
        Capacity("cheapest", "queries", model(0), 0.4 * rows),
        Capacity("next", "queries", model(1), 0.3 * rows),
    ]
    least = highs(queries, full, Objective(0.0)).worth
    assert least is not None
    limits = [Capacity("budget", "usd", every(), -least * 1.01), *full]

    tight = Pass(prices_of(queries, limits), limits, FIVE_CENTS, rows=rows, headroom=4.0)
    tight.take(queries)

    assert tight.over == 0
    assert tight.used[0] <= limits[0].limit


def test_queries_that_exceed_a_limit_whatever_they_get_are_counted() -> None:
    limits = [Capacity("all", "queries", every(), 100)]
    queries = backlog(200)
    roomy = prices_of(queries, [Capacity("all", "queries", every(), 200)])

    crowded = Pass(roomy, limits, FIVE_CENTS, rows=200)
    choice = crowded.take(queries)

    assert crowded.over == 100
    assert (choice >= 0).all()


def test_a_model_that_only_some_queries_must_have_is_kept_for_them() -> None:
    rows = 2_000
    queries = backlog(rows, seed=2, barred=0.0)
    cost = queries.cost_usd.copy()
    cost[-400:, :3] = np.inf  # the last ones can go to the best model only
    queries = Backlog(queries.grade, cost, queries.input_tokens, queries.output_tokens)
    limits = [Capacity("best", "queries", model(3), 500)]

    kept = Pass(prices_of(queries, limits), limits, FIVE_CENTS, rows=rows)
    choice = kept.take(queries)

    assert kept.over == 0
    assert (choice[-400:] // 2 == 3).all()
    assert 498 <= kept.used[0] <= 500
