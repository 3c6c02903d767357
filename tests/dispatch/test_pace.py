"""Rates and windows, in virtual time."""

from __future__ import annotations

import asyncio
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.dispatch.pace import MINUTE_S, SAVED_S, SLOT_S, Pace, Rate, Refusals, Window, is_of_a_day
from moa.providers.provider import VendorLevel
from tests.dispatch.virtual_time import Passing, now_s, virtually

LEVEL = VendorLevel(limit=1000, remaining=1000, reset_s=0)


def most_within(seconds: float, used: list[tuple[float, float]]) -> float:
    """The most that was used in any so many seconds, of (moment, amount) in order of time."""
    most = total = 0.0
    first = 0
    for at_s, amount in used:
        total += amount
        while used[first][0] <= at_s - seconds:
            total -= used[first][1]
            first += 1
        most = max(most, total)
    return most


async def taken(pace: Pace, amounts: list[float], gaps_s: list[float]) -> list[tuple[float, float]]:
    log = []
    for amount, gap_s in zip(amounts, gaps_s, strict=True):
        await asyncio.sleep(gap_s)
        await pace.take(amount, of=amount)
        log.append((now_s(), amount))
    return log


@pytest.mark.parametrize("per_minute", [30, 600, 6e5])
@virtually
async def test_a_pace_starts_with_a_tenth_of_a_second_or_one_unit(per_minute: float) -> None:
    pace, passed, units = Pace(per_minute), Passing(), 0.0

    while passed.s < 10:
        await pace.take(per_minute / 6000, of=per_minute / 6000)
        units += per_minute / 6000

    assert 10 * per_minute / 60 <= units <= max(1, 0.1 * per_minute / 60) + 10.1 * per_minute / 60


@settings(max_examples=30)
@given(
    per_minute=st.floats(1, 1e6),
    sizes_s=st.lists(st.floats(0.01, 90), min_size=2, max_size=12),
    gaps_s=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.3, 20.0]), min_size=12, max_size=12),
)
@virtually
async def test_amounts_of_any_size_flow_at_the_rate_and_no_faster(
    per_minute: float, sizes_s: list[float], gaps_s: list[float]
) -> None:
    rate = per_minute / 60
    amounts = [size_s * rate for size_s in sizes_s]
    passed = Passing()

    log = await taken(Pace(per_minute), amounts, gaps_s[: len(amounts)])

    depth = max(1.0, 0.1 * rate, min(SAVED_S * rate, 2 * max(amounts)))
    for seconds in (0.05, 1.0, 10.0, 60.0):
        at_once = max(amount for _, amount in log)  # has flowed before it is taken
        assert most_within(seconds, log) <= seconds * rate + depth + at_once + 1e-6
    assert passed.s <= sum(sizes_s) + sum(gaps_s) + 0.1


@virtually
async def test_what_flows_while_another_limit_is_waited_for_is_kept_for_two_calls() -> None:
    pace = Pace(60)
    await pace.take(2, of=2)

    await asyncio.sleep(100)
    passed = Passing()
    for _ in range(4):
        await pace.take(1, of=1)

    assert passed.s == pytest.approx(1, abs=0.01)  # three seconds' worth was there


@virtually
async def test_another_rate_holds_at_once_and_begins_without_a_burst() -> None:
    pace = Pace(60)
    await pace.take(5, of=1)

    await pace.set(600)
    passed = Passing()
    await pace.take(20, of=1)

    assert passed.s == pytest.approx(2, abs=0.01)


@virtually
async def test_what_was_used_more_is_waited_for_and_what_was_used_less_is_not() -> None:
    pace = Pace(600)
    await pace.take(10, of=10)

    pace.owe(30)
    after_more = Passing()
    await pace.take(10, of=10)
    more_s = after_more.s
    pace.owe(-5)
    after_less = Passing()
    await pace.take(10, of=10)

    assert more_s == pytest.approx(4, abs=0.01)
    assert after_less.s == pytest.approx(0.5, abs=0.01)


