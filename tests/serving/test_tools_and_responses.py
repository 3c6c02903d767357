"""Tools, images and refusals through each vendor's format, and OpenAI's responses."""

from __future__ import annotations

from typing import Any

import pytest

from moa.catalog import Wire
from tests.providers.dialects import Dialect
from tests.providers.vendor_server import Scripted, VendorServer
from tests.serving.conftest import ASKED, MODELS, WEATHER, Serving


async def test_a_tool_is_called_and_its_result_sent_back(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(dialect.tool_call("weather", {"city": "Paris"}), dialect.ok("Sunny"))
    tools: Any = [{"type": "function", "function": WEATHER}]
    create = vendor_served.client.chat.completions.create

    first = await create(model=MODELS[wire], messages=ASKED, tools=tools)
    call: Any = (first.choices[0].message.tool_calls or [])[0]
    turns = [
        *ASKED,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = await create(model=MODELS[wire], messages=turns, tools=tools)

    assert first.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Paris"}')
    assert second.choices[0].message.content == "Sunny"
    assert dialect.tool_round(vendor.requests[-1].body)[1] == "sunny"


async def test_responses_call_tools_too(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(dialect.tool_call("weather", {"city": "Paris"}), dialect.ok("Sunny"))
    tools: Any = [{"type": "function", "strict": None, **WEATHER}]
    create = vendor_served.client.responses.create

    first = await create(model=MODELS[wire], input=ASKED, tools=tools)
    call: Any = next(item for item in first.output if item.type == "function_call")
    turns: Any = [
        *ASKED,
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    second = await create(model=MODELS[wire], input=turns, tools=tools)

    assert (call.name, call.arguments) == ("weather", '{"city":"Paris"}')
    assert (second.status, second.output_text) == ("completed", "Sunny")
    assert dialect.tool_round(vendor.requests[-1].body)[1] == "sunny"


async def test_a_response_streams_what_it_says_whole(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(Scripted(events=dialect.stream("Sun", "ny")))

    async with vendor_served.client.responses.stream(
        model=MODELS[wire], input="Weather?"
    ) as stream:
        deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        whole = await stream.get_final_response()

    assert deltas == ["Sun", "ny"]
    assert whole.output_text == "Sunny"
    assert whole.usage is not None
    assert whole.usage.total_tokens > 0


async def test_a_stream_that_breaks_fails_the_response(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    events = dialect.stream("Sun", "ny")
    vendor.script(Scripted(events=events, cut_after=len(events) - 2))

    stream = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Weather?", stream=True
    )
    kinds = [event.type async for event in stream]

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.failed"


async def test_a_refusal_is_a_refusal(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(dialect.refusal())

    chat = await vendor_served.client.chat.completions.create(model=MODELS[wire], messages=ASKED)
    response = await vendor_served.client.responses.create(model=MODELS[wire], input="Weather?")

    part: Any = response.output[0].content[0]  # type: ignore[union-attr, index]
    assert chat.choices[0].message.refusal
    assert part.type == "refusal"


async def test_what_the_client_sends_as_headers_goes_to_no_vendor(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(dialect.ok("Hi"))

    await vendor_served.client.with_options(
        default_headers={"X-Secret": "mine", "OpenAI-Organization": "org-mine"}
    ).chat.completions.create(model=MODELS[wire], messages=ASKED, user="ann@example.org")

    (seen,) = vendor.requests
    assert "mine" not in str(seen.headers)
    assert "sk-test" not in str(seen.headers)
    assert "ann@example.org" not in str(seen.body)


async def test_an_image_goes_to_the_vendor_as_it_came(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(dialect.ok("A dot"))
    url = "data:image/png;base64,iVBORw0KGgo="
    content: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]

    answer = await vendor_served.client.chat.completions.create(
        model=MODELS[wire], messages=[{"role": "user", "content": content}]
    )

    assert answer.choices[0].message.content == "A dot"
    assert "iVBORw0KGgo=" in str(vendor.requests[0].body)


async def test_what_a_model_cannot_do_is_a_400_that_says_so(vendor_served: Serving) -> None:
    status, document, _ = await vendor_served.post(
        "/chat/completions",
        {"model": "anthropic/claude-3-haiku", "messages": ASKED, "seed": 1, "logprobs": True},
    )

    error: Any = document["error"]
    assert status == 400
    assert error["code"] == "unsupported_by_model"


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_the_demos_vendors_call_a_function_that_has_to_be_called(
    served: Serving, model: str, choice: object
) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    asked: Any = {"model": model, "messages": ASKED, "tools": tools, "tool_choice": choice}

    whole = await served.client.chat.completions.create(**asked)
    async with served.client.chat.completions.stream(**asked) as stream:
        streamed = await stream.get_final_completion()

    for answer in (whole, streamed):
        (call,) = answer.choices[0].message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", "{}")
        assert answer.choices[0].finish_reason == "tool_calls"
