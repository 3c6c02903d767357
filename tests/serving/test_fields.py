"""Every field of OpenAI's SDK is passed on, taken for what it is, or refused: none is dropped.

A newer SDK with a field more fails here until somebody has said what becomes of it.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types import chat as chat_types
from openai.types import responses as response_types
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.responses.response_includable import ResponseIncludable
from openai.types.responses.response_input_item_param import (
    FunctionCallOutput,
    ResponseInputItemParam,
)
from openai.types.shared_params import FunctionDefinition, Reasoning

from moa.errors import Refusal
from moa.providers.openai_request import request_document
from moa.providers.provider import Request
from moa.serving.chat_wire import Asked, read_chat
from moa.serving.config import HttpConfig
from moa.serving.response_frames import ResponseFrame
from moa.serving.responses_wire import read_response
from tests.providers.dialects import DIALECTS

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {}}
FORMAT = {"name": "answer", "schema": SCHEMA, "strict": True}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NAMED = {"type": "function", "function": {"name": "f"}}

PASSED: dict[str, tuple[object, str, object]] = {
    "messages": ([USER], "messages", [USER]),
    "frequency_penalty": (0.5, "frequency_penalty", 0.5),
    "logprobs": (True, "logprobs", True),
    "max_completion_tokens": (9, "max_completion_tokens", 9),
    "max_tokens": (9, "max_completion_tokens", 9),
    "parallel_tool_calls": (False, "parallel_tool_calls", False),
    "presence_penalty": (0.5, "presence_penalty", 0.5),
    "reasoning_effort": ("low", "reasoning_effort", "low"),
    "response_format": (
        {"type": "json_schema", "json_schema": FORMAT},
        "response_format",
        {"type": "json_schema", "json_schema": FORMAT},
    ),
    "seed": (7, "seed", 7),
    "stop": ("x", "stop", ["x"]),
    "temperature": (0.5, "temperature", 0.5),
    "tool_choice": (NAMED, "tool_choice", NAMED),
    "tools": ([{"type": "function", "function": FUNCTION}], "tools", [
        {"type": "function", "function": FUNCTION}]),
    "top_logprobs": (2, "top_logprobs", 2),
    "top_p": (0.5, "top_p", 0.5),
}  # fmt: skip
"""Field of chat completions → a value, and what OpenAI's adapter sends for it."""
BESIDE: dict[str, dict[str, Any]] = {"top_logprobs": {"logprobs": True}}
"""What a field needs beside it."""
OURS = ("model", "n", "stream", "stream_options")
"""Heeded by the endpoint itself; tested with its answers."""
OF_CALLER: dict[str, object] = {
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "user": "u",
}
"""Says something of the caller: taken, and told to no vendor."""
ONE_WAY: dict[str, tuple[object, object]] = {
    "logit_bias": ({}, {"5": 1}),
    "modalities": (["text"], ["text", "audio"]),
    "service_tier": ("auto", "priority"),
    "store": (False, True),
    "verbosity": ("medium", "high"),
}
"""Taken when it asks for what is done anyway (the first value), else refused (the second)."""
REFUSED: dict[str, object] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "moderation": {"model": "omni"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "explicit"},
    "web_search_options": {},
}

RESPONSE_PASSED: dict[str, tuple[object, str, object]] = {
    "input": ([USER], "messages", [USER]),
    "instructions": ("Be brief.", "messages", [{"role": "system", "content": "Be brief."}, USER]),
    "max_output_tokens": (9, "max_completion_tokens", 9),
    "include": (["message.output_text.logprobs"], "logprobs", True),
    "parallel_tool_calls": (False, "parallel_tool_calls", False),
    "reasoning": ({"effort": "low"}, "reasoning_effort", "low"),
    "temperature": (0.5, "temperature", 0.5),
    "text": ({"format": {"type": "json_schema", **FORMAT}}, *PASSED["response_format"][1:]),
    "tool_choice": ({"type": "function", "name": "f"}, "tool_choice", NAMED),
    "tools": ([{"type": "function", **FUNCTION}], *PASSED["tools"][1:]),
    "top_logprobs": (2, "top_logprobs", 2),
    "top_p": (0.5, "top_p", 0.5),
}
RESPONSE_OURS = ("model", "stream", "store")
RESPONSE_ONE_WAY: dict[str, tuple[object, object]] = {
    "background": (False, True),
    "max_tool_calls": (None, 3),
    "service_tier": ONE_WAY["service_tier"],
    "stream_options": ({"include_obfuscation": True}, {"include_everything": True}),
    "truncation": ("disabled", "auto"),
}
RESPONSE_REFUSED: dict[str, object] = {
    "access_programs": {"a": True},
    "background_options": {"a": 1},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"a": 1},
    "moderation": {"model": "omni"},
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1"},
    "prompt_cache_options": {"mode": "explicit"},
}


