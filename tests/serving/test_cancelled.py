"""Clients that leave at any moment: nothing of a slot, a connection or a tenant's money is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from moa.errors import Refusal
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.serving.chat_wire import Asked
from moa.serving.endpoint import Endpoint
from moa.serving.metrics import Tally
from moa.serving.process import base_urls, open_endpoint
from moa.serving.setup import check_endpoint
from moa.serving.tenant_lease import TenantLease
from moa.serving.tenant_limits import NOTHING, Need, Returned, TenantLimits, Verdict
from moa.serving.tenants import Tenant
from tests.conftest import FakeClock
from tests.serving.conftest import ROOT, STRAIGHT, config_of

TENANT = Tenant("t", rpm=100_000, tpm=100_000_000, usd_per_day=Decimal(50))
ONE = Need(1, 0.0, Decimal("0.1"))


class Elsewhere(TenantLimits):
    """An owner that is asked over a network."""

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        await asyncio.sleep(0.001)
        verdict = await super().lease(tenant, needed, returned)
        await asyncio.sleep(0.001)
        return verdict


class Storm:
    """An endpoint, and all who ask it."""

    def __init__(self, endpoint: Endpoint, owner: Elsewhere, tally: Tally) -> None:
        self.endpoint = endpoint
        self.owner = owner
        self.tally = tally
        self.let_in = 0

    async def ask(self, asked: Asked) -> None:
        """A request from its beginning to its end."""
        with suppress(Refusal):
            inquiry = await self.endpoint.begin(TENANT, asked)
            self.let_in += 1
            if not asked.stream:
                await self.endpoint.whole(inquiry)
                return
            async with aclosing(self.endpoint.pieces(inquiry)) as pieces:
                async for _ in pieces:
                    await asyncio.sleep(0)

    async def leave(self, asked: Asked, after_s: float, after_steps: int) -> None:
        """The same, by a client that leaves after so long."""
        asking = asyncio.create_task(self.ask(asked))
        await asyncio.sleep(after_s)
        for _ in range(after_steps):
            await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


@pytest.fixture
async def storm(
    provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Storm]:
    monkeypatch.chdir(ROOT)
    owner, tally = Elsewhere(), Tally()
    config = config_of("feedback.folder=", f"query_log.folder={tmp_path}", "calls.patience_s=0.2")
    setup = check_endpoint(config, environ={})
    setup = setup.replayed(base_urls(setup, provider_server))
    endpoint = open_endpoint(setup, limits=owner, registry=tally, environ={})
    try:
        yield Storm(endpoint, owner, tally)
    finally:
        await endpoint.close()


def asked_at_random(random: Random) -> Asked:
    words = " ".join(random.choice(("sum", "prime", "ten", "why")) for _ in range(40))
    given: dict[str, Any] = {"messages": [{"role": "user", "content": words}]}
    model = random.choice(("moa", "moa:thrifty", STRAIGHT))
    n, stream = random.choice((1, 1, 2, 3)), random.random() < 0.5
    return Asked(model, ChatRequest.model_validate(given), stream, False, n, False)


FAULTS = {
    "status_500": 0.05, "status_503": 0.05, "reset": 0.05, "reset_in_body": 0.1, "cut_json": 0.05,
    "rate_limited": 0.02, "retry_after_s": 0.01,
}  # fmt: skip


async def test_whoever_leaves_whenever_no_slot_and_no_money_is_lost(
    storm: Storm, provider_server: ReplayServer
) -> None:
    latency = {"median_s": 0.01, "sigma": 1.0, "per_output_token_s": 0.0002}
    provider_server.set_script({"synthetic": True, "seed": 5, "latency": latency, "faults": FAULTS})
    random = Random(11)

    for _ in range(8):
        leaving = (
            storm.leave(asked_at_random(random), random.expovariate(40), random.randrange(12))
            for _ in range(40)
        )
        await asyncio.gather(*leaving)
    caller = storm.endpoint.caller
    provider_server.set_script({"synthetic": True})
    for name in storm.endpoint.setup.pool:  # whoever left holds up nobody
        chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hello"}]})
        await storm.ask(Asked(name, chat, False, False, 1, False))

    assert storm.let_in > 150, "the storm is one"
    assert storm.tally.total("moa_clients_left") > 50
    await _until(lambda: caller.in_flight() == 0)
    assert set(caller.waiting().values()) == {0}
    await storm.endpoint.close()
    assert float(storm.owner.spent()[TENANT.name]) == pytest.approx(
        storm.tally.total("moa_cost_usd"), abs=1e-9
    )
    fates = {call["fate"] for call in provider_server.ledger()}
    assert not fates & {"waiting", "under_way", None}


async def test_a_request_that_leaves_while_its_limits_are_asked_for_takes_nothing_along(
    clock: FakeClock,
) -> None:
    owner = Elsewhere(clock)
    lease = TenantLease(owner, clock)
    tenant = Tenant("t", usd_per_day=Decimal(1))
    taken = await lease.take(tenant, ONE)
    lease.settle(tenant, taken, ONE._replace(usd=Decimal("0.3")))
    for steps in range(6):
        leaving = asyncio.create_task(lease.take(tenant, ONE))
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            lease.settle(tenant, await leaving, NOTHING)

    await lease.close()

    assert owner.spent() == {"t": Decimal("0.3")}


class Away(TenantLimits):
    """An owner that is out for a while."""

    out = False

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        if self.out:
            raise Refusal("the owner does not answer", status=503)
        return await super().lease(tenant, needed, returned)


async def test_what_an_owner_was_told_while_it_was_out_is_told_again(clock: FakeClock) -> None:
    owner = Away(clock)
    lease = TenantLease(owner, clock)
    tenant = Tenant("t", usd_per_day=Decimal(1))
    taken = await lease.take(tenant, ONE)
    lease.settle(tenant, taken, ONE._replace(usd=Decimal("0.7")))
    clock.advance(2)
    owner.out = True
    with pytest.raises(Refusal, match="does not answer"):
        await lease.take(tenant, ONE)

    owner.out = False
    with pytest.raises(Refusal, match="a day"):
        await lease.take(tenant, ONE._replace(usd=Decimal("0.4")))

    assert owner.spent() == {"t": Decimal("0.7")}


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what ends tells nobody
            await asyncio.sleep(0.01)
