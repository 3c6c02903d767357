"""Room for batches is held once each, never exceeded, and given to whoever waits."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.dispatch.batch_file import BatchFile
from moa.dispatch.batch_queue import BatchQueue
from tests.dispatch.batch_night import MODELS, OTHER

MINI = MODELS["openai"]
FOREVER_S = float("inf")


def file(tokens: float) -> BatchFile:
    return BatchFile(MINI, (1, 2), Decimal(1), tokens, 10)


def forever() -> float:
    return FOREVER_S


async def is_waiting(task: asyncio.Task[bool]) -> bool:
    await asyncio.sleep(0.02)
    return not task.done()


async def test_a_batch_waits_until_there_is_room_for_it() -> None:
    queue = BatchQueue({MINI.id: 100})
    first, second = file(60), file(60)

    assert await queue.take(first, forever)
    waiting = asyncio.create_task(queue.take(second, forever))
    assert await is_waiting(waiting)
    queue.release(first)

    assert await waiting


async def test_equal_batches_are_told_apart() -> None:
    queue = BatchQueue({MINI.id: 100})
    first, second = file(40), file(40)
    await queue.take(first, forever)
    await queue.take(second, forever)

    assert not queue.is_alone(first)
    queue.release(second)

    assert queue.is_alone(first)
    assert not queue.is_alone(second)


async def test_a_batch_that_never_fits_goes_alone() -> None:
    queue = BatchQueue({MINI.id: 100})
    small, large = file(10), file(1000)
    await queue.take(small, forever)
    waiting = asyncio.create_task(queue.take(large, forever))
    assert await is_waiting(waiting)

    queue.release(small)

    assert await waiting
    assert queue.is_alone(large)


async def test_what_is_out_already_takes_its_room_even_where_there_is_none() -> None:
    queue = BatchQueue({MINI.id: 100})
    out = [file(90), file(90)]
    for one in out:
        queue.hold(one)
    waiting = asyncio.create_task(queue.take(file(10), forever))

    queue.release(out[0])

    assert await waiting


async def test_models_do_not_share_room() -> None:
    queue = BatchQueue({MINI.id: 100, OTHER.id: 100})
    await queue.take(file(100), forever)

    assert await queue.take(BatchFile(OTHER, (3,), Decimal(1), 100, 10), forever)


async def test_a_closed_queue_lets_nobody_in_and_tells_who_waits() -> None:
    queue = BatchQueue({MINI.id: 100})
    await queue.take(file(100), forever)
    waiting = asyncio.create_task(queue.take(file(1), forever))
    assert await is_waiting(waiting)

    queue.close()

    assert not await waiting
    assert not await queue.take(file(0), forever)


async def test_nobody_waits_longer_than_there_is_time() -> None:
    queue = BatchQueue({MINI.id: 100})
    await queue.take(file(100), forever)
    until_s = asyncio.get_running_loop().time() + 0.1

    async with asyncio.timeout(5):
        taken = await queue.take(file(1), lambda: until_s - asyncio.get_running_loop().time())

    assert not taken
    assert asyncio.get_running_loop().time() >= until_s


async def test_a_wait_that_is_cancelled_holds_nothing() -> None:
    queue = BatchQueue({MINI.id: 100})
    first = file(100)
    await queue.take(first, forever)
    waiting = asyncio.create_task(queue.take(file(100), forever))
    assert await is_waiting(waiting)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    queue.release(first)

    assert await queue.take(file(100), forever)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=12), st.integers(0, 2**32))
def test_no_limit_is_exceeded_but_by_one_that_goes_alone(tokens: list[int], seed: int) -> None:
    random, out = Random(seed), list[BatchFile]()
    queue = BatchQueue({MINI.id: 100})

    async def buy(one: BatchFile) -> None:
        assert await queue.take(one, forever)
        out.append(one)
        held = sum(other.input_tokens for other in out)
        assert held <= 100 or len(out) == 1
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        out.remove(one)
        queue.release(one)

    async def night() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for number in tokens:
                group.create_task(buy(file(number)))

    asyncio.run(night())
    assert out == []