def chat(**fields: object) -> Asked:
    return read_chat(orjson.dumps({"model": "moa", "messages": [USER], **fields}), HttpConfig())


def response(**fields: object) -> Asked:
    return read_response(orjson.dumps({"model": "moa", "input": [USER], **fields}), HttpConfig())


def sent(asked: Asked) -> dict[str, Any]:
    return request_document(Request("q", asked.chat, DIALECTS["openai"].model), "openai")


def refused(read: Any, **fields: object) -> Refusal:  # noqa: ANN401 - chat or response
    with pytest.raises(Refusal) as caught:
        read(**fields)
    assert caught.value.status == 400
    return caught.value


def test_it_is_known_what_becomes_of_every_field_of_a_chat() -> None:
    known = {*PASSED, *OURS, *OF_CALLER, *ONE_WAY, *REFUSED}

    assert known == set(CompletionCreateParamsStreaming.__annotations__)


def test_it_is_known_what_becomes_of_every_field_of_a_response() -> None:
    known = {*RESPONSE_PASSED, *RESPONSE_OURS, *OF_CALLER, *RESPONSE_ONE_WAY, *RESPONSE_REFUSED}

    assert known == set(ResponseCreateParamsStreaming.__annotations__)


@pytest.mark.parametrize("name", PASSED)
def test_a_field_of_a_chat_reaches_the_vendor(name: str) -> None:
    value, at_vendor, expected = PASSED[name]

    assert sent(chat(**{name: value, **BESIDE.get(name, {})}))[at_vendor] == expected


@pytest.mark.parametrize("name", RESPONSE_PASSED)
def test_a_field_of_a_response_reaches_the_vendor(name: str) -> None:
    value, at_vendor, expected = RESPONSE_PASSED[name]

    assert sent(response(**{name: value}))[at_vendor] == expected


@pytest.mark.parametrize("read", [chat, response])
@pytest.mark.parametrize("name", OF_CALLER)
def test_what_tells_of_the_caller_reaches_no_vendor(read: Any, name: str) -> None:  # noqa: ANN401
    plain, asked = read(), read(**{name: OF_CALLER[name]})

    assert sent(asked) == sent(plain)


@pytest.mark.parametrize("name", ONE_WAY)
def test_what_a_chat_cannot_choose_is_taken_one_way_only(name: str) -> None:
    harmless, other = ONE_WAY[name]

    assert sent(chat(**{name: harmless})) == sent(chat())
    assert refused(chat, **{name: other}).param == name


@pytest.mark.parametrize("name", RESPONSE_ONE_WAY)
def test_what_a_response_cannot_choose_is_taken_one_way_only(name: str) -> None:
    harmless, other = RESPONSE_ONE_WAY[name]

    assert sent(response(**{name: harmless})) == sent(response())
    assert refused(response, **{name: other}).param == name


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_here_does_for_a_chat_is_refused_by_name(name: str) -> None:
    assert refused(chat, **{name: REFUSED[name]}).param == name


@pytest.mark.parametrize("name", RESPONSE_REFUSED)
def test_what_nobody_here_does_for_a_response_is_refused_by_name(name: str) -> None:
    assert refused(response, **{name: RESPONSE_REFUSED[name]}).param == name


MESSAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "developer": (chat_types.ChatCompletionDeveloperMessageParam, {"content": "c", "name": "n"}),
    "system": (chat_types.ChatCompletionSystemMessageParam, {"content": "c", "name": "n"}),
    "user": (chat_types.ChatCompletionUserMessageParam, {"content": "c", "name": "n"}),
    "assistant": (
        chat_types.ChatCompletionAssistantMessageParam,
        {"content": "c", "name": "n", "tool_calls": [CALL]},
    ),
    "tool": (
        chat_types.ChatCompletionToolMessageParam, {"content": "c", "tool_call_id": "call_1"}
    ),
}  # fmt: skip
NOT_IN_MESSAGES = {"role", "audio", "function_call", "refusal"}
"""The latter three are OpenAI's own in an assistant's turn: refused, but the words of a refusal."""


@pytest.mark.parametrize("role", MESSAGES)
def test_every_field_of_a_message_reaches_the_vendor(role: str) -> None:
    kind, fields = MESSAGES[role]

    (message, _) = sent(chat(messages=[{"role": role, **fields}, USER]))["messages"]

    assert set(fields) == set(kind.__annotations__) - NOT_IN_MESSAGES
    assert {name: message[name] for name in fields} == fields


