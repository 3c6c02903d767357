from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.budget import Budget, Dearness, Purse

CENTS = st.integers(0, 300).map(lambda cents: Decimal(cents) / 100)


def holders(purse: Purse, number: int) -> list[Budget]:
    async def lease(least_usd: Decimal) -> Decimal:
        await asyncio.sleep(0)  # as over a wire: others go on meanwhile
        return purse.lease(least_usd)

    return [Budget(lease) for _ in range(number)]


@given(
    calls=st.lists(st.tuples(st.integers(0, 2), CENTS, CENTS), max_size=60),
    limit_usd=CENTS.map(lambda usd: usd * 10),
)
def test_no_cent_is_lost_or_made(
    calls: list[tuple[int, Decimal, Decimal]], limit_usd: Decimal
) -> None:
    purse = Purse(limit_usd, 3)
    budgets = holders(purse, 3)

    async def spend(holder: int, expected_usd: Decimal, actual_usd: Decimal) -> Decimal:
        if not await budgets[holder].reserve(expected_usd):
            return Decimal(0)
        await asyncio.sleep(0)
        budgets[holder].settle(expected_usd, actual_usd)
        return actual_usd

    async def spend_all() -> Decimal:
        return sum(await asyncio.gather(*[spend(*call) for call in calls]), Decimal(0))

    spent_usd = asyncio.run(spend_all())
    in_hand_usd = sum((budget.in_hand_usd for budget in budgets), Decimal(0))
    above_usd = sum((max(Decimal(0), cost - expected) for _, expected, cost in calls), Decimal(0))
    assert spent_usd + in_hand_usd + purse.left_usd == limit_usd
    assert spent_usd <= limit_usd + above_usd


@pytest.mark.parametrize("factor", [Decimal("0.1"), Decimal(1), Decimal(3)])
async def test_wrong_estimates_neither_overrun_nor_strand_a_budget(factor: Decimal) -> None:
    limit_usd, expected_usd, at_once = Decimal(100), Decimal("0.1"), 50
    (budget,) = holders(Purse(limit_usd, 1), 1)
    spent_usd = Decimal(0)

    async def keep_spending() -> None:
        nonlocal spent_usd
        while await budget.reserve(expected_usd):
            await asyncio.sleep(0)
            budget.settle(expected_usd, expected_usd * factor)
            spent_usd += expected_usd * factor

    await asyncio.gather(*[keep_spending() for _ in range(at_once)])

    most_above_usd = at_once * max(Decimal(0), factor - 1) * expected_usd
    assert limit_usd - expected_usd * at_once <= spent_usd <= limit_usd + most_above_usd


async def test_a_call_that_cost_more_than_expected_is_taken_off_the_rest() -> None:
    (budget,) = holders(Purse(Decimal(10), 1), 1)

    assert await budget.reserve(Decimal(2))
    budget.settle(Decimal(2), Decimal(9))

    assert not await budget.reserve(Decimal(2))
    assert await budget.reserve(Decimal(1))


async def test_nearly_all_of_a_budget_can_be_spent_by_many_holders() -> None:
    budgets = holders(Purse(Decimal(100), 4), 4)
    cent = Decimal("0.01")

    spent_usd = Decimal(0)
    for n in range(20_000):
        if await budgets[n % 4].reserve(cent):
            budgets[n % 4].settle(cent, cent)
            spent_usd += cent

    assert 99 <= spent_usd <= 100


async def test_a_dead_holder_takes_little_with_it() -> None:
    purse = Purse(Decimal(100), 2)
    dead, alive = holders(purse, 2)
    await dead.reserve(Decimal("0.01"))

    spent_usd = Decimal(0)
    while await alive.reserve(Decimal("0.1")):
        spent_usd += Decimal("0.1")

    assert 95 <= spent_usd <= 100


async def test_without_a_limit_everything_is_allowed() -> None:
    assert await Budget().reserve(Decimal("1e12"))


async def test_what_is_set_aside_is_not_spent_on_calls() -> None:
    purse = Purse(Decimal(1), 1)
    (budget,) = holders(purse, 1)

    purse.set_aside(Decimal("0.9"))

    assert not await budget.reserve(Decimal("0.2"))
    assert await budget.reserve(Decimal("0.1"))
    purse.set_aside(Decimal(1))
    assert not await budget.reserve(Decimal("0.1"))


def test_answers_that_turned_out_dearer_say_what_others_will_cost() -> None:
    dearness = Dearness()
    dearness.learn(40, Decimal(4), Decimal(10))
    few = dearness.factor

    dearness.learn(40, Decimal(4), Decimal(10))
    many = dearness.factor
    dearness.learn(1000, Decimal(100), Decimal(10))

    assert few == 1
    assert many == Decimal("2.5")
    assert dearness.factor == 1  # never less is reserved than is expected
