from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.retry import RetryPolicy
from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)

POLICY = RetryPolicy(max_attempts=4, give_up_after_s=600)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad"),
        ContextExceeded("long"),
        AccountRefused("key"),
        QuotaSpent("day", retry_after_s=10),
    ],
)
def test_what_would_fail_again_is_not_tried_again(error: ProviderError) -> None:
    wait_s = POLICY.wait_s(error, attempt=1, elapsed_s=0, random=Random(0))

    assert wait_s is None


@given(attempt=st.integers(1, 3), seed=st.integers())
def test_backoff_stays_below_a_doubling_ceiling(attempt: int, seed: int) -> None:
    wait_s = POLICY.wait_s(TransientError("503"), attempt=attempt, elapsed_s=0, random=Random(seed))

    assert wait_s is not None
    assert 0 <= wait_s <= 0.5 * 2 ** (attempt - 1)


@pytest.mark.parametrize("kind", [RateLimited, TransientError])
@given(retry_after_s=st.floats(0, 500), seed=st.integers())
def test_a_vendors_later_is_never_undercut(
    kind: type[TransientError], retry_after_s: float, seed: int
) -> None:
    error = kind("slow down", retry_after_s=retry_after_s)

    wait_s = POLICY.wait_s(error, attempt=1, elapsed_s=0, random=Random(seed))

    assert wait_s is not None
    assert retry_after_s <= wait_s <= retry_after_s * 1.1


def test_who_says_at_once_again_and_again_is_not_asked_all_the_time() -> None:
    error = RateLimited("slow down", retry_after_s=0)
    draws = [Random(seed) for seed in range(200)]

    first = [POLICY.wait_s(error, attempt=1, refused=1, elapsed_s=0, random=r) for r in draws]
    often = [POLICY.wait_s(error, attempt=9000, refused=9000, elapsed_s=0, random=r) for r in draws]

    assert set(first) == {0}
    assert sum(wait_s or 0 for wait_s in often) / len(often) > 20


def test_tries_are_capped_in_number_and_in_time() -> None:
    error = RateLimited("slow down", retry_after_s=30)

    last = POLICY.wait_s(error, attempt=4, elapsed_s=0, random=Random(0))
    late = POLICY.wait_s(error, attempt=1, elapsed_s=590, random=Random(0))

    assert last is None
    assert late is None