@virtually
async def test_no_more_than_a_second_is_saved_up() -> None:
    pace = Pace(600)
    await pace.take(10, of=1)

    pace.owe(-1000)
    passed = Passing()
    await pace.take(30, of=1)

    assert passed.s == pytest.approx(2, abs=0.01)


@virtually
async def test_a_debt_is_paid_by_the_hour_in_which_nobody_calls() -> None:
    pace = Pace(600)
    await pace.take(1, of=1)

    pace.owe(300)
    await asyncio.sleep(15)
    pace.owe(1)
    half_paid = Passing()
    await pace.take(1, of=1)
    half_s = half_paid.s
    pace.owe(300)
    await asyncio.sleep(3600)
    paid = Passing()
    await pace.take(1, of=1)

    assert half_s == pytest.approx(15, abs=0.5)
    assert paid.s < 0.01


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0.1, 70), st.floats(-1, 1), st.floats(0, 1)),
        min_size=1,
        max_size=40,
    )
)
def test_what_a_window_lets_through_never_exceeds_its_limit(
    steps: list[tuple[float, float, float, float]],
) -> None:
    window, limit, now = Window(60.0, SLOT_S), 100.0, 0.0
    used: list[tuple[float, float]] = []

    for gap_s, amount, share, correct_share in steps:
        now += gap_s
        while (wait_s := window.wait_s(amount, limit, now)) > 0:
            now += wait_s + 1e-6
        window.add(amount, now)
        used.append((now, amount))
        if share < 0:  # a part of some earlier call was not used
            at = int(correct_share * (len(used) - 1))
            less = share * used[at][1] / len(used)
            window.add(less, used[at][0])
            used[at] = used[at][0], used[at][1] + less

        assert most_within(60.0, used) <= limit + 1e-6


def test_a_window_says_exactly_how_long_to_wait() -> None:
    window = Window(60.0, 0.1)
    for second in range(10):
        window.add(10, 1000.05 + second)

    fits_s = window.wait_s(25, 100, 1010.0)
    more_than_all_s = window.wait_s(500, 100, 1010.0)

    assert fits_s == pytest.approx(1002.1 + 60 - 1010.0)
    assert more_than_all_s == pytest.approx(1009.1 + 60 - 1010.0)
    assert window.wait_s(25, 100, 1010.0 + fits_s) == pytest.approx(0)


def test_what_is_learnt_later_counts_with_the_call_that_it_was_learnt_of() -> None:
    window = Window(60.0, 0.1)
    window.add(50, 1000.05)
    window.add(10, 1030.05)

    window.add(40, 1000.4)  # sent a little after it was granted
    window.add(99, 900.0)  # of nobody that still counts

    assert window.wait_s(1, 100, 1059.0) == pytest.approx(1.1, abs=0.01)
    assert window.wait_s(90, 100, 1060.2) == 0


def test_a_window_forgets_even_if_nobody_ever_looks() -> None:
    window = Window(MINUTE_S, SLOT_S)
    for n in range(20_000):
        window.add(1, 1000 + n * 0.5)
    few = sys.getsizeof(window._used)

    for n in range(100_000):
        window.add(1, 11_000 + n * 0.5)

    assert sys.getsizeof(window._used) <= 2 * few
    assert few < 20_000


def rate_of(per_minute: float | None) -> Rate:
    rate = Rate(now_s)
    rate.configure(per_minute)
    return rate


@pytest.mark.parametrize(
    ("remaining", "reset_s", "factor"),
    [
        (1000, 0, 1.0),
        (250, 45, 1.0),
        (125, 52.5, 0.5),
        (125, None, 0.5),
        (0, 60, 0.05),
        (2, 0.4, 1.0),  # a bucket shallower than a minute, almost full
        (0, 54, 12 / 32),  # a tenth of a minute's quota is there
    ],
)
@virtually
async def test_a_rate_falls_with_what_the_vendor_has_left(
    remaining: float, reset_s: float | None, factor: float
) -> None:
    rate = rate_of(1000)

    rate.hear(VendorLevel(1000, remaining, reset_s))

    assert rate.per_minute == pytest.approx(1000 * factor)


