"""Wait for a model that is out, or take the detour."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import Limits, load_catalog
from moa.dispatch.breaker import OPENS_AFTER
from moa.dispatch.call import Call
from moa.dispatch.detour import outage_of, waits
from moa.dispatch.journal import Journal
from moa.dispatch.lease import Lease
from moa.dispatch.line import Account, Line
from moa.dispatch.outcome import Assignment, Choice
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import DispatchSettings
from moa.errors import AccountRefused, ProviderError, QuotaSpent, RateLimited, TransientError
from moa.providers.provider import Answer, CompletionDelta, Request
from tests.dispatch.night import proven_owner
from tests.dispatch.virtual_time import now_s, virtually

MODELS = load_catalog("jobs/configs/demo_catalog.toml").models
MINI, HAIKU = MODELS["openai/gpt-4o-mini"], MODELS["anthropic/claude-3-haiku"]
PATIENCE_S = 7_200.0


class Unread:
    """Where a journal goes that nobody reads."""

    def append(self, data: bytes) -> None: ...

    async def commit(self) -> None: ...

    async def close(self) -> None: ...


class Idle:
    """A provider and a sender in one, neither of which is ever needed."""

    name = "openai"

    async def complete(self, request: Request, *, timeout_s: float) -> Answer:
        raise NotImplementedError

    def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[CompletionDelta]:
        raise NotImplementedError

    async def close(self) -> None: ...

    async def send(self, call: Call, line: Line) -> None: ...

    def pass_on(self, call: Call, line: Line) -> bool:
        return False

    def refuse(self, call: Call, error: ProviderError) -> None: ...

    def fail(self, call: Call, error: Exception) -> None: ...


def settings(usd_per_hour: float | None, *, fallback: bool = True) -> DispatchSettings:
    worth = None if usd_per_hour is None else Decimal(str(usd_per_hour))
    retry = RetryPolicy(4, PATIENCE_S)
    return DispatchSettings(8, 60, retry, fallback, seed=1, waiting_usd_per_hour=worth)


def call_worth(*worth_usd: float) -> Call:
    """Of as many choices, the models in turn."""
    choices = tuple(
        Choice((MINI, HAIKU)[n % 2], 10.0, 50.0, worth) for n, worth in enumerate(worth_usd)
    )
    assignment = Assignment("q", 0, 0, "{}", choices, "live", None, [], [])
    return Call(assignment, Journal(Unread()), done=None)  # type: ignore[arg-type]  # never ends


@pytest.mark.parametrize("usd_per_hour", [0.0, 1.0, None])
def test_who_has_nowhere_else_to_go_waits_as_long_as_the_retries_do(
    usd_per_hour: float | None,
) -> None:
    call = call_worth(0.02)

    waiting = [waits(call, out_s, settings(usd_per_hour)) for out_s in (0, 7_000, 7_300, math.inf)]

    assert waiting == [True, True, False, False]


def test_without_fallbacks_in_the_settings_there_is_nowhere_else_to_go() -> None:
    call = call_worth(0.02, 0.01)

    assert waits(call, 3_600, settings(1.0, fallback=False))


def test_where_time_is_worth_more_than_any_model_nobody_waits() -> None:
    assert not waits(call_worth(0.02, 0.01), 1, settings(None))


def test_where_time_is_worth_nothing_everybody_waits_while_the_retries_do() -> None:
    call = call_worth(0.02, 0.01)

    assert waits(call, 7_000, settings(0.0))
    assert not waits(call, 7_300, settings(0.0))


def test_one_waits_until_that_has_cost_as_much_as_the_detour() -> None:
    call = call_worth(0.03, 0.01)  # the detour loses two cents: an hour, at two cents an hour

    assert waits(call, 3_500, settings(0.02))
    assert not waits(call, 3_700, settings(0.02))
    assert not waits(call, 360, settings(0.2))


def test_what_counts_is_the_next_model_and_not_the_first() -> None:
    call = call_worth(0.09, 0.03, 0.01)

    call.next_model()

    assert waits(call, 3_500, settings(0.02))
    assert not waits(call, 3_700, settings(0.02))
    call.next_model()
    assert waits(call, 7_000, settings(0.02))


def test_a_detour_that_is_as_good_is_taken_at_once() -> None:
    assert not waits(call_worth(0.01, 0.01), 0, settings(0.02))


@given(
    out_s=st.floats(0, PATIENCE_S), loss_usd=st.floats(1e-6, 1), usd_per_hour=st.floats(1e-4, 10)
)
def test_nobody_pays_more_than_twice_what_was_best(
    out_s: float, loss_usd: float, usd_per_hour: float
) -> None:
    call, there = call_worth(loss_usd, 0.0), settings(usd_per_hour)
    a_second = usd_per_hour / 3600

    # Looked at every second of an outage that ends at `out_s`.
    gone_after_s = next((s for s in range(int(out_s) + 1) if not waits(call, s, there)), None)
    paid = out_s * a_second if gone_after_s is None else gone_after_s * a_second + loss_usd

    best = min(out_s * a_second, loss_usd)
    assert paid <= 2 * best + 2 * a_second


@virtually
async def test_what_puts_a_line_out() -> None:
    idle, owner, call = Idle(), proven_owner(), call_worth(0.02)
    lines = []
    for n in range(5):
        lease = Lease(owner, "model", Limits(), f"p/{n}", now_s)
        lines.append(Line(Account(idle, owner, 8, "p"), lease, idle, 8, now_s))
    _, limited, spent, broken, refused = lines

    limited.heed(RateLimited("later", retry_after_s=30, status=429), call, now_s())
    spent.heed(QuotaSpent("the day's", retry_after_s=3_600, status=429), call, now_s())
    for n in range(OPENS_AFTER):
        broken.breaker.failed(f"q{n}")
    refused.account.refused = AccountRefused("no money")
    outages = [outage_of(line, "model") for line in lines]
    for line in lines:
        await line.stop()

    assert outages[:2] == [None, None]  # a short pause is no outage
    assert [type(one.why) for one in outages[2:] if one] == [
        QuotaSpent,
        TransientError,
        AccountRefused,
    ]
    assert [one.for_s for one in outages[2:] if one] == pytest.approx([3_600, 0, math.inf], abs=1)
