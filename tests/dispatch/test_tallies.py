from __future__ import annotations

from decimal import Decimal

from moa.dispatch.outcome import ANSWERED, DEAD_LETTER, DeadLetter, Outcome
from moa.dispatch.tallies import Tallies
from moa.errors import RateLimited, TransientError

GPT = "openai/gpt-4o"


def outcome(status: str, model: str | None = None, lane: str | None = None) -> Outcome:
    return Outcome(
        query_id="q", partition=0, row=0, status=status, tags=[], model=model, lane=lane,
        cost_usd=Decimal("0.25"),
    )  # fmt: skip


LETTER = DeadLetter(
    query_id="q", partition=0, row=0, reason="vendor_failed", detail="", attempts=(), request="{}",
    allowed_models=None, tags=[],
)  # fmt: skip


def test_what_was_forgotten_has_happened_all_the_same() -> None:
    tallies = Tallies()
    answered = outcome(ANSWERED, model=GPT, lane="live")
    dead = outcome(DEAD_LETTER)

    tallies.count(answered, None)
    tallies.count(dead, LETTER)
    tallies.forget([(answered, None), (dead, LETTER)])

    assert (tallies.done, tallies.dead, tallies.spent_usd) == (0, 0, Decimal(0))
    assert tallies.happened().cost_usd == {(GPT, "live"): Decimal("0.25")}
    assert tallies.happened().letters == {"vendor_failed": 1}


def test_what_an_earlier_process_has_seen_is_in_hand_and_has_not_happened_again() -> None:
    tallies = Tallies()

    tallies.count(outcome(DEAD_LETTER), LETTER, earlier=True)

    assert (tallies.done, tallies.dead) == (1, 1)
    assert tallies.happened().letters == {}


def test_calls_are_counted_by_how_they_ended() -> None:
    tallies = Tallies()

    tallies.answered(GPT)
    tallies.answered(GPT)
    tallies.failed(GPT, RateLimited("later"))
    tallies.failed(GPT, TransientError("hung"))

    assert tallies.happened().calls == {
        (GPT, "answered"): 2, (GPT, "429"): 1, (GPT, "no_answer"): 1,
    }  # fmt: skip


def test_what_was_told_does_not_change_afterwards() -> None:
    tallies = Tallies()
    before = tallies.happened()

    tallies.answered(GPT)
    tallies.pass_on(GPT, "rate_limited")

    assert before.calls == before.passed_on == {}
    assert tallies.happened().passed_on == {(GPT, "rate_limited"): 1}
