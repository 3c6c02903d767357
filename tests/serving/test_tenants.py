from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ConfigError, Refusal
from moa.log import configure
from moa.replay.process import ReplayServer
from moa.serving.config import EndpointConfig
from moa.serving.spent import KeptLimits
from moa.serving.tenant_limits import NOTHING, Need, TenantLease, TenantLimits
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

    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 61
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


async def test_keys_and_prompts_are_in_no_log_and_no_error(
    start: Start, provider_server: ReplayServer
) -> None:
    out = io.StringIO()
    configure("json", stream=out)
    served = await start("calls.max_attempts=1", tenants=tenants())
    provider_server.set_script(
        {"synthetic": True, "outages": [{"provider": "openai", "to_s": 3600}]}
    )
    secret = "the-launch-code-is-4711"
    asked = {"model": STRAIGHT, "messages": [{"role": "user", "content": secret}], "bad": 1}

    answers = [
        await served.post("/chat/completions", asked),
        await served.post("/chat/completions", {k: v for k, v in asked.items() if k != "bad"}),
        await served.post("/chat/completions", asked, key="sk-wrong-key"),
    ]

    said = out.getvalue() + "".join(str(document) for _, document, _ in answers)
    assert [status for status, _, _ in answers] == [400, 502, 401]
    assert "request.failed" in said
    assert not any(word in said for word in (secret, KEY, "sk-wrong-key"))
    assert not any(secret in str(key) for key in served.tally.values)


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


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.floats(0, 20), st.floats(1, 80), st.floats(0, 1.5), st.booleans()
    ),
    max_size=120,
)


@given(STEPS)
async def test_no_minute_has_more_than_a_tenants_limits(
    steps: list[tuple[int, float, float, float, bool]],
) -> None:
    """However many processes lease, wait and give back."""
    clock = FakeClock()
    owner = TenantLimits(clock)
    leases = [TenantLease(owner, clock) for _ in range(3)]
    tenant = Tenant("t", rpm=20, tpm=500, usd_per_day=Decimal(1))
    let_in: list[tuple[float, float]] = []
    spent = Decimal(0)

    for which, wait_s, tokens, share, _ in steps:
        clock.advance(wait_s)
        taken = Need(1, tokens, Decimal("0.01"))
        try:
            await leases[which].take(tenant, taken)
        except Refusal:
            continue
        used = Need(1, tokens * min(share, 1.0), Decimal("0.005"))
        let_in.append((clock.now, used.tokens))
        spent += used.usd
        leases[which].settle(tenant, taken, used)

    for start_s, _ in let_in:
        minute = [tokens for at, tokens in let_in if start_s <= at < start_s + 60]
        assert len(minute) <= 20
        assert sum(minute) <= 500 + 1e-6
    assert spent <= 1


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
    await lease.take(tenant, taken)

    lease.settle(tenant, taken, NOTHING._replace(requests=1, tokens=10.0))

    await lease.take(tenant, taken)


async def test_the_days_spend_outlives_its_owner(tmp_path: Path, clock: FakeClock) -> None:
    tenant = Tenant("t", usd_per_day=Decimal(1))
    first = KeptLimits(str(tmp_path), clock)
    await first.lease(tenant, Need(1, 0.0, Decimal("0.9")), NOTHING)
    await asyncio.sleep(1.2)

    verdict = await KeptLimits(str(tmp_path), clock).lease(
        tenant, Need(1, 0.0, Decimal("0.2")), NOTHING
    )

    assert verdict.granted is None
    assert verdict.limit == "usd_per_day"
