"""How many calls are out, against a vendor that bears so many."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from moa.dispatch.window import FULL_AFTER_S, Congestion, InFlight
from tests.dispatch.virtual_time import Passing, now_s, virtually


def limits_over(
    rounds: int, most: int, *, failing: float = 0.0, refusing: float = 0.0
) -> list[int]:
    """The limit, result by result, while such shares of the calls fail by chance."""
    congestion, random, limits = Congestion(most), Random(1), list[int]()
    for _ in range(rounds * max(16, most)):
        what = random.random()
        if what < failing:
            congestion.too_much()
        elif what < failing + refusing:
            congestion.refused()
        else:
            congestion.answered(random.uniform(0.5, 1.5))
        limits.append(congestion.limit)
    return limits


@pytest.mark.parametrize("most", [1, 8, 64, 512])
def test_a_few_failures_are_chance(most: int) -> None:
    limits = limits_over(100, most, failing=0.02)

    assert sum(limits) / len(limits) >= 0.95 * most


@pytest.mark.parametrize("most", [8, 64, 512])
def test_many_failures_are_too_many_calls(most: int) -> None:
    limits = limits_over(10, most, failing=0.3)

    assert limits[-1] <= most / 4
    assert limits[-1] >= 1


def test_refusals_are_a_matter_of_rates_until_most_calls_end_so() -> None:
    some = limits_over(50, 64, refusing=0.3)
    most_of_them = limits_over(50, 64, refusing=0.8)

    assert min(some) == 64
    assert most_of_them[-1] <= 16


def test_it_finds_what_a_vendor_bears_and_grows_when_it_bears_more() -> None:
    congestion = Congestion(256)

    def settles_at(bears: int) -> list[int]:
        limits = []
        for _ in range(200):
            out = congestion.limit
            for n in range(out):
                if n < bears:
                    congestion.answered(1.0)
                else:
                    congestion.too_much()
            limits.append(out)
        return limits[100:]

    at_first = settles_at(50)
    later = settles_at(150)

    assert 35 <= sum(at_first) / 100 <= 60
    assert 105 <= sum(later) / 100 <= 175


@pytest.mark.parametrize("slower", [2.5, 10.0])
def test_calls_that_wait_at_the_vendor_are_too_many(slower: float) -> None:
    congestion = Congestion(64)

    for _ in range(20 * 64):
        congestion.answered(1.0)
    before = congestion.limit
    for _ in range(4 * 64):
        congestion.answered(slower)
    while_slow = congestion.limit
    for _ in range(40 * 64):
        congestion.answered(1.0)

    assert before == 64
    assert while_slow <= 0.75 * 64
    assert congestion.limit == 64


def test_latencies_that_rise_by_half_are_the_vendors_own_affair() -> None:
    congestion = Congestion(64)
    for _ in range(20 * 64):
        congestion.answered(1.0)

    for _ in range(20 * 64):
        congestion.answered(1.5)

    assert congestion.limit == 64


def test_one_call_may_always_be_out() -> None:
    congestion = Congestion(4)

    for _ in range(1000):
        congestion.too_much()

    assert congestion.limit == 1


@virtually
async def test_no_more_go_out_than_there_is_room_for() -> None:
    window = InFlight(4, now_s)

    taking = [asyncio.create_task(window.take()) for _ in range(6)]
    await asyncio.sleep(10)
    out = window.out, sum(task.done() for task in taking)
    for _ in range(2):
        window.release()
    await asyncio.sleep(1)

    assert out == (4, 4)
    assert all(task.done() for task in taking)
    assert window.out == 4


@virtually
async def test_a_share_of_nothing_blocks_and_a_larger_one_wakes_as_many_as_it_lets_go() -> None:
    window = InFlight(100, now_s)
    window.allow(0)
    taking = [asyncio.create_task(window.take()) for _ in range(6)]
    await asyncio.sleep(100)
    blocked = window.out

    window.allow(4)
    await asyncio.sleep(1)
    some = window.out
    window.allow(None)
    await asyncio.gather(*taking)

    assert (blocked, some, window.out) == (0, 4, 6)


@virtually
async def test_a_smaller_share_calls_nobody_back() -> None:
    window = InFlight(4, now_s)
    for _ in range(3):
        await window.take()

    window.allow(1)
    taking = asyncio.create_task(window.take())
    for _ in range(2):
        window.release()
    await asyncio.sleep(1)
    still_waits = not taking.done()
    window.release()
    await taking

    assert still_waits
    assert window.out == 1


@virtually
async def test_who_gives_up_as_it_is_woken_wakes_the_next() -> None:
    window = InFlight(1, now_s)
    await window.take()
    first, second = (asyncio.create_task(window.take()) for _ in range(2))
    await asyncio.sleep(1)

    window.release()
    first.cancel()  # woken, and has not run yet
    await asyncio.wait_for(second, 1)

    assert first.cancelled()
    assert window.out == 1


@virtually
async def test_those_who_gave_up_waiting_are_passed_over() -> None:
    window = InFlight(1, now_s)
    await window.take()
    taking = [asyncio.create_task(window.take()) for _ in range(5)]
    await asyncio.sleep(1)

    for task in taking[:4]:
        task.cancel()
    await asyncio.sleep(1)
    window.release()
    await asyncio.wait_for(taking[4], 1)

    assert window.out == 1


@virtually
async def test_a_start_is_no_burst_but_soon_over() -> None:
    window, passed, out_at_first = InFlight(640, now_s), Passing(), 0

    for _ in range(640):
        await window.take()
        if passed.s <= 0.01:
            out_at_first = window.out

    assert 0 < out_at_first <= 0.2 * 640
    assert passed.s <= 1.2 * FULL_AFTER_S


@virtually
async def test_as_many_as_come_back_go_out_at_once() -> None:
    window = InFlight(64, now_s)
    for _ in range(64):
        await window.take()
    await asyncio.sleep(5)

    passed = Passing()
    for _ in range(1000):
        window.release()
        await window.take()

    assert passed.s < 0.01
