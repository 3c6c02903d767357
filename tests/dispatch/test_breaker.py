from __future__ import annotations

import asyncio

from moa.dispatch.breaker import FIRST_PAUSE_S, OPENS_AFTER, Breaker
from tests.conftest import FakeClock


def opened(clock: FakeClock) -> Breaker:
    breaker = Breaker(clock)
    for n in range(OPENS_AFTER):
        breaker.failed(f"q{n}")
    return breaker


def test_failures_of_different_queries_in_a_row_open_it(clock: FakeClock) -> None:
    breaker = opened(clock)

    admitted = breaker.admit("probe")

    assert not admitted
    assert breaker.wait_s() == FIRST_PAUSE_S


def test_one_query_that_always_fails_opens_nothing(clock: FakeClock) -> None:
    breaker = Breaker(clock)

    for _ in range(10 * OPENS_AFTER):
        breaker.failed("cursed")

    assert breaker.admit("probe")


def test_an_answer_in_between_keeps_it_closed(clock: FakeClock) -> None:
    breaker = Breaker(clock)

    for n in range(10 * OPENS_AFTER):
        breaker.failed(f"q{n}")
        if n % 3 == 0:
            breaker.answered()

    assert breaker.admit("probe")


def test_after_the_pause_one_probe_goes_through(clock: FakeClock) -> None:
    breaker = opened(clock)

    clock.advance(FIRST_PAUSE_S)

    assert breaker.wait_s() == 0
    assert breaker.admit("probe")
    assert not breaker.admit("probe")


def test_a_failed_probe_doubles_the_pause_and_an_answered_one_closes_it(clock: FakeClock) -> None:
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S)
    breaker.admit("probe")

    breaker.failed("probe")
    wait_after_failure_s = breaker.wait_s()
    clock.advance(wait_after_failure_s)
    breaker.admit("probe")
    breaker.answered()

    assert wait_after_failure_s == 2 * FIRST_PAUSE_S
    assert breaker.admit("probe")
    assert breaker.open_s() == 0


def test_calls_that_were_sent_before_it_opened_do_not_end_its_probe(clock: FakeClock) -> None:
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S)
    breaker.admit("probe")

    breaker.failed("sent earlier")
    breaker.release("sent earlier")

    assert not breaker.admit("another")
    assert breaker.wait_s() == FIRST_PAUSE_S


async def test_who_waits_for_a_probe_is_told_of_its_end(clock: FakeClock) -> None:
    breaker = opened(clock)
    clock.advance(FIRST_PAUSE_S)
    breaker.admit("probe")

    waiting = asyncio.create_task(breaker.wait())
    await asyncio.sleep(0)
    breaker.release("probe")

    await asyncio.wait_for(waiting, timeout=1)
    assert breaker.admit("another")
