from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import openai
import orjson
import pyarrow.parquet as pq
import pytest

from moa.errors import EngineError
from moa.replay.process import ReplayServer
from moa.serving import calls
from moa.serving.routing import Scored
from tests.serving.conftest import STRAIGHT, Serving

Start = Callable[..., Awaitable[Serving]]
HELLO: Any = [{"role": "user", "content": "What is the sum of the first ten primes?"}]


async def test_an_answer_says_who_really_ran_and_what_it_cost(served: Serving) -> None:
    raw = await served.client.chat.completions.with_raw_response.create(
        model="moa", messages=HELLO, extra_body={"moa": True}
    )

    answer = raw.parse()
    headers, said = raw.headers, answer.model_extra or {}
    assert answer.model == headers["x-moa-model"] == said["moa"]["model"]
    assert answer.choices[0].message.content
    assert answer.usage is not None
    price = served.endpoint.setup.prices.cost_usd(
        answer.model,
        "live",
        input_tokens=answer.usage.prompt_tokens,
        output_tokens=answer.usage.completion_tokens,
    )
    assert float(headers["x-moa-cost-usd"]) == pytest.approx(float(price), abs=1e-9)
    assert headers["x-moa-price-date"]
    assert headers["x-moa-rule"]
    assert 0 <= float(headers["x-moa-expected-grade"]) <= 1


async def test_a_stream_says_what_a_whole_answer_says(served: Serving) -> None:
    whole = await served.client.chat.completions.create(model=STRAIGHT, messages=HELLO)

    stream = await served.client.chat.completions.create(
        model=STRAIGHT, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_pieces_pass_on_as_they_come(served: Serving, provider_server: ReplayServer) -> None:
    provider_server.set_script({"synthetic": True, "latency": {"per_output_token_s": 0.01}})
    loop = asyncio.get_running_loop()
    started = loop.time()

    stream = await served.client.chat.completions.create(
        model=STRAIGHT, messages=HELLO, stream=True
    )
    at = [loop.time() - started async for _ in stream]

    assert at[0] < 0.7 * at[-1]


async def test_several_answers_come_whole_and_streamed(served: Serving) -> None:
    whole = await served.client.chat.completions.create(model="moa", messages=HELLO, n=2)
    stream = await served.client.chat.completions.create(
        model="moa", messages=HELLO, n=3, stream=True
    )
    seen = {choice.index async for chunk in stream for choice in chunk.choices}

    assert [choice.index for choice in whole.choices] == [0, 1]
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_of_several_models_are_said_to_be_so(
    served: Serving, provider_server: ReplayServer, stream: bool
) -> None:
    first = await served.client.chat.completions.create(model="moa", messages=HELLO)
    account = first.model.partition("/")[0]
    wire = "gemini" if account == "google" else account
    step = {"status": 500, "latency_s": 0.3}
    provider_server.set_script({"synthetic": True, "sequences": {wire: [step]}})

    ask = {"model": "moa", "messages": HELLO, "n": 2, "stream": stream, "moa": True}
    async with served.http.post(f"{served.base_url}/chat/completions", json=ask) as answer:
        text, headers = await answer.text(), answer.headers
    lines = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line]
    documents = [orjson.loads(line) for line in lines]
    told = documents[-1]["moa"]
    graded = {"completion_id": documents[0]["id"], "grade": 1.0}
    status, refused, _ = await served.post("/feedback", graded)

    assert first.model in told["models"]
    assert len(set(told["models"])) == 2
    assert headers["x-moa-model"].split(",") == told["models"]
    said: Any = refused["error"]
    assert (status, said["code"]) == (400, "several_models")
    if stream:
        by = {c["index"]: d["model"] for d in documents for c in d.get("choices") or ()}
        assert [by[0], by[1]] == told["models"]


async def test_a_preset_has_its_own_trade_off(served: Serving) -> None:
    answers = [
        await served.client.chat.completions.create(model=name, messages=HELLO)
        for name in ("moa:thrifty", "moa:careful")
    ]

    models = await served.client.models.list()
    assert {"moa", "moa:thrifty", "moa:careful"} <= {model.id for model in models.data}
    assert all(answer.choices[0].message.content for answer in answers)
    assert (await served.client.models.retrieve(STRAIGHT)).owned_by == "openai"


async def test_a_vendor_that_breaks_before_the_first_piece_is_replaced(
    served: Serving, provider_server: ReplayServer
) -> None:
    first = await served.client.chat.completions.create(model="moa", messages=HELLO)
    account = first.model.partition("/")[0]
    wire = "gemini" if account == "google" else account
    outage = {"provider": wire, "to_s": 3600, "step": {"status": 500}}
    provider_server.set_script({"synthetic": True, "outages": [outage]})

    raw = await served.client.chat.completions.with_raw_response.create(
        model="moa", messages=HELLO, extra_body={"moa": True}
    )
    stream = await served.client.chat.completions.create(model="moa", messages=HELLO, stream=True)
    text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    assert not raw.headers["x-moa-model"].startswith(account)
    assert raw.headers["x-moa-first-model"] == first.model
    assert (raw.parse().model_extra or {})["moa"]["failures"]
    assert text
    assert served.tally.total("moa_fallbacks") >= 1


