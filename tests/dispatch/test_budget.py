from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.budget import Budget

CENTS = st.integers(0, 500).map(lambda n: Decimal(n) / 100)


def test_without_a_limit_everything_is_granted() -> None:
    budget = Budget(None)

    assert budget.reserve(Decimal(10**9))


@given(st.lists(st.tuples(CENTS, CENTS), max_size=40))
def test_spending_exceeds_the_limit_at_most_by_the_errors_of_the_estimates(
    calls: list[tuple[Decimal, Decimal]],
) -> None:
    budget = Budget(Decimal(10))

    error_usd = Decimal(0)
    for expected_usd, actual_usd in calls:
        if budget.reserve(expected_usd):
            budget.settle(expected_usd, actual_usd)
            error_usd += max(Decimal(0), actual_usd - expected_usd)

    assert budget.reserved_usd == 0
    assert budget.spent_usd <= 10 + error_usd


def test_what_is_reserved_cannot_be_reserved_again() -> None:
    budget = Budget(Decimal(1))

    first = budget.reserve(Decimal("0.7"))
    second = budget.reserve(Decimal("0.7"))
    budget.settle(Decimal("0.7"), Decimal("0.1"))
    third = budget.reserve(Decimal("0.7"))

    assert (first, second, third) == (True, False, True)
