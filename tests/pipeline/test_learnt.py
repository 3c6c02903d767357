"""What a run learns of its models while it goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.settings import LineProgress
from moa.dispatch.used import Used
from moa.pipeline.learnt import CALLS_TO_TRUST, PRIOR_CALLS, UNKNOWN, caution, learnt, output_ratio
from moa.planning.capacities import Learnt

used = st.builds(
    lambda calls, tokens_in, tokens_out, off_in, off_out: Used(
        calls, tokens_in, tokens_in * off_in, tokens_out, tokens_out * off_out
    ),
    st.integers(0, 10_000), st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0.1, 10),
    st.floats(0.1, 10),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from("abcd"), used, min_size=1))
def test_what_was_learnt_of_a_model_lies_between_what_it_did_and_what_all_did(
    used: dict[str, Used],
) -> None:
    found = learnt(used, {"e": LineProgress()}, {}, 1.0)

    pool = Used()
    for one in used.values():
        pool = pool.plus(one)
    all_out = output_ratio(used)
    assert set(found) == {*used, "e"}
    assert found["e"].output_tokens == all_out
    assert_between(all_out, 1.0, pool.output_tokens / pool.expected_output_tokens)
    for name, one in used.items():
        off_in = one.input_tokens / one.expected_input_tokens
        off_out = one.output_tokens / one.expected_output_tokens
        assert_between(found[name].input_tokens, found["e"].input_tokens, off_in)
        assert_between(found[name].output_tokens, all_out, off_out)
        assert found[name].rate_per_s is None


def assert_between(value: float, *bounds: float) -> None:
    assert min(bounds) * (1 - 1e-9) <= value <= max(bounds) * (1 + 1e-9)


def test_few_calls_of_a_model_say_less_than_many_of_the_pool() -> None:
    many = Used(1e6, 1e8, 2e8, 1e8, 3e8)
    few = Used(PRIOR_CALLS, 100, 100, 100, 100)

    found = learnt({"many": many, "few": few}, {}, {}, 1.0)

    assert found["many"].output_tokens == pytest.approx(3, abs=1e-3)
    assert found["many"].input_tokens == pytest.approx(2, abs=1e-3)
    assert found["few"].output_tokens == pytest.approx((1 + 3) / 2, abs=1e-3)
    assert learnt({}, {}, {}, 1.0) == {}


@pytest.mark.parametrize(
    ("then", "now", "rate"),
    [
        (LineProgress(10, 5), LineProgress(40, 3), 3.0),
        (LineProgress(10, 5), LineProgress(10, 3), 0.0),
        (LineProgress(10, 0), LineProgress(40, 3), None),  # it may have had nothing to do
        (LineProgress(10, 5), LineProgress(40, 0), None),
        (LineProgress(50, 5), LineProgress(40, 3), None),  # a replica has begun anew
    ],
)
def test_a_rate_is_seen_where_calls_waited_all_the_while(
    then: LineProgress, now: LineProgress, rate: float | None
) -> None:
    found = learnt({}, {"a": now}, {"a": then}, 10.0)

    assert found["a"] == Learnt(rate_per_s=rate)


def test_as_long_as_little_is_known_answers_are_reckoned_to_be_three_times_as_dear() -> None:
    few = {"a": Used(CALLS_TO_TRUST - 1, 10.0, 10.0, 10.0, 10.0)}
    right = {"a": Used(1e6, 1e8, 1e8, 1e8, 1e8)}
    twice = {"a": Used(1e6, 1e8, 1e8, 1e8, 2e8), "b": Used(1e6, 1e8, 1e8, 1e8, 2e8)}

    assert caution({}) == caution(few) == UNKNOWN
    assert caution(right) == pytest.approx(1.1, rel=1e-3)
    assert caution(twice) == pytest.approx(2.2, rel=1e-3)