async def test_a_vendor_that_breaks_in_a_stream_ends_it_with_an_error(
    served: Serving, provider_server: ReplayServer
) -> None:
    step = {"kind": "reset", "after": 0.5}
    provider_server.set_script({"synthetic": True, "sequences": {"openai": [step]}})

    stream = await served.client.chat.completions.create(
        model=STRAIGHT, messages=HELLO, stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pass

    assert "has answered" in caught.value.message


async def test_a_model_named_straight_is_asked_again_and_never_replaced(
    served: Serving, provider_server: ReplayServer
) -> None:
    step = {"kind": "error", "status": 503}
    provider_server.set_script({"synthetic": True, "sequences": {"openai": [step]}})

    answer = await served.client.chat.completions.create(model=STRAIGHT, messages=HELLO)

    assert answer.model == STRAIGHT
    assert len(provider_server.ledger()) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_seen_upstream(
    served: Serving, provider_server: ReplayServer, stream: bool
) -> None:
    provider_server.set_script(
        {"synthetic": True, "latency": {"median_s": 0.3, "per_output_token_s": 0.1}}
    )
    begun = asyncio.Event()
    asking = asyncio.create_task(_ask(served, stream, begun))
    await _until(lambda: bool(provider_server.ledger()))
    if stream:
        await asyncio.wait_for(begun.wait(), 10)

    asking.cancel()

    await _until(lambda: provider_server.ledger()[0]["fate"] == "client_left")
    await _until(lambda: served.endpoint.caller.in_flight() == 0)
    assert served.tally.total("moa_clients_left") == 1
    assert served.tally.total("moa_cost_usd") > 0
    provider_server.set_script({"synthetic": True})
    assert await served.client.chat.completions.create(model=STRAIGHT, messages=HELLO)


async def _ask(served: Serving, stream: bool, begun: asyncio.Event) -> None:
    document = {"model": STRAIGHT, "messages": HELLO, "stream": stream}
    async with served.http.post(f"{served.base_url}/chat/completions", json=document) as answer:
        async for _ in answer.content:
            begun.set()


async def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.05)


async def test_too_many_requests_are_refused_at_once(
    start: Start, provider_server: ReplayServer
) -> None:
    served = await start("serve.max_ongoing=2")
    provider_server.set_script({"synthetic": True, "latency": {"median_s": 0.5}})

    ask = served.client.chat.completions.create
    answers = await asyncio.gather(
        *(ask(model=STRAIGHT, messages=HELLO) for _ in range(6)), return_exceptions=True
    )

    refused = [a for a in answers if isinstance(a, openai.InternalServerError)]
    assert len(refused) == 4
    assert all(one.status_code == 503 and one.response.headers["retry-after"] for one in refused)
    assert await ask(model=STRAIGHT, messages=HELLO)


async def test_a_conversation_stays_with_the_model_that_began_it(start: Start) -> None:
    served = await start("stickiness.mode=always")
    first = await served.client.chat.completions.create(model="moa:thrifty", messages=HELLO)
    said = first.choices[0].message.model_dump(exclude_none=True)

    turns = [*HELLO, said, {"role": "user", "content": "Yes."}]
    again = await served.client.chat.completions.create(model="moa:careful", messages=turns)

    assert again.model == first.model


async def test_feedback_becomes_a_graded_outcome(served: Serving, tmp_path: Path) -> None:
    answer = await served.client.chat.completions.create(model="moa", messages=HELLO)

    status, _, _ = await served.post("/feedback", {"completion_id": answer.id, "thumb": "up"})
    forged = answer.id[:-1] + ("A" if answer.id[-1] != "A" else "B")
    refused, _, _ = await served.post("/feedback", {"completion_id": forged, "grade": 0})

    table = pq.read_table(tmp_path / "feedback/graded_outcomes.parquet")
    assert (status, refused) == (200, 404)
    assert table.column("grade").to_pylist() == [1.0]
    assert table.column("model").to_pylist() == [answer.model]


async def test_routes_are_told_without_a_call(
    served: Serving, provider_server: ReplayServer
) -> None:
    queries = [{"messages": HELLO}, {"messages": [{"role": "user", "content": "Hi"}]}]

    status, document, _ = await served.post("/route", {"queries": queries})

    data: Any = document["data"]
    assert status == 200
    assert [one["index"] for one in data] == [0, 1]
    assert data[0]["model"] in data[0]["expected_grade"]
    assert provider_server.ledger() == []


async def test_an_account_that_was_refused_is_tried_again(
    served: Serving, provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ACCOUNT_AGAIN_S", 0.5)
    ask = {"model": STRAIGHT, "messages": HELLO}
    await served.post("/chat/completions", ask)
    step = {"status": 429, "quota": "spend"}
    provider_server.set_script({"synthetic": True, "sequences": {"openai": [step]}})

    refused = [await served.post("/chat/completions", ask) for _ in range(2)]
    asked = len(provider_server.ledger())
    account = served.endpoint.caller._accounts["openai"]
    await _until(lambda: account.refused is None)
    again, _, _ = await served.post("/chat/completions", ask)

    assert [status for status, _, _ in refused] == [503, 503]
    assert all(headers["retry-after"] == "60" for _, _, headers in refused)
    assert asked == 2, "the good one, and one that was refused"
    assert again == 200


class Out:
    """A router that is out."""

    version = "none"

    async def score(self, texts: Sequence[str]) -> Scored:
        raise EngineError("the engine died")


async def test_health_is_the_routers_and_not_that_there_is_little_to_do(start: Start) -> None:
    served = await start("serve.max_ongoing=1")
    url = served.base_url.removesuffix("/v1") + "/healthz"

    async def health() -> int:
        async with served.http.get(url) as answer:
            return answer.status

    many = await asyncio.gather(*(health() for _ in range(8)))
    served.endpoint.scorer = Out()

    assert many == [200] * 8
    assert await health() == 503
    assert (await served.post("/chat/completions", {"model": "moa", "messages": HELLO}))[0] == 200
