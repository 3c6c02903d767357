from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.errors import ConfigError, Refusal
from moa.replay.process import ReplayServer
from moa.serving.config import EndpointConfig
from moa.serving.routing import Scored, Scorer
from moa.serving.spent import KeptLimits
from moa.serving.tenant_lease import TenantLease
from moa.serving.tenant_limits import (
    NOTHING,
    Need,
    Returned,
    Taken,
    TenantLimits,
    Verdict,
)
from moa.serving.tenants import Tenant
from tests.conftest import FakeClock
from tests.serving.conftest import KEY, OTHER_KEY, STRAIGHT, Serving, config_of, hashed

Start = Callable[..., Awaitable[Serving]]
HELLO: Any = [{"role": "user", "content": "Hello"}]


def tenants(**limits: object) -> str:
    lines = [f"{name} = {value}" for name, value in limits.items()]
    return "\n".join(
        [
            "[tenants.search]",
            f'key_sha256 = ["{hashed(KEY)}"]',
            *lines,
            "[tenants.gone]",
            f'key_sha256 = ["{hashed(OTHER_KEY)}"]',
            "enabled = false",
        ]
    )


async def test_without_a_key_there_is_no_answer(start: Start) -> None:
    served = await start(tenants=tenants())
    chat = {"model": "moa", "messages": HELLO}

    statuses = [
        (await served.post("/chat/completions", chat, key=key))[0]
        for key in (KEY, OTHER_KEY, "sk-wrong", "", KEY + "x", "\xff", "x" * 10_000)
    ]
    async with served.http.get(f"{served.base_url}/models") as bare:
        anonymous = bare.status

    assert statuses[:2] == [200, 403]
    assert all(status in (400, 401) for status in statuses[2:])
    assert anonymous == 401


