"""What vendors stream besides text arrives as it comes: calls, refusals, log probabilities."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest

from moa.catalog import Wire
from tests.providers.dialects import AnthropicDialect, Dialect, GeminiDialect, OpenAIDialect
from tests.providers.vendor_server import Scripted, VendorServer
from tests.serving.conftest import ASKED, MODELS, WEATHER, Serving

AFTER_CALL: dict[Wire, int] = {"openai": 3, "anthropic": 3, "gemini": 1}
"""Events that a vendor sends when the call is complete."""
ARGUMENTS = ('{"city": ', '"Paris"}')
CHAT_TOOLS: Any = [{"type": "function", "function": WEATHER}]
TOOLS: Any = [{"type": "function", "strict": None, **WEATHER}]


async def test_a_chats_call_comes_while_the_vendor_is_still_at_it(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    events = dialect.tool_stream(*ARGUMENTS)
    vendor.script(Scripted(events=events, cut_after=len(events) - AFTER_CALL[wire], hang=True))

    stream = await vendor_served.client.chat.completions.create(
        model=MODELS[wire], messages=ASKED, tools=CHAT_TOOLS, stream=True
    )
    first, said = None, ""
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            first = first or call
            said += (call.function and call.function.arguments) or ""
        if said.endswith("}"):
            break
    await stream.close()

    assert first is not None
    assert first.function is not None
    assert (first.index, first.type, first.function.name) == (0, "function", "weather")
    assert first.id
    assert orjson.loads(said) == {"city": "Paris"}


async def test_a_responses_call_comes_while_the_vendor_is_still_at_it(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    events = dialect.tool_stream(*ARGUMENTS)
    vendor.script(Scripted(events=events, cut_after=len(events) - AFTER_CALL[wire], hang=True))

    stream = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Weather?", tools=TOOLS, stream=True
    )
    said, kinds = "", []
    async for event in stream:
        kinds.append(event.type)
        if event.type == "response.function_call_arguments.delta":
            said += event.delta
        if said.endswith("}"):
            break
    await stream.close()

    assert "response.output_item.added" in kinds
    assert orjson.loads(said) == {"city": "Paris"}


async def test_the_pieces_of_a_chats_call_are_the_call(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(Scripted(events=dialect.tool_stream(*ARGUMENTS)))

    async with vendor_served.client.chat.completions.stream(
        model=MODELS[wire], messages=ASKED, tools=CHAT_TOOLS
    ) as stream:
        final = await stream.get_final_completion()

    (call,) = final.choices[0].message.tool_calls or []
    assert final.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert orjson.loads(call.function.arguments) == {"city": "Paris"}


async def test_the_pieces_of_a_responses_call_are_the_call(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    vendor.script(Scripted(events=dialect.tool_stream(*ARGUMENTS)))

    async with vendor_served.client.responses.stream(
        model=MODELS[wire], input="Weather?", tools=TOOLS
    ) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()

    said = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    (item,) = final.output
    assert item.type == "function_call"
    assert "".join(said) == done.arguments == item.arguments
    assert (item.name, done.name, item.status) == ("weather", "weather", "completed")


async def test_after_a_piece_of_a_call_no_other_model_is_asked(
    vendor_served: Serving, vendor: VendorServer, dialect: Dialect, wire: Wire
) -> None:
    events = dialect.begun_tool_call()
    vendor.script(Scripted(events=events, cut_after=len(events)))

    stream = await vendor_served.client.chat.completions.create(
        model=MODELS[wire], messages=ASKED, tools=CHAT_TOOLS, stream=True
    )
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass

    assert len(vendor.requests) == 1


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
async def test_text_and_a_cut_call_are_items_of_an_incomplete_response(
    vendor_served: Serving, vendor: VendorServer, wire: Wire
) -> None:
    dialect = AnthropicDialect()
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"ci'}
    events = (
        *dialect.stream("I look.")[:4],
        dialect.event("content_block_start", index=1, content_block=block),
        dialect.event("content_block_delta", index=1, delta=delta),
        dialect.event(
            "message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 5}
        ),
        dialect.event("message_stop"),
    )
    vendor.script(Scripted(events=events))

    stream = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Weather?", tools=TOOLS, stream=True
    )
    last: Any = [event async for event in stream][-1]

    message, call = last.response.output
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert (message.content[0].text, message.status) == ("I look.", "incomplete")
    assert (call.arguments, call.status) == ('{"ci', "incomplete")


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
async def test_a_refusal_after_words_cuts_the_response(
    vendor_served: Serving, vendor: VendorServer, wire: Wire
) -> None:
    dialect = AnthropicDialect()
    refused = {"stop_reason": "refusal", "stop_sequence": None}
    events = (
        *dialect.stream("Well,")[:5],
        dialect.event("message_delta", delta=refused, usage={"output_tokens": 5}),
        dialect.event("message_stop"),
    )
    vendor.script(Scripted(events=events))

    stream = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Hm?", stream=True
    )
    last: Any = [event async for event in stream][-1]

    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "content_filter"
    assert last.response.output_text == "Well,"


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
async def test_a_refusal_comes_in_pieces_of_a_refusal(
    vendor_served: Serving, vendor: VendorServer, wire: Wire
) -> None:
    dialect = OpenAIDialect()
    words = [dialect.delta({"refusal": text}) for text in ("I ", "can't.")]
    vendor.script(Scripted(events=(*words, *dialect.stream()[1:])))

    chat = await vendor_served.client.chat.completions.create(
        model=MODELS[wire], messages=ASKED, stream=True
    )
    chunks = [chunk.choices[0].delta async for chunk in chat]
    response = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Hm?", stream=True
    )
    events: list[Any] = [event async for event in response]

    assert [delta.refusal for delta in chunks if delta.refusal] == ["I ", "can't."]
    assert not any(delta.content for delta in chunks)
    assert [e.delta for e in events if e.type == "response.refusal.delta"] == ["I ", "can't."]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output[0].content[0].refusal == "I can't."


@pytest.mark.parametrize("wire", ["openai", "gemini"], indirect=True)
async def test_log_probabilities_come_with_their_pieces(
    vendor_served: Serving, vendor: VendorServer, wire: Wire
) -> None:
    vendor.script(Scripted(events=_with_logprobs(wire)))

    chat = await vendor_served.client.chat.completions.create(
        model=MODELS[wire], messages=ASKED, stream=True, logprobs=True, top_logprobs=1
    )
    chunks = [chunk.choices[0] async for chunk in chat if chunk.choices]
    response = await vendor_served.client.responses.create(
        model=MODELS[wire], input="Hm?", stream=True, include=["message.output_text.logprobs"],
        top_logprobs=1,
    )  # fmt: skip
    events: list[Any] = [event async for event in response]

    told = [(c.delta.content, c.logprobs.content) for c in chunks if c.logprobs]
    assert [(text, [one.token for one in of or ()]) for text, of in told] == [
        ("Sun", ["Sun"]),
        ("ny", ["ny"]),
    ]
    deltas = [e for e in events if e.type == "response.output_text.delta"]
    assert [[one.token for one in e.logprobs] for e in deltas] == [["Sun"], ["ny"]]
    (part,) = events[-1].response.output[0].content
    assert [one.token for one in part.logprobs] == ["Sun", "ny"]
    assert [one.top_logprobs[0].logprob for one in part.logprobs] == [-0.5, -0.5]


def _with_logprobs(wire: Wire) -> tuple[bytes, ...]:
    if wire == "gemini":
        return tuple(map(_gemini_piece, ("Sun", "ny"))) + GeminiDialect().stream()
    dialect, pieces = OpenAIDialect(), []
    for text in ("Sun", "ny"):
        token = {"token": text, "logprob": -0.5, "bytes": None}
        logprobs = {"content": [{**token, "top_logprobs": [token]}], "refusal": None}
        choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs}
        pieces.append(dialect.chunk([choice]))
    return (*pieces, *dialect.stream()[1:])


def _gemini_piece(text: str) -> bytes:
    document = GeminiDialect().document([{"text": text}], None)
    token = {"token": text, "logProbability": -0.5}
    document["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [token],
        "topCandidates": [{"candidates": [token]}],
    }
    return b"data: " + orjson.dumps(document) + b"\n\n"
