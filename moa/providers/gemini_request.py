"""Requests as Gemini's generateContent wants them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from moa.errors import InvalidRequest
from moa.providers import turns
from moa.providers.provider import Request
from moa.request import ChatRequest, ImagePart, Message, TextPart

ABILITIES = frozenset(
    {
        "images",
        "json_object",
        "json_schema",
        "logprobs",
        "penalties",
        "reasoning_effort",
        "seed",
        "stop",
        "temperature",
        "temperature_above_1",
        "tools",
        "top_p",
    }
)

_SAMPLING = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("seed", "seed"),
    ("stop", "stopSequences"),
    ("frequency_penalty", "frequencyPenalty"),
    ("presence_penalty", "presencePenalty"),
    ("logprobs", "responseLogprobs"),
    ("top_logprobs", "logprobs"),
)
"""Field of ours → field of `generationConfig`."""

_THINKING_TOKENS = {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""For the 2.5 generation, as Google's own OpenAI-compatible endpoint maps them."""

_BUDGETED = re.compile(r"(.*/)?gemini-2\.5-")
"""Names of models that think by a budget of tokens; later ones take a level."""
_UNSIGNED = re.compile(r"(.*/)?gemini-[12][.-]")
"""Names of models that ask for no signature of a tool call in the history."""

_NO_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""Base64 of `skip_thought_signature_validator`, which the vendor takes for a tool call whose own
signature is not at hand: the project's form of a tool call has no place for one."""


def request_document(request: Request, vendor: str) -> dict[str, Any]:
    """What goes out.

    Raises:
        InvalidRequest: the request holds what the vendor cannot do.
    """
    chat = request.chat
    api_name = request.model.api_name
    turns.refuse_unable(chat, ABILITIES, vendor)
    signed = not _UNSIGNED.match(api_name)
    document: dict[str, Any] = {"contents": alternating_contents(chat, vendor, signed=signed)}
    if system := turns.system_texts(chat, vendor):
        document["systemInstruction"] = {
            "parts": [{"text": text} for text in system],
            "role": "user",
        }
    if config := _generation_config(request, vendor):
        document["generationConfig"] = config
    document |= _tools(chat, vendor)
    if request.lane == "flex":
        document["serviceTier"] = "flex"
    elif request.lane != "live":
        raise InvalidRequest(f"{vendor} has no lane {request.lane!r}", code="lane")
    return document


def alternating_contents(chat: ChatRequest, vendor: str, *, signed: bool) -> list[dict[str, Any]]:
    """The conversation as turns that alternate: those of one side in a row become one."""
    names = {c.id: c.function.name for m in chat.messages for c in m.tool_calls or ()}
    contents: list[dict[str, Any]] = []
    for message in chat.messages:
        if message.role in turns.SYSTEM_ROLES:
            continue
        side = "model" if message.role == "assistant" else "user"
        parts = _parts(message, names, vendor, signed=signed)
        if contents and contents[-1]["role"] == side:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"parts": parts, "role": side})
    return contents


def _parts(
    message: Message, names: Mapping[str, str], vendor: str, *, signed: bool
) -> list[dict[str, Any]]:
    turns.refuse_name(message, vendor)
    if message.role == "tool":
        return [_tool_result(message, names, vendor)]
    if message.role == "assistant":
        turns.refuse_images(message, vendor)
    if message.content is None or isinstance(message.content, str):
        parts: list[dict[str, Any]] = [{"text": message.content}] if message.content else []
    else:
        parts = [_part(part, vendor) for part in message.content]
    calls: list[dict[str, Any]] = [
        {"functionCall": {"args": turns.arguments(call, vendor), "name": call.function.name}}
        for call in message.tool_calls or ()
    ]
    if calls and signed:  # the first of a turn's calls vouches for the others
        calls[0]["thoughtSignature"] = _NO_SIGNATURE
    return parts + calls


def _part(part: TextPart | ImagePart, vendor: str) -> dict[str, Any]:
    if not isinstance(part, ImagePart):
        return {"text": part.text}
    turns.refuse_low_detail(part, vendor)
    image = turns.inline_image(part, vendor)
    return {"inlineData": {"data": image.data, "mimeType": image.media_type}}


def _tool_result(message: Message, names: Mapping[str, str], vendor: str) -> dict[str, Any]:
    """A tool's answer; Gemini knows it by the function's name and wants an object."""
    turns.refuse_images(message, vendor)
    name = names.get(message.tool_call_id or "") or message.name
    if name is None:
        raise InvalidRequest(f"{vendor}: a tool message answers no call", code="tool_call_id")
    try:
        value = orjson.loads(message.text)
    except orjson.JSONDecodeError:
        value = message.text
    if not isinstance(value, dict):
        value = {"output": value}
    return {"functionResponse": {"name": name, "response": value}}


def _generation_config(request: Request, vendor: str) -> dict[str, Any]:
    chat, model = request.chat, request.model
    config: dict[str, Any] = {}
    for ours, theirs in _SAMPLING:
        value = getattr(chat, ours)
        if value is not None:
            config[theirs] = value
    if chat.max_output_tokens is not None:
        config["maxOutputTokens"] = min(chat.max_output_tokens, model.max_output_tokens)
    wanted = chat.response_format.type if chat.response_format else "text"
    if wanted != "text":
        config["responseMimeType"] = "application/json"
    if wanted == "json_schema":
        config["responseJsonSchema"] = turns.described_schema(chat, vendor)
    effort = chat.reasoning_effort
    if effort is not None and _BUDGETED.match(model.api_name):
        config["thinkingConfig"] = {"thinkingBudget": _THINKING_TOKENS[effort]}
    elif effort is not None:
        config["thinkingConfig"] = {"thinkingLevel": effort.upper()}
    return config


def _tools(chat: ChatRequest, vendor: str) -> dict[str, Any]:
    choice = chat.tool_choice
    if not chat.tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest(f"{vendor}: tool_choice without tools", code="tool_choice")
        return {}
    if chat.parallel_tool_calls is False:
        raise InvalidRequest(f"{vendor} cannot forbid parallel tool calls", code="unable")
    declarations = []
    for tool in chat.tools:
        function = tool.function
        declared: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            declared["description"] = function.description
        if function.parameters is not None:
            declared["parametersJsonSchema"] = function.parameters
        declarations.append(declared)
    document: dict[str, Any] = {"tools": [{"functionDeclarations": declarations}]}
    strict = any(tool.function.strict for tool in chat.tools)
    mode: dict[str, Any] = {}
    if choice in ("none", "required"):
        mode = {"mode": "NONE" if choice == "none" else "ANY"}
    elif choice is not None and not isinstance(choice, str):
        mode = {"mode": "ANY", "allowedFunctionNames": [choice.function.name]}
    elif choice == "auto" or strict:
        mode = {"mode": "VALIDATED" if strict else "AUTO"}
    if mode:
        document["toolConfig"] = {"functionCallingConfig": mode}
    return document