@pytest.mark.parametrize("name", ["audio", "function_call"])
def test_an_assistants_turn_with_what_nobody_takes_is_refused(name: str) -> None:
    turn = {"role": "assistant", "content": "c", name: {"id": "x"}}

    refused(chat, messages=[USER, turn])


@pytest.mark.parametrize("part", [
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "file", "file": {"file_id": "f"}},
    {"type": "text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "original"}},
])  # fmt: skip
def test_a_part_that_cannot_be_passed_on_is_refused(part: dict[str, Any]) -> None:
    refused(chat, messages=[{"role": "user", "content": [part]}])


def test_every_field_of_a_function_reaches_the_vendor() -> None:
    assert set(FUNCTION) == set(FunctionDefinition.__annotations__)


OTHER_FUNCTION_FIELDS: dict[str, object] = {
    "allowed_callers": ["direct"],
    "async": True,
    "defer_loading": True,
    "output_schema": SCHEMA,
}


def test_a_field_of_a_responses_function_is_passed_on_or_refused() -> None:
    known = {"type", *FUNCTION, *OTHER_FUNCTION_FIELDS}

    assert known == set(response_types.FunctionToolParam.__annotations__)
    for name, value in OTHER_FUNCTION_FIELDS.items():
        refused(response, tools=[{"type": "function", **FUNCTION, name: value}])


@pytest.mark.parametrize("name", sorted(Reasoning.__annotations__.keys() - {"effort"}))
def test_of_reasoning_only_the_effort_is_taken(name: str) -> None:
    refused(response, reasoning={"effort": "low", name: "auto"})


@pytest.mark.parametrize("name", ResponseIncludable.__args__)  # type: ignore[attr-defined]
def test_what_cannot_be_included_is_refused(name: str) -> None:
    if name in ("message.output_text.logprobs", "reasoning.encrypted_content"):
        assert response(include=[name])
    else:
        refused(response, include=[name])


ITEM_FIELDS: dict[str, tuple[Any, dict[str, Any], dict[str, object]]] = {
    "function_call": (
        response_types.ResponseFunctionToolCallParam,
        {"call_id": "call_1", "name": "f", "arguments": "{}"},
        {"async": True, "caller": {"type": "direct"}, "namespace": "n"},
    ),
    "function_call_output": (
        FunctionCallOutput,
        {"call_id": "call_1", "output": "o"},
        {"caller": {"type": "direct"}, "name": "f", "namespace": "n"},
    ),
    "message": (
        response_types.EasyInputMessageParam,
        {"role": "assistant", "content": "c"},
        {"phase": "commentary"},
    ),
}
"""Items of input: the SDK's type, fields that are passed on, fields that are refused."""


@pytest.mark.parametrize("kind", ITEM_FIELDS)
def test_a_field_of_an_item_is_passed_on_or_refused(kind: str) -> None:
    sdk, passed, others = ITEM_FIELDS[kind]

    names = {name.removesuffix("_") for name in sdk.__annotations__} - {"type", "id", "status"}
    (turn, _) = sent(response(input=[{"type": kind, **passed}, USER]))["messages"]

    assert names - set(passed) <= set(others)
    assert all(str(value) in str(turn) for value in passed.values())
    for name, value in others.items():
        refused(response, input=[{"type": kind, **passed, name: value}, USER])


def test_items_of_other_types_are_refused() -> None:
    taken = {"message", "function_call", "function_call_output", "reasoning"}
    kinds = {kind for one in ResponseInputItemParam.__args__ for kind in _types_of(one)}  # type: ignore[attr-defined]

    assert taken < kinds
    for kind in kinds - taken:
        refused(response, input=[{"type": kind}, USER])


def _types_of(item: Any) -> set[str]:  # noqa: ANN401 - a TypedDict
    said = str(item.__annotations__.get("type", ""))
    return set(
        said.split("Literal[")[1].split("]")[0].replace("'", "").replace('"', "").split(", ")
    )


def test_the_remedy_for_a_stored_response_is_named() -> None:
    said = refused(response, previous_response_id="resp_1").message

    assert "previous_response_id" in said
    assert "input" in said


def test_a_response_says_again_what_was_asked() -> None:
    asked = response(
        instructions="Be brief.",
        metadata={"team": "a"},
        store=True,
        text={"format": {"type": "json_object"}},
    )

    begun = ResponseFrame("resp_1", 0, "moa", asked).begun()

    assert begun["instructions"] == "Be brief."
    assert begun["metadata"] == {"team": "a"}
    assert begun["text"] == {"format": {"type": "json_object"}}
    assert begun["store"] is False, "nothing is stored, whatever was asked"
