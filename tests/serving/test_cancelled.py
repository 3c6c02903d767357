"""Clients that leave at any moment: nothing of a slot, a connection or a tenant's money is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from moa.cluster.meters import Tally
from moa.dispatch import breaker
from moa.errors import Refusal
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.serving.calls import Caller
from moa.serving.chat_wire import Asked
from moa.serving.config import CallsConfig
from moa.serving.endpoint import Endpoint
from moa.serving.http_app import make_app
from moa.serving.process import base_urls, open_endpoint
from moa.serving.setup import check_endpoint
from moa.serving.tenant_lease import TenantLease
from moa.serving.tenant_limits import NOTHING, Need, Returned, TenantLimits, Verdict
from moa.serving.tenants import Tenant, Tenants
from tests.conftest import FakeClock
from tests.serving.conftest import ROOT, STRAIGHT, config_of

HELLO: Any = [{"role": "user", "content": "Hello"}]
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

    async def ask_all(self) -> None:
        """A request to each model, whether it is answered or not."""
        chat = ChatRequest.model_validate({"messages": HELLO})
        for name in self.endpoint.setup.pool:
            await self.ask(Asked(name, chat, False, False, 1, False))

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
    provider_server.set_script({"synthetic": True})
    owner, tally = Elsewhere(), Tally()
    config = config_of("feedback.folder=", f"query_log.folder={tmp_path}", "calls.patience_s=4")
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
    await storm.ask_all()  # until an account has answered once, one call is out to it

    for _ in range(6):
        leaving = (
            storm.leave(asked_at_random(random), random.expovariate(15), random.randrange(12))
            for _ in range(40)
        )
        await asyncio.gather(*leaving)
    caller = storm.endpoint.caller
    await storm.ask_all()  # whoever left holds up nobody

    assert storm.let_in > 150, "the storm is one"
    assert storm.tally.total("moa_clients_left") > 50
    await _until(lambda: caller.in_flight() == 0)
    assert set(caller.waiting().values()) == {0}
    await storm.endpoint.close()
    assert float(storm.owner.spent()[TENANT.name]) == pytest.approx(
        storm.tally.total("moa_cost_usd"), abs=1e-9
    )
    fates = [call["fate"] for call in await asyncio.to_thread(provider_server.ledger)]
    assert fates.count("client_left") > 20
    assert "in_flight" not in fates


async def test_an_answer_that_nobody_took_is_billed_all_the_same(
    storm: Storm, provider_server: ReplayServer
) -> None:
    endpoint = storm.endpoint
    chat = ChatRequest.model_validate({"messages": HELLO})
    inquiry = await endpoint.begin(TENANT, Asked(STRAIGHT, chat, False, False, 3, False))

    async with aclosing(endpoint.pieces(inquiry)) as pieces:
        await anext(pieces)
        await _until(lambda: all(course.completion for course in inquiry.courses))

    (first, *_) = usages = [one.usage for one in inquiry.completions.values()]
    assert len(usages) == 3
    assert endpoint.lost_usd(inquiry) == 0
    one_usd = endpoint.setup.prices.cost_usd(
        STRAIGHT, "live", input_tokens=first.input_tokens, output_tokens=first.output_tokens
    )
    assert storm.tally.total("moa_cost_usd") == pytest.approx(float(3 * one_usd), rel=0.2)


async def test_who_has_left_a_line_holds_no_place_in_it(
    storm: Storm, provider_server: ReplayServer
) -> None:
    step = {"status": 429, "retry_after_s": 3}
    provider_server.set_script({"synthetic": True, "sequences": {"openai": [step]}})
    chat = ChatRequest.model_validate({"messages": HELLO})
    asked = Asked(STRAIGHT, chat, False, False, 1, False)
    caller = storm.endpoint.caller
    paused = asyncio.create_task(storm.ask(asked))  # waits, and asks again
    await _until(lambda: storm.let_in == 1 and len(provider_server.ledger()) == 1)

    waiting = [asyncio.create_task(storm.ask(asked)) for _ in range(5)]
    await _until(lambda: caller.waiting()[STRAIGHT] == 5)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)

    assert caller.waiting()[STRAIGHT] == 1, "the line's head alone"
    await paused
    assert caller.waiting()[STRAIGHT] == 0


async def test_a_probe_whose_client_leaves_lets_another_find_out(
    storm: Storm, provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_S", 0.3)
    await storm.endpoint.caller.close()
    storm.endpoint.caller = Caller(
        storm.endpoint.setup.providers({}), storm.endpoint.setup.models, CallsConfig(max_attempts=1)
    )
    chat = ChatRequest.model_validate({"messages": HELLO})
    asked = Asked(STRAIGHT, chat, False, False, 1, False)
    steps = [{"status": 500}] * breaker.OPENS_AFTER + [{"kind": "hang"}]
    provider_server.set_script({"synthetic": True, "sequences": {"openai": steps}})
    for _ in range(breaker.OPENS_AFTER):
        await storm.ask(asked)

    probe = asyncio.create_task(storm.ask(asked))
    await _until(lambda: len(provider_server.ledger()) == len(steps))
    probe.cancel()
    await asyncio.wait({probe})

    async with asyncio.timeout(5):
        inquiry = await storm.endpoint.begin(TENANT, asked)
        await storm.endpoint.whole(inquiry)
    assert inquiry.completions[0].text


async def test_a_stream_that_cannot_even_begin_to_be_sent_ends_its_call(
    storm: Storm, provider_server: ReplayServer
) -> None:
    provider_server.set_script({"synthetic": True, "latency": {"per_output_token_s": 0.1}})
    app = make_app(lambda: storm.endpoint, lambda: Tenants({}, is_open=True))
    path, asked = "/v1/chat/completions", {"model": STRAIGHT, "messages": HELLO, "stream": True}
    body = {"type": "http.request", "body": orjson.dumps(asked)}
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

    async def receive() -> Any:  # noqa: ANN401 - a message
        if body:
            message = dict(body)
            body.clear()
            return message
        return await asyncio.Future()

    async def send(message: Any) -> None:  # noqa: ANN401 - a message
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await app(scope, receive, send)

    await _until(lambda: storm.endpoint.caller.in_flight() == 0)
    assert storm.tally.total("moa_clients_left") == 1


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
