"""Requests as Gemini's generateContent wants them."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson

from moa.errors import InvalidRequest
from moa.providers import turns
from moa.providers.provider import Request
from moa.request import ChatRequest, Effort, ImagePart, Message, TextPart, ToolCall

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

_THINKING_TOKENS: dict[Effort, int] = {
    "none": 0,
    "minimal": 1_024,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
}
"""For the 2.5 generation, as Google's own OpenAI-compatible endpoint maps them; 2.5 Pro cannot be
kept from thinking.
"""

_LEVELS: tuple[tuple[re.Pattern[str], tuple[Effort, ...]], ...] = (
    (re.compile(r"(.*/)?gemini-3-pro"), ("low", "high")),
    (re.compile(r"(.*/)?gemini-[3-9][.\d]*-pro"), ("low", "medium", "high")),
    (re.compile(r""), ("minimal", "low", "medium", "high")),
)
"""Names of later models → the levels that they know; the first match holds. What lies between or
beyond them goes to the nearest: none to the least, xhigh and max to high.
"""

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
    """The conversation as turns that alternate: those of one side in a row become one.

    Tools' results come first in their turn, in the order of the calls that they answer.
    """
    contents: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    said = (message for message in chat.messages if message.role not in turns.SYSTEM_ROLES)
    for side, group in groupby(said, key=_side):
        messages = list(group)
        parts = _results(messages, calls, vendor)
        parts += [p for m in messages if m.role != "tool" for p in _parts(m, vendor, signed=signed)]
        calls = [call for message in messages for call in message.tool_calls or ()]
        if contents and contents[-1]["role"] == side:  # nothing was said between the two
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"parts": parts, "role": side})
    return contents


def _side(message: Message) -> str:
    return "model" if message.role == "assistant" else "user"


def _results(messages: list[Message], calls: list[ToolCall], vendor: str) -> list[dict[str, Any]]:
    """The tools' results of a turn, in the order of the calls of the turn before it.

    Ids are of one turn: some servers count them from 0 in each.
    """
    open_calls = list(enumerate(calls))
    placed = []
    for message in messages:
        if message.role == "tool":
            mine = [item for item in open_calls if item[1].id == message.tool_call_id]
            if not mine:
                raise InvalidRequest(
                    f"{vendor}: a tool message answers no call of the turn before it",
                    code="tool_call_id",
                )
            open_calls.remove(mine[0])
            place, call = mine[0]
            placed.append((place, _result(message, call, vendor)))
    return [result for _, result in sorted(placed, key=itemgetter(0))]


def _parts(message: Message, vendor: str, *, signed: bool) -> list[dict[str, Any]]:
    turns.refuse_name(message, vendor)
    if message.role == "assistant":
        turns.refuse_images(message, vendor)
    if message.content is None or isinstance(message.content, str):
        parts: list[dict[str, Any]] = [{"text": message.content}] if message.content else []
    else:
        parts = [_part(part, vendor) for part in message.content]
    calls: list[dict[str, Any]] = [
        {"functionCall": _call(call, vendor)} for call in message.tool_calls or ()
    ]
    if calls and signed:  # the first of a turn's calls vouches for the others
        calls[0]["thoughtSignature"] = _NO_SIGNATURE
    return parts + calls


def _call(call: ToolCall, vendor: str) -> dict[str, Any]:
    return {
        "id": call.id,
        "args": turns.arguments(call, vendor),
        "name": call.function.name,
    }


def _part(part: TextPart | ImagePart, vendor: str) -> dict[str, Any]:
    if not isinstance(part, ImagePart):
        return {"text": part.text}
    turns.refuse_low_detail(part, vendor)
    image = turns.inline_image(part, vendor)
    return {"inlineData": {"data": image.data, "mimeType": image.media_type}}


def _result(message: Message, call: ToolCall, vendor: str) -> dict[str, Any]:
    """A tool's answer; Gemini knows it by its call's id and name, and wants an object."""
    turns.refuse_images(message, vendor)
    try:
        value = orjson.loads(message.text)
    except orjson.JSONDecodeError:
        value = message.text
    if not isinstance(value, dict):
        value = {"output": value}
    return {"functionResponse": {"id": call.id, "name": call.function.name, "response": value}}


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
    if chat.reasoning_effort is not None:
        config["thinkingConfig"] = _thinking(chat.reasoning_effort, model.api_name)
    return config


def _thinking(effort: Effort, api_name: str) -> dict[str, Any]:
    """How much to think, in the words of the model's generation."""
    if found := _BUDGETED.match(api_name):
        known: tuple[Effort, ...] = tuple(_THINKING_TOKENS)
        if api_name.startswith("pro", found.end()):
            known = known[1:]
        return {"thinkingBudget": _THINKING_TOKENS[turns.nearest_effort(effort, known)]}
    levels = next(levels for names, levels in _LEVELS if names.match(api_name))
    return {"thinkingLevel": turns.nearest_effort(effort, levels).upper()}


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
