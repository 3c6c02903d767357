"""What the vendors answer when something is spent, and that their own clients know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types.shared import EnforcedSpendLimitReachedError
from google import genai
from google.genai.errors import APIError
from pydantic import JsonValue

from moa.catalog import Account, Model
from moa.errors import (
    AccountRefused,
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
)
from moa.providers.accounts import open_provider
from moa.providers.provider import Answer, Provider, Request, VendorLimits
from moa.replay.process import ReplayServer
from tests.replay.asking import CATALOG, MODELS, ask, complete

# google-genai makes a class of its own from aiohttp's, which aiohttp discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

DAY_S = 86_400
SPENT = {"status": 429, "quota": "spend"}
TOMORROW = {"status": 429, "quota": "day"}
FULL = {"status": 429, "quota": "flex"}


async def failed(provider: Provider, request: Request) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await complete(provider, request)
    return caught.value


async def test_a_days_requests_are_counted_and_not_filled_again(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    provider_server.set_script({"limits": {model.id: {"rpd": 3}}})

    answers = [await complete(provider, ask(model)) for _ in range(3)]
    errors = [await failed(provider, ask(model)) for _ in range(2)]

    assert all(isinstance(answer, Answer) for answer in answers)
    for error in errors:
        assert type(error) is QuotaSpent
        assert error.retry_after_s == pytest.approx(DAY_S, abs=60)
    peak = provider_server.summary(window_s=DAY_S)["peaks"][model.id]
    assert peak["requests"] == 3


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"rpm": 1, "rpd": 2}, RateLimited),
        ({"rpm": 600, "rpd": 1}, QuotaSpent),
        ({"rpm": 1, "rpd": 1}, QuotaSpent),
    ],
)
async def test_of_a_day_and_a_minute_the_longer_wait_is_named(
    provider_server: ReplayServer,
    provider: Provider,
    model: Model,
    limits: dict[str, JsonValue],
    kind: type[RateLimited],
) -> None:
    provider_server.set_script({"limits": {model.id: limits}})
    await complete(provider, ask(model))

    error = await failed(provider, ask(model))

    assert type(error) is kind
    assert error.retry_after_s is not None
    assert (error.retry_after_s > 60) == (kind is QuotaSpent)


async def test_headers_show_the_limit_of_which_less_is_left(
    provider_server: ReplayServer, provider: Provider, model: Model, account: Account
) -> None:
    provider_server.set_script({"limits": {model.id: {"rpm": 600, "rpd": 2, "tpm": 60_000}}})

    limits = (await complete(provider, ask(model))).limits()

    if account.wire == "gemini":
        assert limits == VendorLimits()
        return
    assert limits.requests is not None
    assert limits.tokens is not None
    assert (limits.requests.limit, limits.requests.remaining) == (2, 1)
    assert limits.requests.reset_s == pytest.approx(DAY_S, abs=60)
    assert limits.tokens.limit == 60_000


async def test_spent_money_stops_the_account(
    provider_server: ReplayServer, provider: Provider, model: Model, account: Account
) -> None:
    provider_server.set_script({"sequences": {account.wire: [SPENT]}})

    error = await failed(provider, ask(model))

    assert type(error) is AccountRefused


async def test_a_days_quota_says_so_by_itself(
    provider_server: ReplayServer, provider: Provider, model: Model, account: Account
) -> None:
    provider_server.set_script({"sequences": {account.wire: [TOMORROW]}})

    error = await failed(provider, ask(model))

    assert type(error) is QuotaSpent


@pytest.fixture(params=["openai", "gemini"])
def flex_model(request: pytest.FixtureRequest) -> Model:
    """A model of a vendor that has the lane."""
    return CATALOG.models[MODELS[request.param]]


@pytest.fixture
async def flex(provider_server: ReplayServer, flex_model: Model) -> AsyncIterator[Provider]:
    provider = opened(provider_server, flex_model, "key")
    yield provider
    await provider.close()


def opened(server: ReplayServer, model: Model, key: str) -> Provider:
    account = CATALOG.accounts[model.provider]
    environ = {account.api_key_env or "": key}
    return open_provider(account, environ=environ, base_url=server.base_url(account.wire))


async def test_flex_without_capacity_leaves_the_live_lane_as_it_is(
    provider_server: ReplayServer, flex: Provider, flex_model: Model
) -> None:
    provider_server.set_script({"flex_unavailable": 1.0, "limits": {flex_model.id: {"rpd": 1}}})

    errors = [await failed(flex, ask(flex_model, lane="flex")) for _ in range(2)]
    live = await complete(flex, ask(flex_model))

    assert {type(error) for error in errors} == {LaneUnavailable}
    assert live.completion.text
    assert [entry["input_tokens"] > 0 for entry in provider_server.ledger()] == [
        False, False, True,
    ]  # fmt: skip


async def test_flex_has_capacity_unless_it_is_said_to_have_none(
    provider_server: ReplayServer, flex: Provider, flex_model: Model
) -> None:
    wire = CATALOG.accounts[flex_model.provider].wire
    provider_server.set_script({"sequences": {wire: [FULL]}})

    error = await failed(flex, ask(flex_model, lane="flex"))
    answer = await complete(flex, ask(flex_model, lane="flex"))

    assert type(error) is LaneUnavailable
    assert answer.completion.text


async def test_chance_finds_room_in_flex_for_some_attempts(
    provider_server: ReplayServer, flex: Provider, flex_model: Model
) -> None:
    async def outcomes() -> list[bool]:
        provider_server.set_script({"seed": 5, "flex_unavailable": 0.5})
        asked = [ask(flex_model, lane="flex")] * 24
        met = [await asyncio.gather(complete(flex, a), return_exceptions=True) for a in asked]
        return [isinstance(outcome, Answer) for (outcome,) in met]

    once, again = await outcomes(), await outcomes()

    assert once == again
    assert 4 <= sum(once) <= 20


async def test_each_key_has_limits_of_its_own_and_a_number(provider_server: ReplayServer) -> None:
    model = CATALOG.models[MODELS["openai"]]
    provider_server.set_script({"limits": {model.id: {"rpm": 1, "burst_s": 120}}})
    accounts = [opened(provider_server, model, key) for key in ("one", "two")]

    asked = [complete(account, ask(model)) for account in accounts for _ in range(5)]
    results = await asyncio.gather(*asked, return_exceptions=True)

    for account in accounts:
        await account.close()
    summary, entries = provider_server.summary(), provider_server.ledger()
    passed = [entry["account"] for entry in entries if entry["status"] == 200]
    assert {entry["account"] for entry in entries} == {1, 2}
    assert sum(isinstance(result, Answer) for result in results) == len(passed)
    for number in (1, 2):
        assert summary["account_peaks"][str(number)][model.id]["requests"] == 2
    assert summary["peaks"][model.id]["requests"] == 4
    assert "one" not in str(entries)


async def openais_error(server: ReplayServer, **more: Any) -> openai.RateLimitError:  # noqa: ANN401
    """What the vendor's own client raises."""
    url = server.base_url("openai")
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], **more
            )
    return caught.value


