from __future__ import annotations

from moa.dispatch.breaker import FIRST_PAUSE_S, OPENS_AFTER, Breaker
from tests.conftest import FakeClock


def opened(clock: FakeClock) -> Breaker:
    breaker = Breaker(clock)
    for n in range(OPENS_AFTER):
        breaker.failed(f"q{n}")
    return breaker


def test_failures_of_different_queries_in_a_row_open_it(clock: FakeClock) -> None:
    breaker = opened(clock)

    admitted = breaker.admit()

    assert not admitted
    assert breaker.wait_s() == FIRST_PAUSE_S


def test_one_query_that_always_fails_opens_nothing(clock: FakeClock) -> None:
    breaker = Breaker(clock)

    for _ in range(10 * OPENS_AFTER):
        breaker.failed("cursed")

    assert breaker.admit()


def test_an_answer_in_between_keeps_it_closed(clock: FakeClock) -> None:
    breaker = Breaker(clock)

    for n in range(10 * OPENS_AFTER):
        breaker.failed(f"q{n}")
        if n % 3 == 0:
            breaker.answered()

    assert breaker.admit()


def test_after_the_pause_one_probe_goes_through(clock: FakeClock) -> None:
    breaker = opened(clock)

    clock.advance(FIRST_PAUSE_S)

    assert breaker.wait_s() == 0
    assert breaker.admit()
    assert not breaker.admit()


def test_a_failed_probe_doubles_the_pause_and_an_answered_one_closes_it(clock: FakeClock) -> None:
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S)
    breaker.admit()

    breaker.failed("probe")
    wait_after_failure_s = breaker.wait_s()
    clock.advance(wait_after_failure_s)
    breaker.admit()
    breaker.answered()

    assert wait_after_failure_s == 2 * FIRST_PAUSE_S
    assert breaker.admit()
    assert breaker.open_s() == 0