@virtually
async def test_a_lowered_rate_is_whole_again_after_a_minute() -> None:
    rate = rate_of(1000)
    rate.hear(VendorLevel(1000, 0, 60))

    rates = []
    for _ in range(61):
        rates.append(rate.per_minute or 0.0)
        await asyncio.sleep(1)

    assert rates == sorted(rates)
    assert rates[30] == pytest.approx(500, rel=0.1)
    assert rate.per_minute == 1000


@virtually
async def test_the_vendors_own_limit_holds_where_it_is_the_lower_or_the_only_one() -> None:
    unknown, lower, higher = rate_of(None), rate_of(500), rate_of(5000)

    for rate in (unknown, lower, higher):
        rate.hear(LEVEL)

    assert (unknown.per_minute, lower.per_minute, higher.per_minute) == (1000, 500, 1000)


@virtually
async def test_the_level_is_held_against_the_vendors_limit_and_not_ours() -> None:
    rate = rate_of(100)

    rate.hear(VendorLevel(1000, 400, None))

    assert rate.per_minute == 100


@virtually
async def test_refusals_are_judged_every_few_seconds_by_their_share() -> None:
    refusals = Refusals(asyncio.get_running_loop().time)

    refusals.grant(100)
    at_once = refusals.count(30)
    await asyncio.sleep(5)
    none_new = refusals.count(0)
    judged = refusals.count(10)
    await asyncio.sleep(5)
    refusals.grant(10)
    most = refusals.count(10)

    assert (at_once, none_new) == (0, 0)
    assert judged == pytest.approx(0.4)
    assert most == 0.5


@virtually
async def test_what_was_lost_comes_back_within_a_minute() -> None:
    rate = rate_of(3200)

    rate.lower(0.4)
    lowered = rate.per_minute
    await asyncio.sleep(30)

    assert lowered == pytest.approx(0.6 * 3200, rel=0.04)
    assert rate.per_minute == 3200


@virtually
async def test_nobody_needs_to_wait_where_nobody_knows_a_limit() -> None:
    rate, passed = rate_of(None), Passing()

    await rate.flow(1e9, of=1e9, reserved=0)

    assert rate.wait_s(1e9) == 0
    assert passed.s < 0.01


@virtually
async def test_what_is_reserved_is_there_while_the_rest_is_used_up() -> None:
    rate = rate_of(600)

    async def batch() -> None:
        while True:
            await rate.flow(1, of=1, reserved=0.5)
            count.append(now_s())

    count: list[float] = []
    task = asyncio.create_task(batch())
    await asyncio.sleep(60)
    task.cancel()
    passed = Passing()
    await rate.flow(1, of=1, reserved=0)

    assert len(count) == pytest.approx(300, abs=5)
    assert passed.s < 0.01


@virtually
async def test_corrections_of_interactive_calls_are_no_debt_of_the_others() -> None:
    rate = rate_of(600)
    await rate.flow(1, of=1, reserved=0.5)

    rate.correct(20, 1.0, interactive=True)
    passed = Passing()
    await rate.flow(2, of=1, reserved=0.5)

    assert passed.s == pytest.approx(2.1, abs=0.2)  # the whole account's debt, not twice that


@pytest.mark.parametrize(
    ("level", "of_a_day"),
    [
        (VendorLevel(14_400, 14_000, 2400), True),
        (VendorLevel(10_000, 9_999, 8.64), True),
        (VendorLevel(500, 499, 0.12), False),
        (VendorLevel(500, 0, 60), False),
        (VendorLevel(500, 500, 0), False),
        (VendorLevel(500, 20, None), False),
    ],
)
def test_a_days_limit_is_known_by_how_slowly_it_fills(level: VendorLevel, of_a_day: bool) -> None:
    assert is_of_a_day(level) == of_a_day
