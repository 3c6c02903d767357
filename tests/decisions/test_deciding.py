"""What is expected of every model, and decisions as a table."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.config import PolicyConfig
from moa.decisions.deciding import (
    DEFECTIVE,
    letters,
    live_lanes,
    matrix,
    per_model,
    wishes,
)
from moa.planning.policy import NOBODY, NOBODY_CAN, Decisions
from moa.schema import ROUTING_DECISIONS
from tests.decisions.scored import (
    EXPECTED,
    FLASH,
    HAIKU,
    LARGE,
    POOL,
    deciding,
    random_scores,
    scored,
)


def test_rows_with_a_defect_are_left_out_of_what_is_expected() -> None:
    values = [[0.1, 0.2, 0.3], [], [0.4, 0.5, 0.6]]
    bad = [None, "prompt_missing: it is null", None]
    table = scored(3, defect=bad, **dict.fromkeys(EXPECTED, values))

    expected = deciding().expect(table)

    assert expected.good.tolist() == [0, 2]
    assert expected.queries["query_id"].to_pylist() == ["q0", "q2"]
    for found in (expected.grade, expected.input_tokens, expected.output_tokens):
        assert found == pytest.approx(np.array([values[0], values[2]]))
    assert expected.cost_usd.shape == expected.candidates.can.shape == (2, 3)


def test_output_is_expected_as_far_as_a_query_allows_it() -> None:
    table = scored(3, max_output_tokens=[1, 215, None])

    expected = deciding().expect(table)

    assert expected.output_tokens.tolist() == [[1, 1, 1], [200, 210, 215], [200, 210, 220]]
    assert (np.diff(expected.cost_usd, axis=0) >= 0).all()


def test_costs_are_those_of_the_live_lane_whatever_may_be_bought() -> None:
    table = scored(1, allowed_lanes=[["batch"]])

    live, both = deciding().expect(table), deciding().expect(table, ("batch", "live"))

    assert np.array_equal(live.cost_usd, both.cost_usd)
    assert not live.candidates.can.any()
    assert both.candidates.can.tolist() == [[True, True, False]]  # the last is sold live only


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([None, 0.7]))
def test_every_row_has_one_decision_and_each_without_a_model_one_letter(
    seed: int, floor: float | None
) -> None:
    pays = Decimal("0.05") if floor is None else None
    policy = PolicyConfig(willingness_to_pay=pays, quality_floor=floor, max_novelty=0.8)
    queries = random_scores(60, seed)
    by = deciding(policy)

    expected = by.expect(queries)
    decisions = by.by_policy(expected)
    table = by.table(queries, expected, decisions, live_lanes(decisions), router_s=6.0)
    buried = letters(queries, expected, decisions)

    assert table.schema.equals(ROUTING_DECISIONS)
    rows = table.to_pylist()
    assert [row["query_id"] for row in rows] == queries["query_id"].to_pylist()
    nobody = {row["query_id"] for row in rows if row["model"] is None}
    assert sorted(letter.query_id for letter in buried) == sorted(nobody)
    assert sum(row["router_s"] for row in rows) == pytest.approx(6.0)
    for row, defect in zip(rows, queries["defect"].to_pylist(), strict=True):
        assert (row["rule"] == DEFECTIVE) == (defect is not None)
        named = [*([row["model"]] if row["model"] else []), *row["fallbacks"]]
        assert len(set(named)) == len(named)
        if row["model"] is None:
            assert (row["provider"], row["lane"], row["fallbacks"]) == (None, None, [])
            assert row["expected_output_tokens"] == 0
        else:
            assert (row["provider"], row["lane"]) == (row["model"].split("/")[0], "live")


def test_a_decision_says_what_is_expected_of_its_model() -> None:
    queries = scored(
        3, allowed_models=[[HAIKU], [FLASH], None], expected_grade=[[0.9, 0.1, 0.1]] * 3
    )
    by = deciding()
    expected = by.expect(queries)

    decisions = by.by_policy(expected)
    table = by.table(queries, expected, decisions, live_lanes(decisions), router_s=0.0)

    assert table["model"].to_pylist() == [HAIKU, FLASH, LARGE]
    assert table["expected_input_tokens"].to_pylist() == [110, 120, 100]
    assert table["expected_output_tokens"].to_pylist() == [210, 220, 200]
    assert table["router_version"].to_pylist() == ["router-1"] * 3
    assert table["price_version"].to_pylist() == [by.prices.version] * 3
    assert np.array_equal(matrix(table["expected_cost_usd"], 3), expected.cost_usd)


def test_a_letter_has_the_reason_and_what_a_redrive_needs() -> None:
    queries = scored(
        3,
        defect=["request_malformed: top_k: is not known", None, None],
        request=["", '{"a":1}', '{"a":2}'],
        allowed_models=[None, ["other/model"], None],
        abilities=[[], [], ["telepathy"]],
        tags=[["x"], ["y"], []],
        **{name: [[], [0.5] * 3, [0.5] * 3] for name in EXPECTED},
    )
    by = deciding()
    found = by.expect(queries)

    buried = {one.query_id: one for one in letters(queries, found, by.by_policy(found))}

    assert (buried["q0"].reason, buried["q0"].detail) == (
        "request_malformed",
        "top_k: is not known",
    )
    assert buried["q1"].reason == buried["q2"].reason == NOBODY_CAN
    assert buried["q1"].detail.startswith("allowed_models")
    assert buried["q2"].detail.startswith("abilities")
    assert (buried["q1"].request, buried["q1"].tags) == ('{"a":1}', ["y"])
    assert buried["q1"].allowed_models == ["other/model"]


def test_only_those_that_somebody_takes_are_bought() -> None:
    decisions = Decisions(np.array([2, NOBODY, 0]), np.empty((3, 0), np.intp), np.array(["r"] * 3))

    assert live_lanes(decisions) == ["live", None, "live"]


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 4))
def test_values_of_good_rows_come_back_as_they_were(good: list[bool], models: int) -> None:
    rows = np.flatnonzero(good)
    values = np.arange(len(rows) * models, dtype=np.float64).reshape(-1, models)

    lists = per_model(values, rows, len(good))

    assert [len(one) for one in lists.to_pylist()] == [models * is_good for is_good in good]
    assert np.array_equal(matrix(pa.chunked_array([lists]), models), values)


def test_wishes_are_what_each_query_says() -> None:
    kind = pa.list_(pa.string())

    assert wishes(pa.chunked_array([pa.array([None, None], kind)])) == [None, None]
    assert wishes(pa.chunked_array([pa.array([None, ["a"], []], kind)])) == [None, ["a"], []]


def test_a_pool_is_named_in_its_order() -> None:
    by = deciding()

    assert by.pool == list(POOL)
    assert replace(by, models=by.models[::-1]).pool == list(POOL)[::-1]
