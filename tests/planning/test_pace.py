"""How fast one model answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import Limits, load_catalog
from moa.planning.pace import DAY_S, FIRST_TOKEN_S, MINUTE_S, TOKENS_PER_S, answer_s, live_s

MODEL = load_catalog("jobs/configs/demo_catalog.toml").models["openai/gpt-4o-mini"]
MANY = 1_000_000
"""Calls at once that no test reaches."""


def takes_s(
    limits: Limits,
    *,
    calls: float = 600,
    input_tokens: float = 60_000,
    output_tokens: float = 30_000,
    in_flight: int = MANY,
) -> float:
    return live_s(
        replace(MODEL, limits=limits),
        calls=calls,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        in_flight=in_flight,
    )


def test_no_calls_take_no_time() -> None:
    assert takes_s(Limits(rpm=1), calls=0, input_tokens=0, output_tokens=0) == 0


def test_one_call_takes_as_long_as_its_answer() -> None:
    alone_s = takes_s(Limits(), calls=1, output_tokens=100)

    assert alone_s == pytest.approx(2 * answer_s(100))  # it is the slowest and the last one
    assert answer_s(100) == FIRST_TOKEN_S + 100 / TOKENS_PER_S


@pytest.mark.parametrize(
    ("limits", "expected_s"),
    [
        (Limits(rpm=60), 600 / 60 * MINUTE_S),
        (Limits(input_tpm=6_000), 60_000 / 6_000 * MINUTE_S),
        (Limits(output_tpm=1_000), 30_000 / 1_000 * MINUTE_S),
        (Limits(tpm=9_000), (60_000 + 30_000) / 9_000 * MINUTE_S),
        (Limits(rpd=300), 600 / 300 * DAY_S),
        (Limits(rpm=60, output_tpm=100), 30_000 / 100 * MINUTE_S),
    ],
)
def test_the_slowest_limit_counts_and_the_last_answer_comes_after_it(
    limits: Limits, expected_s: float
) -> None:
    assert takes_s(limits) == pytest.approx(expected_s + answer_s(50))


@pytest.mark.parametrize(("in_flight", "of_the_model"), [(10, None), (MANY, 10), (10, 400)])
def test_calls_at_once_are_the_fewest_that_anybody_allows(
    in_flight: int, of_the_model: int | None
) -> None:
    slow_s = takes_s(Limits(max_in_flight=of_the_model), in_flight=in_flight)

    assert slow_s == pytest.approx((600 / 10 + 1) * answer_s(50))


@given(
    st.floats(1, 1e6), st.floats(0, 1e9), st.floats(0, 1e9), st.integers(1, 10_000),
    st.floats(1, 1e4), st.floats(1.01, 10),
)  # fmt: skip
def test_more_work_or_less_room_never_takes_less_time(
    calls: float, tokens_in: float, tokens_out: float, in_flight: int, rpm: float, more: float
) -> None:
    def of(calls: float, in_flight: int, rpm: float) -> float:
        per_call = tokens_out / 1e6
        return takes_s(
            Limits(rpm=rpm, tpm=100 * rpm),
            calls=calls,
            input_tokens=tokens_in * calls / 1e6,
            output_tokens=per_call * calls,
            in_flight=in_flight,
        )

    least_s = of(calls, in_flight, rpm) * (1 - 1e-9)

    assert of(calls * more, in_flight, rpm) >= least_s
    assert of(calls, max(1, int(in_flight / more)), rpm) >= least_s
    assert of(calls, in_flight, rpm / more) >= least_s
