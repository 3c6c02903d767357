from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from pydantic import JsonValue

from moa.catalog import Account, Model, Wire
from moa.errors import (
    ConfigError,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_provider
from moa.providers.provider import Answer, Provider, Request
from moa.replay.process import ReplayServer, replay_server
from moa.request import ChatRequest
from tests.replay.asking import CATALOG, MODELS, QUERY, ask, complete, prompt, recorded


async def test_a_recorded_prompt_gets_its_recorded_answer(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    completion = (await complete(provider, ask(model))).completion

    real = recorded(model)
    (entry,) = provider_server.ledger()
    assert completion.text == real["completion"]
    assert completion.served_model == real["served_model"]
    assert completion.usage.input_tokens == real["input_tokens"]
    assert completion.usage.output_tokens == real["output_tokens"]
    assert (entry["query_id"], entry["model"], entry["status"]) == (QUERY, model.id, 200)
    assert (entry["input_tokens"], entry["output_tokens"]) == (
        real["input_tokens"], real["output_tokens"],
    )  # fmt: skip


async def test_a_streamed_answer_is_the_same(provider: Provider, model: Model) -> None:
    deltas = [delta async for delta in provider.stream(ask(model), timeout_s=20)]

    real = recorded(model)
    whole = deltas[-1].completion
    assert len(deltas) > 3
    assert whole is not None
    assert "".join(delta.text for delta in deltas) == whole.text == real["completion"]
    assert whole.usage.output_tokens == real["output_tokens"]


async def test_an_unknown_prompt_is_refused_unless_answers_may_be_invented(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    with pytest.raises(InvalidRequest, match="no recording"):
        await complete(provider, ask(model, "Nobody has asked this"))

    provider_server.set_script({"synthetic": True})
    one = (await complete(provider, ask(model, "Nobody has asked this"))).completion
    two = (await complete(provider, ask(model, "Nobody has asked this"))).completion

    assert one.text == two.text != ""


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ({"status": 500}, TransientError),
        ({"status": 503}, TransientError),
        ({"status": 400}, InvalidRequest),
        ({"status": 429, "retry_after_s": 2}, RateLimited),
        ("reset", TransientError),
        ({"kind": "reset", "after": 0.5}, TransientError),
        ("hang", TransientError),
        ("cut_json", TransientError),
    ],
)
async def test_a_fault_is_the_error_that_it_stands_for(
    provider_server: ReplayServer,
    provider: Provider,
    model: Model,
    account: Account,
    step: JsonValue,
    error: type[ProviderError],
) -> None:
    provider_server.set_script({"sequences": {account.wire: [step]}})

    with pytest.raises(error) as raised:
        await complete(provider, ask(model), timeout_s=1.5)
    after = await complete(provider, ask(model))

    if isinstance(raised.value, RateLimited):
        assert raised.value.retry_after_s == 2
    assert after.completion.text == recorded(model)["completion"]
    assert len(provider_server.ledger()) == 2


async def test_a_refused_key_and_a_spent_quota_are_what_they_are(
    provider_server: ReplayServer, provider: Provider, model: Model, account: Account
) -> None:
    provider_server.set_script({"refused_keys": ["key"]})
    with pytest.raises(KeyRefused):
        await complete(provider, ask(model))

    day = {"status": 429, "quota": "day", "retry_after_s": 3600}
    provider_server.set_script({"sequences": {account.wire: [day]}})
    with pytest.raises(QuotaSpent) as raised:
        await complete(provider, ask(model))

    assert raised.value.retry_after_s == 3600
    assert [entry["fate"] for entry in provider_server.ledger()] == ["error", "error"]
    assert provider_server.summary()["input_tokens"] == 0


async def test_refusals_and_cut_answers_are_answers(
    provider_server: ReplayServer, provider: Provider, model: Model, account: Account
) -> None:
    provider_server.set_script({"sequences": {account.wire: ["refusal", "length"]}})

    refusal = (await complete(provider, ask(model))).completion
    cut = (await complete(provider, ask(model))).completion

    assert refusal.refused
    assert not cut.refused
    assert cut.finish_reason == "length"


async def test_no_window_lets_more_through_than_the_limit(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    provider_server.set_script({"limits": {model.id: {"rpm": 600, "burst_s": 1}}})

    asked = [complete(provider, ask(model)) for _ in range(40)]
    results = await asyncio.gather(*asked, return_exceptions=True)

    refused = [r for r in results if isinstance(r, RateLimited)]
    arrivals = [entry["arrived_s"] for entry in provider_server.ledger()]
    peak = provider_server.summary(window_s=1.0)["peaks"][model.id]["requests"]
    filled = 10 * (max(arrivals) - min(arrivals))  # while they came, by 600 a minute
    assert 10 <= len(results) - len(refused) <= 10 + filled
    assert all(r.retry_after_s for r in refused)
    assert peak <= 10 + 10


async def test_a_stream_that_its_client_left_is_billed_as_far_as_it_went(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    provider_server.set_script({"latency": {"per_output_token_s": 0.02}})
    stream: Any = provider.stream(ask(model), timeout_s=20)
    await anext(stream)

    await stream.aclose()

    entry = await ended(provider_server)
    real = recorded(model)
    assert (entry["fate"], entry["status"]) == ("client_left", 200)
    assert entry["input_tokens"] == real["input_tokens"]
    assert 0 < entry["output_tokens"] < real["output_tokens"]


async def test_a_call_that_its_client_left_before_the_answer_is_not_billed(
    provider_server: ReplayServer, provider: Provider, model: Model
) -> None:
    provider_server.set_script({"latency": {"median_s": 20}})

    with pytest.raises(TransientError):
        await complete(provider, ask(model), timeout_s=0.3)

    entry = await ended(provider_server)
    assert (entry["fate"], entry["input_tokens"]) == ("client_left", 0)


async def ended(server: ReplayServer) -> dict[str, Any]:
    """The only call, once the server is done with it."""
    async with asyncio.timeout(10):
        while (entry := server.ledger()[0])["fate"] == "in_flight":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    return entry


async def test_a_mistake_of_the_servers_own_ends_its_call(provider_server: ReplayServer) -> None:
    """Seconds whose milliseconds are no float: it fails on the way to the header."""
    step = {"status": 429, "retry_after_s": 1e308}
    provider_server.set_script({"sequences": {"openai": [step]}})
    model = CATALOG.models[MODELS["openai"]]
    url = provider_server.base_url("openai")
    asked = open_provider(CATALOG.accounts["openai"], environ={"OPENAI_API_KEY": "k"}, base_url=url)

    with pytest.raises(TransientError):
        await complete(asked, ask(model))

    await asked.close()
    entry = await ended(provider_server)
    assert (entry["fate"], entry["status"]) == ("error", 500)


async def test_stream_options_of_another_type_are_refused(provider_server: ReplayServer) -> None:
    body = {
        "model": "gpt-4o",
        "stream": True,
        "stream_options": "all",
        "messages": [{"role": "user", "content": prompt()}],
    }

    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session,
        session.post(
            provider_server.base_url("openai") + "/chat/completions", json=body
        ) as response,
    ):
        assert response.status == 400

    assert provider_server.ledger()[0]["fate"] == "error"


async def test_an_answer_longer_than_the_limit_is_cut_there(
    provider: Provider, model: Model
) -> None:
    real = recorded(model)
    limit = real["output_tokens"] // 2
    chat = {"messages": [{"role": "user", "content": prompt()}], "max_output_tokens": limit}
    request = Request("q", ChatRequest.model_validate(chat), model)

    cut = (await complete(provider, request)).completion

    assert cut.finish_reason == "length"
    assert cut.usage.output_tokens == limit
    assert real["completion"].startswith(cut.text)
    assert 0 < len(cut.text) < len(real["completion"])


async def test_an_answer_within_the_limit_is_whole(provider: Provider, model: Model) -> None:
    real = recorded(model)
    limit = real["output_tokens"]
    chat = {"messages": [{"role": "user", "content": prompt()}], "max_output_tokens": limit}
    request = Request("q", ChatRequest.model_validate(chat), model)

    whole = (await complete(provider, request)).completion

    assert (whole.text, whole.finish_reason) == (real["completion"], "stop")


@pytest.mark.parametrize("script", ["{", "[]", '"fast"'])
async def test_a_script_that_is_no_json_object_is_refused(
    provider_server: ReplayServer, script: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(provider_server.url + "/control/script", data=script) as response,
    ):
        assert response.status == 400
        assert "no JSON" in await response.text()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_script_file_that_cannot_be_used_is_told_in_a_line(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "script.json"
    if content is not None:
        path.write_text(content)

    ended = subprocess.run(
        [sys.executable, "-m", "moa.replay", "--script", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("moa.replay: ")
    assert len(ended.stderr.splitlines()) == 1


def faults(server: ReplayServer, order: int) -> dict[str, list[str]]:
    """What each query met, when they are asked one after another in some order."""
    server.reset()
    server.set_script(
        {"seed": 3, "synthetic": True, "faults": {"status_500": 0.3, "cut_json": 0.2}}
    )

    async def ask_all() -> None:
        model = CATALOG.models["openai/gpt-4o"]
        account = CATALOG.accounts["openai"]
        url = server.base_url("openai")
        provider = open_provider(account, environ={"OPENAI_API_KEY": "k"}, base_url=url)
        for n in range(30)[::order]:
            for _ in range(2):
                await asyncio.gather(
                    complete(provider, ask(model, f"question {n}")), return_exceptions=True
                )
        await provider.close()

    asyncio.run(ask_all())
    met: dict[str, list[str]] = {}
    for entry in server.ledger():
        met.setdefault(entry["prompt"], []).append(entry["fate"])
    return met


def test_chance_depends_on_the_query_and_its_attempt_alone(provider_server: ReplayServer) -> None:
    there, back = faults(provider_server, 1), faults(provider_server, -1)

    fates = [fate for met in there.values() for fate in met]
    assert there == back
    assert 5 <= fates.count("error") <= 30
    assert 3 <= fates.count("cut_json") <= 24


@pytest.fixture
def starter() -> Iterator[subprocess.Popen[str]]:
    """A process that starts a server and waits."""
    code = (
        "from moa.replay.process import replay_server\n"
        "with replay_server() as server:\n"
        "    print(server.pid, flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_a_server_ends_with_whoever_started_it(starter: subprocess.Popen[str]) -> None:
    assert starter.stdout is not None
    server = psutil.Process(int(starter.stdout.readline()))

    os.kill(starter.pid, signal.SIGKILL)

    server.wait(timeout=10)
    assert not server.is_running()


def test_a_script_that_is_none_is_told_by_its_keys() -> None:
    with (
        pytest.raises(ConfigError, match="did you mean latency"),
        replay_server(script={"latncy": {}}),
    ):
        pass


def wires() -> list[Wire]:
    return ["openai", "anthropic", "gemini"]


async def test_a_vendors_outage_is_its_own(provider_server: ReplayServer) -> None:
    provider_server.set_script(
        {"outages": [{"provider": "anthropic", "to_s": 60, "step": {"status": 529}}]}
    )
    outcomes = {}
    for wire in wires():
        model = CATALOG.models[MODELS[wire]]
        account = CATALOG.accounts[model.provider]
        url = provider_server.base_url(wire)
        provider = open_provider(account, environ={account.api_key_env or "": "k"}, base_url=url)

        (outcome,) = await asyncio.gather(complete(provider, ask(model)), return_exceptions=True)

        outcomes[wire] = isinstance(outcome, Answer)
        await provider.close()
    assert outcomes == {"openai": True, "anthropic": False, "gemini": True}
