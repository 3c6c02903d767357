"""Latencies that are learnt, and calls that have hung, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import load_catalog
from moa.dispatch.outcome import Choice
from moa.dispatch.patience import LEARNT_AFTER, LEAST_S, LOOK_EVERY_S, Latencies, Watch
from tests.dispatch.virtual_time import Passing, now_s, run_virtually, virtually

MODEL = load_catalog("jobs/configs/demo_catalog.toml").models["openai/gpt-4o-mini"]


def of(output_tokens: float) -> Choice:
    return Choice(MODEL, 10.0, output_tokens)


def answers(number: int, spread: float = 0.3) -> Iterator[tuple[int, float]]:
    """A second and a fiftieth of one per token, more or less."""
    random = Random(1)
    for _ in range(number):
        tokens = random.randint(10, 400)
        yield tokens, (1 + tokens / 50) * random.lognormvariate(0, spread)


def learnt(number: int = 500) -> Latencies:
    latencies = Latencies()
    for tokens, seconds in answers(number):
        latencies.learn(tokens, expected_tokens=tokens, seconds=seconds)
    return latencies


def test_the_time_of_an_answer_is_learnt_with_its_length() -> None:
    latencies = learnt()

    assert latencies.expected_s(0) == pytest.approx(1.05, abs=0.4)
    assert latencies.expected_s(300) == pytest.approx(7 * 1.05, rel=0.1)
    assert latencies.expected_s(3000) == pytest.approx(61 * 1.05, rel=0.1)


def test_how_much_slower_an_answer_was_than_expected() -> None:
    latencies = learnt()

    assert latencies.learn(300, expected_tokens=300, seconds=14.0) == pytest.approx(2, rel=0.15)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 10**5), st.floats(0, 1e4)), min_size=1, max_size=60),
    tokens=st.floats(0, 1e6),
)
def test_a_longer_answer_is_never_expected_sooner(
    pairs: list[tuple[int, float]], tokens: float
) -> None:
    latencies = Latencies()

    ratios = [
        latencies.learn(length, expected_tokens=length, seconds=seconds)
        for length, seconds in pairs
    ]

    assert all(ratio >= 0 for ratio in ratios)
    assert 0 < latencies.expected_s(0) <= latencies.expected_s(tokens) * (1 + 1e-9) + 1e-9


def test_answers_of_one_length_have_one_time() -> None:
    latencies = Latencies()

    for _ in range(50):
        latencies.learn(100, expected_tokens=100, seconds=3.0)

    assert latencies.expected_s(100) == pytest.approx(3)


def test_a_vendor_that_becomes_slower_is_followed() -> None:
    latencies = learnt()

    for tokens, seconds in answers(2000):
        latencies.learn(tokens, expected_tokens=tokens, seconds=5 * seconds)

    assert latencies.expected_s(300) == pytest.approx(5 * 7 * 1.05, rel=0.15)


def test_nothing_is_late_before_it_is_known_how_long_answers_take() -> None:
    latencies = Latencies()

    for tokens, seconds in answers(LEARNT_AFTER - 1):
        latencies.learn(tokens, expected_tokens=tokens, seconds=seconds)
    too_early = latencies.late_s(of(100))
    latencies.learn(100, expected_tokens=100, seconds=3.0)

    assert too_early is None
    assert latencies.late_s(of(100)) is not None


def test_late_is_later_than_almost_any_answer_of_four_times_the_expected_length() -> None:
    latencies, random = learnt(), Random(2)

    late_s = latencies.late_s(of(100)) or 0.0
    times_s = [(1 + 400 / 50) * random.lognormvariate(0, 0.3) for _ in range(20_000)]

    assert sum(seconds > late_s for seconds in times_s) <= 4
    assert late_s <= 60


def test_no_answer_is_expected_to_be_longer_than_the_model_writes() -> None:
    latencies, short = learnt(), replace(MODEL, max_output_tokens=50)

    cut_short_s = latencies.late_s(Choice(short, 10.0, 400.0)) or 0.0

    assert cut_short_s < (latencies.late_s(of(400)) or 0.0) / 5


def test_quick_answers_leave_some_time_all_the_same() -> None:
    latencies = Latencies()

    for _ in range(LEARNT_AFTER):
        latencies.learn(10, expected_tokens=10, seconds=0.01)

    assert latencies.late_s(of(10)) == LEAST_S


async def cut_after_s(watch: Watch, timeouts: int = 0, *, tokens: float = 50) -> float:
    """A call that hangs, until it is cut."""
    passed = Passing()
    cut = watch.begin(of(tokens), timeouts)
    try:
        async with cut:
            await asyncio.sleep(1e6)
    except TimeoutError:
        return passed.s
    finally:
        watch.end(cut)
    raise AssertionError("never cut")


@virtually
async def test_a_hung_call_is_cut_and_each_try_has_twice_the_time() -> None:
    latencies = learnt()
    watch, late_s = Watch(latencies, now_s), latencies.late_s(of(50)) or 0.0

    first, second, third = [await cut_after_s(watch, timeouts) for timeouts in (0, 1, 2)]

    assert late_s < first <= late_s + LOOK_EVERY_S + 0.01
    assert 2 * late_s < second <= 2 * late_s + LOOK_EVERY_S + 0.01
    assert 4 * late_s < third <= 4 * late_s + LOOK_EVERY_S + 0.01


@virtually
async def test_longer_answers_have_more_time() -> None:
    watch = Watch(learnt(), now_s)

    short, long = await asyncio.gather(
        cut_after_s(watch, tokens=10), cut_after_s(watch, tokens=400)
    )

    assert long > 5 * short


@virtually
async def test_calls_that_are_out_are_cut_as_soon_as_enough_is_known() -> None:
    latencies, passed = Latencies(), Passing()
    watch = Watch(latencies, now_s)
    hung = [asyncio.create_task(cut_after_s(watch)) for _ in range(3)]

    await asyncio.sleep(600)
    nothing_known = any(task.done() for task in hung)
    for tokens, seconds in answers(LEARNT_AFTER):
        latencies.learn(tokens, expected_tokens=tokens, seconds=seconds)
    await asyncio.gather(*hung)

    assert not nothing_known
    assert passed.s <= 600 + 2 * LOOK_EVERY_S


@virtually
async def test_an_answer_in_time_is_not_cut() -> None:
    latencies = learnt()
    watch, late_s = Watch(latencies, now_s), latencies.late_s(of(50)) or 0.0

    for _ in range(3):
        cut = watch.begin(of(50), 0)
        async with cut:
            await asyncio.sleep(0.99 * late_s)
        watch.end(cut)

    assert not cut.expired()


def test_a_watch_with_nothing_to_watch_sleeps() -> None:
    async def main() -> None:
        watch = Watch(learnt(), now_s)
        await cut_after_s(watch)
        await asyncio.sleep(2 * LOOK_EVERY_S)
        handles = [one for one in vars(asyncio.get_running_loop())["_scheduled"] if one]
        assert [one for one in handles if not one.cancelled()] == []

    run_virtually(main())
