from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import load_catalog
from moa.dispatch.estimate import FURTHEST, TokenEstimate
from moa.dispatch.outcome import Choice
from moa.dispatch.quota import Amount
from moa.providers.provider import Usage

MODEL = load_catalog("jobs/configs/demo_catalog.toml").models["openai/gpt-4o-mini"]
CHOICE = Choice(MODEL, 100.0, 50.0)


def test_what_the_router_expects_is_believed_at_first() -> None:
    assert TokenEstimate().amount(CHOICE) == Amount(1.0, 100.0, 50.0)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_factor_is_learnt_within_fifty_answers(factor: float) -> None:
    estimate, random = TokenEstimate(), Random(1)

    for _ in range(50):
        choice = Choice(MODEL, random.uniform(10, 500), random.uniform(10, 500))
        tokens = factor * random.uniform(0.5, 1.5)
        estimate.learn(
            choice, Usage(int(tokens * choice.input_tokens), int(tokens * choice.output_tokens))
        )

    assert estimate.amount(CHOICE) == pytest.approx((1, 100 * factor, 50 * factor), rel=0.2)


def test_input_and_output_are_learnt_apart() -> None:
    estimate = TokenEstimate()

    for _ in range(500):
        estimate.learn(CHOICE, Usage(100, 500))

    assert estimate.amount(CHOICE) == pytest.approx((1, 100, 500), rel=0.01)


def test_a_model_that_changes_is_followed() -> None:
    estimate = TokenEstimate()
    for _ in range(1000):
        estimate.learn(CHOICE, Usage(100, 500))

    for _ in range(300):
        estimate.learn(CHOICE, Usage(100, 50))

    assert estimate.amount(CHOICE).output_tokens == pytest.approx(50, rel=0.6)


def test_one_long_answer_is_no_rule() -> None:
    estimate = TokenEstimate()
    for _ in range(100):
        estimate.learn(CHOICE, Usage(100, 50))

    estimate.learn(CHOICE, Usage(100, 500))

    assert estimate.amount(CHOICE).output_tokens <= 1.2 * 50


@given(
    answers=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**7)), max_size=50
    )
)
def test_an_estimate_is_never_further_off_than_so(answers: list[tuple[float, float, int]]) -> None:
    estimate = TokenEstimate()

    for expected_in, expected_out, used in answers:
        estimate.learn(Choice(MODEL, expected_in, expected_out), Usage(used, used))

    requests, *tokens = estimate.amount(Choice(MODEL, 1.0, 1.0))
    assert requests == 1
    assert all(1 / FURTHEST <= x <= FURTHEST for x in tokens)
    assert estimate.amount(Choice(MODEL, 0.0, 0.0)) == Amount(1.0)


def test_answers_to_which_no_tokens_were_expected_teach_nothing() -> None:
    estimate = TokenEstimate()

    for _ in range(100):
        estimate.learn(Choice(MODEL, 0.0, 0.0), Usage(10, 10))

    assert estimate.amount(CHOICE) == Amount(1.0, 100.0, 50.0)