async def test_openais_client_reads_what_is_spent(provider_server: ReplayServer) -> None:
    script = {"synthetic": True, "flex_unavailable": 1.0}
    provider_server.set_script({**script, "sequences": {"openai": [SPENT, TOMORROW]}})

    spent, tomorrow = await openais_error(provider_server), await openais_error(provider_server)
    full = await openais_error(provider_server, service_tier="flex")

    assert (spent.type, spent.code) == ("insufficient_quota", "organization_spend_limit_exceeded")
    assert "retry-after" not in spent.response.headers
    assert (tomorrow.type, tomorrow.code) == ("requests", "rate_limit_exceeded")
    assert tomorrow.response.headers["retry-after"] == str(DAY_S)
    assert full.code == "resource_unavailable"


async def test_openais_client_reads_a_day_from_the_headers(provider_server: ReplayServer) -> None:
    limits = {"openai": {"rpd": 1, "rpm": 600}}
    provider_server.set_script({"synthetic": True, "limits": limits})
    model = CATALOG.models[MODELS["openai"]]
    ours = opened(provider_server, model, "k")
    await complete(ours, ask(model, "Hi"))
    await ours.close()

    error = await openais_error(provider_server)

    headers = error.response.headers
    assert error.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].startswith("23h59m")
    assert int(headers["retry-after"]) == pytest.approx(DAY_S, abs=60)


async def anthropics_error(server: ReplayServer) -> anthropic.RateLimitError:
    url = server.base_url("anthropic")
    async with anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError) as caught:
            await client.messages.create(
                model=CATALOG.models[MODELS["anthropic"]].api_name,
                max_tokens=9,
                messages=[{"role": "user", "content": "Hi"}],
            )
    return caught.value


async def test_anthropics_client_reads_what_is_spent(provider_server: ReplayServer) -> None:
    provider_server.set_script({"synthetic": True, "sequences": {"anthropic": [SPENT, TOMORROW]}})

    spent = await anthropics_error(provider_server)
    tomorrow = await anthropics_error(provider_server)

    assert isinstance(spent, EnforcedSpendLimitReachedError)
    assert "retry-after" not in spent.response.headers
    assert (tomorrow.type, tomorrow.error_code) == ("rate_limit_error", None)
    assert tomorrow.response.headers["retry-after"] == str(DAY_S)


async def geminis_error(server: ReplayServer, tier: str | None = None) -> APIError:
    config: Any = {"service_tier": tier} if tier else None
    options: Any = {"base_url": server.base_url("gemini")}
    client = genai.Client(api_key="k", http_options=options)
    with pytest.raises(APIError) as caught:
        await client.aio.models.generate_content(
            model="gemini-1.5-pro-002", contents="Hi", config=config
        )
    await client.aio.aclose()
    return caught.value


async def test_geminis_client_reads_what_is_spent(provider_server: ReplayServer) -> None:
    script = {"synthetic": True, "flex_unavailable": 1.0}
    provider_server.set_script({**script, "sequences": {"gemini": [SPENT, TOMORROW]}})

    spent, tomorrow = await geminis_error(provider_server), await geminis_error(provider_server)
    full = await geminis_error(provider_server, "flex")

    assert (spent.code, spent.status) == (402, "RESOURCE_EXHAUSTED")
    assert (tomorrow.code, tomorrow.status) == (429, "RESOURCE_EXHAUSTED")
    (failure, retry) = tomorrow.details["error"]["details"]
    assert failure["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel"
    assert retry["retryDelay"] == f"{DAY_S}s"
    assert (full.code, full.status) == (503, "UNAVAILABLE")