async def test_the_clients_see_their_own_kinds_of_errors(start: Start) -> None:
    served = await start(tenants=tenants(rpm=1))
    ask = served.client.chat.completions.create

    await ask(model="moa", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as limited:
        await ask(model="moa", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        await served.client.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        await served.client.with_options(api_key=OTHER_KEY).models.list()

    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 62
    assert limited.value.code == "rate_limit_exceeded"


async def test_a_days_money_is_reserved_before_it_is_spent(start: Start) -> None:
    served = await start(tenants=tenants(usd_per_day='"0.002"'))
    ask = served.client.chat.completions.create
    spent = Decimal(0)

    async def spend() -> None:
        nonlocal spent
        while True:
            raw = await served.client.chat.completions.with_raw_response.create(
                model="openai/gpt-4o", messages=HELLO
            )
            spent += Decimal(raw.headers["x-moa-cost-usd"])

    with pytest.raises(openai.RateLimitError) as limited:
        await spend()

    assert limited.value.code == "insufficient_quota"
    assert int(limited.value.response.headers["retry-after"]) > 1
    assert Decimal(0) < spent <= Decimal("0.004")
    with pytest.raises(openai.RateLimitError):
        await ask(model="openai/gpt-4o", messages=HELLO)


async def test_a_tenant_asks_for_its_own_models_only(start: Start) -> None:
    served = await start(tenants=tenants(models=f'["{STRAIGHT}"]'))

    routed = await served.client.chat.completions.create(model="moa", messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError):
        await served.client.chat.completions.create(model="openai/gpt-4o", messages=HELLO)
    listed = await served.client.models.list()

    assert routed.model == STRAIGHT
    assert {m.id for m in listed.data if "/" in m.id} == {STRAIGHT}


def test_without_keys_it_listens_at_this_machine_only() -> None:
    for overrides in (
        ["http.host=0.0.0.0"],
        ["access.open=false"],
        ["access.tenants=some.toml"],
        ["http.host=example.com"],
    ):
        with pytest.raises(ConfigError):
            config_of(*overrides)

    assert isinstance(config_of("http.host=::1"), EndpointConfig)


class Late(TenantLimits):
    """An owner whose answers take their time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self._time = clock
        self.latency_s = 0.0

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        self._time.advance(self.latency_s / 2)
        verdict = await super().lease(tenant, needed, returned)
        self._time.advance(self.latency_s / 2)
        return verdict


class Step(NamedTuple):
    which: int
    wait_s: float
    tokens: float
    share: float
    """Of what was reserved, that is used."""
    latency_s: float
    lasts: int
    """Steps until the request has ended."""


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 2),
        st.sampled_from([0.0, 0.0, 0.01, 0.3, 0.99, 7.0, 58.9, 61.0]),
        st.floats(1, 80),
        st.floats(0, 1),
        st.sampled_from([0.0, 0.0, 0.2, 1.5]),
        st.integers(0, 8),
    ),
    max_size=150,
)


@pytest.mark.parametrize(("rpm", "tpm"), [(20, 500), (1200, 30_000)])
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
async def test_no_minute_has_more_than_a_tenants_limits(
    rpm: int, tpm: int, steps: list[Step]
) -> None:
    """However many processes lease, wait and give back, and however long requests last; with
    blocks (1,200 a minute are leased two at a time) and without.
    """
    clock = FakeClock()
    owner = Late(clock)
    leases = [TenantLease(owner, clock) for _ in range(3)]
    tenant = Tenant("t", rpm=rpm, tpm=tpm, usd_per_day=Decimal(1))
    size = tpm / 500
    let_in: list[tuple[float, float]] = []
    open_: list[tuple[int, int, Taken, Need]] = []
    spent = Decimal(0)

    for number, step in enumerate(steps):
        clock.advance(step.wait_s)
        owner.latency_s = step.latency_s
        for one in [one for one in open_ if one[0] <= number]:
            open_.remove(one)
            leases[one[1]].settle(tenant, one[2], one[3])
        for _ in range(1 if rpm == 20 else 40):
            needed = Need(1, step.tokens * size / (1 if rpm == 20 else 40), Decimal("0.001"))
            try:
                taken = await leases[step.which].take(tenant, needed)
            except Refusal:
                break
            used = Need(1, needed.tokens * step.share, Decimal("0.0005"))
            let_in.append((clock.now, used.tokens))
            spent += used.usd
            open_.append((number + step.lasts, step.which, taken, used))

    for start_s in {at for at, _ in let_in}:
        minute = [tokens for at, tokens in let_in if start_s <= at < start_s + 60]
        assert len(minute) <= rpm
        assert sum(minute) <= tpm + 1e-6
    assert spent <= 1


async def test_what_is_used_beyond_its_estimate_counts_from_then_on(clock: FakeClock) -> None:
    lease = TenantLease(TenantLimits(clock), clock)
    tenant = Tenant("t", tpm=100)
    taken = await lease.take(tenant, Need(1, 2_000.0, Decimal(0)))  # alone in its minute
    clock.advance(90)

    lease.settle(tenant, taken, Need(1, 150.0, Decimal(0)))

    with pytest.raises(Refusal) as refused:
        await lease.take(tenant, Need(1, 60.0, Decimal(0)))
    clock.advance(refused.value.retry_after_s or 0)
    await lease.take(tenant, Need(1, 60.0, Decimal(0)))


async def test_a_refund_of_a_minute_that_is_over_makes_no_other_longer(clock: FakeClock) -> None:
    owner = TenantLimits(clock)
    first, second = TenantLease(owner, clock), TenantLease(owner, clock)
    tenant = Tenant("t", tpm=100)
    slow = await first.take(tenant, Need(1, 90.0, Decimal(0)))
    clock.advance(70)
    await second.take(tenant, Need(1, 90.0, Decimal(0)))

    first.settle(tenant, slow, Need(1, 1.0, Decimal(0)))

    with pytest.raises(Refusal):
        await first.take(tenant, Need(1, 90.0, Decimal(0)))


async def test_a_lease_counts_until_the_last_request_that_it_may_let_in(clock: FakeClock) -> None:
    owner = TenantLimits(clock)
    first, second = TenantLease(owner, clock), TenantLease(owner, clock)
    tenant, one = Tenant("t", rpm=1200), Need(1, 0.0, Decimal(0))
    clock.now = 1000.95
    await first.take(tenant, one)  # two are leased
    clock.now = 1001.9
    await first.take(tenant, one)

    clock.now = 1061.5  # less than a minute later
    for _ in range(1198):
        await second.take(tenant, one)

    with pytest.raises(Refusal):
        await second.take(tenant, one)


async def test_what_was_refunded_is_not_forgotten_twice(clock: FakeClock) -> None:
    lease = TenantLease(TenantLimits(clock), clock)
    tenant, much = Tenant("t", tpm=100), Need(1, 90.0, Decimal(0))
    taken = await lease.take(tenant, much)
    clock.advance(30)
    lease.settle(tenant, taken, Need(1, 0.0, Decimal(0)))
    await lease.take(tenant, Need(1, 1.0, Decimal(0)))

    clock.advance(32)
    await lease.take(tenant, much)

    with pytest.raises(Refusal):
        await lease.take(tenant, much)


async def test_a_days_money_begins_anew_at_midnight_utc_and_yesterdays_is_not_added() -> None:
    clock = FakeClock()
    clock.now = datetime(2026, 3, 28, 23, 59, 30, tzinfo=UTC).timestamp()
    lease = TenantLease(TenantLimits(clock), clock)
    tenant = Tenant("t", usd_per_day=Decimal(1))
    need = Need(1, 0.0, Decimal("0.9"))
    open_ = await lease.take(tenant, need)
    with pytest.raises(Refusal) as refused:
        await lease.take(tenant, need)
    assert refused.value.retry_after_s == pytest.approx(30)

    clock.advance(refused.value.retry_after_s or 0)
    await lease.take(tenant, need)
    lease.settle(tenant, open_, Need(1, 0.0, Decimal(0)))  # of yesterday

    with pytest.raises(Refusal):
        await lease.take(tenant, need)


async def test_an_owner_that_answers_too_late_lets_nobody_in(clock: FakeClock) -> None:
    owner = Late(clock)
    owner.latency_s = 3.0
    lease = TenantLease(owner, clock)

    with pytest.raises(Refusal) as refused:
        await lease.take(Tenant("t", rpm=2), Need(1, 0.0, Decimal(0)))
    owner.latency_s = 0.0

    assert (refused.value.status, refused.value.code) == (503, "limits_slow")
    await lease.take(Tenant("t", rpm=2), Need(1, 0.0, Decimal(0)))  # late leases came back


async def test_who_has_no_limits_asks_no_owner(clock: FakeClock) -> None:
    owner = Late(clock)
    owner.latency_s = 3.0
    lease = TenantLease(owner, clock)

    taken = await lease.take(Tenant("t"), Need(1, 1e9, Decimal(10**6)))
    lease.settle(Tenant("t"), taken, NOTHING)

    assert clock.now == FakeClock().now


async def test_several_answers_are_reserved_before_one_is_asked_for(
    start: Start, provider_server: ReplayServer
) -> None:
    ask = {"model": "openai/gpt-4o", "messages": HELLO}
    _, told, _ = await (await start()).post("/route", ask)
    route: Any = told["data"]
    usd = route[0]["expected_cost_usd"]["openai/gpt-4o"]
    served = await start(tenants=tenants(usd_per_day=f'"{2.5 * usd:.9f}"'))

    many, _, _ = await served.post("/chat/completions", {**ask, "n": 4})
    calls = len(provider_server.ledger())
    one, _, _ = await served.post("/chat/completions", ask)

    assert (many, calls, one) == (429, 0, 200)


async def test_who_waits_as_long_as_told_is_let_in(clock: FakeClock) -> None:
    lease = TenantLease(TenantLimits(clock), clock)
    tenant = Tenant("t", rpm=2)
    need = Need(1, 10.0, Decimal(0))
    for _ in range(2):
        await lease.take(tenant, need)

    with pytest.raises(Refusal) as refused:
        await lease.take(tenant, need)
    clock.advance(refused.value.retry_after_s or 0)

    await lease.take(tenant, need)


async def test_unused_tokens_come_back(clock: FakeClock) -> None:
    lease = TenantLease(TenantLimits(clock), clock)
    tenant = Tenant("t", tpm=100)
    taken = Need(1, 90.0, Decimal(0))
    held = await lease.take(tenant, taken)

    lease.settle(tenant, held, NOTHING._replace(requests=1, tokens=10.0))

    await lease.take(tenant, taken)


async def test_the_days_spend_outlives_its_owner(tmp_path: Path, clock: FakeClock) -> None:
    tenant = Tenant("t", usd_per_day=Decimal(1))
    first = KeptLimits(str(tmp_path), clock)
    await first.lease(tenant, Need(1, 0.0, Decimal("0.9")), Returned())
    await asyncio.sleep(1.2)

    verdict = await KeptLimits(str(tmp_path), clock).lease(
        tenant, Need(1, 0.0, Decimal("0.2")), Returned()
    )

    assert verdict.granted is None
    assert verdict.limit == "usd_per_day"


async def test_the_days_spend_is_written_and_told_when_the_endpoint_ends(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "spent"
    spend = (tenants(usd_per_day='"1"'), f"access.spent_folder={folder}")
    served = await start(spend[1], tenants=spend[0])
    raw = await served.client.chat.completions.with_raw_response.create(
        model="openai/gpt-4o", messages=HELLO
    )

    await served.endpoint.close()

    (kept,) = [orjson.loads(path.read_bytes()) for path in folder.rglob("*.json")]
    assert Decimal(kept["search"]) == Decimal(raw.headers["x-moa-cost-usd"])


async def test_money_that_cannot_be_read_is_no_mistake_of_the_clients(
    start: Start, tmp_path: Path
) -> None:
    served = await start(f"access.spent_folder={tmp_path}", tenants=tenants(usd_per_day='"1"'))
    (tmp_path / f"spent/{datetime.now(UTC):%Y-%m-%d}.json").mkdir(parents=True)

    status, document, headers = await served.post(
        "/chat/completions", {"model": "moa", "messages": HELLO}
    )

    said: Any = document["error"]
    assert (status, said["code"], headers["retry-after"]) == (503, "limits_out", "5")


class Counting:
    """A router that knows what it has read."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.read = 0

    async def score(self, texts: Sequence[str]) -> Scored:
        self.read += len(texts)
        return await self._scorer.score(texts)


async def test_who_is_over_the_limit_costs_no_scoring_and_writes_no_grades(start: Start) -> None:
    served = await start(tenants=tenants(rpm=3))
    counting = Counting(served.endpoint.scorer)
    served.endpoint.scorer = counting
    answer = await served.client.chat.completions.create(model="moa", messages=HELLO)
    grade = {"completion_id": answer.id, "grade": 1.0}
    listed = {"queries": [{"messages": HELLO}] * 2}

    statuses = [
        (await served.post(path, document))[0]
        for path, document in (
            ("/feedback", grade),
            ("/route", listed),
            ("/feedback", grade),
            ("/feedback", grade),
            ("/route", listed),
            ("/chat/completions", {"model": "moa", "messages": HELLO}),
        )
    ]

    assert statuses == [200, 429, 200, 429, 429, 429]
    assert counting.read == 1


async def test_a_list_of_more_queries_than_a_minute_has_waits_for_a_whole_minute(
    start: Start,
) -> None:
    served = await start(tenants=tenants(rpm=3))

    statuses = [
        (await served.post("/route", {"queries": [{"messages": HELLO}] * 5}))[0] for _ in range(2)
    ]

    assert statuses == [200, 429]
