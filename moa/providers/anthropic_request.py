"""Requests as Anthropic's messages want them."""

from __future__ import annotations

import re
from typing import Any

from moa.errors import InvalidRequest
from moa.providers import turns
from moa.providers.provider import Request
from moa.request import ChatRequest, Effort, ImagePart, Message, Tool

ABILITIES = frozenset(
    {
        "image_urls",
        "images",
        "json_schema",
        "reasoning_effort",
        "stop",
        "temperature",
        "tools",
        "top_p",
    }
)

_BUDGETED = re.compile(r"claude-(3-|(opus|sonnet|haiku)-4(-[0-5])?(-\d{8}|@|-latest|$))")
"""Names of models that think by a budget of tokens; later ones refuse it and take an effort."""

_THINKING_TOKENS: dict[Effort, int] = {"low": 1_024, "medium": 8_192, "high": 24_576}
"""For models that think by a budget. none and minimal ask for no thinking, xhigh and max for what
high does.
"""
_LEAST_THINKING_TOKENS = 1_024
_LEAST_TOP_P = 0.95
"""With thinking, the vendor takes nothing below."""

_EFFORTS: tuple[tuple[re.Pattern[str], tuple[Effort, ...]], ...] = (
    (re.compile(r"claude-(opus|sonnet)-4-6"), ("low", "medium", "high", "max")),
    (re.compile(r""), ("low", "medium", "high", "xhigh", "max")),
)
"""Names of models that take an effort → those that they know; the first match holds. none and
minimal are the effort low without a word about thinking: not every model can be kept from it.
"""


def request_document(request: Request, vendor: str) -> dict[str, Any]:
    """What goes out.

    Raises:
        InvalidRequest: the request holds what the vendor cannot do.
    """
    chat, model = request.chat, request.model
    turns.refuse_unable(chat, ABILITIES, vendor)
    if request.lane != "live":
        raise InvalidRequest(f"{vendor} has no lane {request.lane!r}", code="lane")
    most = min(chat.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
    document: dict[str, Any] = {
        "model": model.api_name,
        "max_tokens": most,
        "messages": alternating_turns(chat, vendor),
    }
    if system := turns.system_texts(chat, vendor):
        document["system"] = "\n\n".join(system)
    for name in ("temperature", "top_p"):
        if (value := getattr(chat, name)) is not None:
            document[name] = value
    if chat.stop:
        document["stop_sequences"] = chat.stop
    if chat.tools:
        document["tools"] = [_tool(tool) for tool in chat.tools]
    if choice := _tool_choice(chat, vendor):
        document["tool_choice"] = choice
    document |= _thinking(chat, model.api_name, most, vendor)
    if "thinking" in document:
        _refuse_beside_thinking(document, vendor)
    if chat.response_format is not None and chat.response_format.type == "json_schema":
        schema = turns.described_schema(chat, vendor)
        output = document.setdefault("output_config", {})
        output["format"] = {"type": "json_schema", "schema": schema}
    return document


def alternating_turns(chat: ChatRequest, vendor: str) -> list[dict[str, Any]]:
    """The conversation as turns that alternate: those of one side in a row become one."""
    merged: list[tuple[str, list[dict[str, Any]]]] = []
    for message in chat.messages:
        if message.role in turns.SYSTEM_ROLES:
            continue
        side = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, vendor)
        if merged and merged[-1][0] == side:
            merged[-1][1].extend(blocks)
        elif blocks:
            merged.append((side, blocks))
    return [{"role": side, "content": _content(blocks)} for side, blocks in merged]


def _content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text as itself, else the blocks."""
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return str(blocks[0]["text"])
    return blocks


def _blocks(message: Message, vendor: str) -> list[dict[str, Any]]:
    """A message's content blocks; empty texts, which the vendor refuses, are left out."""
    turns.refuse_name(message, vendor)
    if message.role == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": _tool_id(message.tool_call_id or ""),
            "content": _content(_parts(message, vendor)) or "",
        }
        return [result]
    if message.role == "assistant":
        turns.refuse_images(message, vendor)
    calls = [
        {
            "type": "tool_use",
            "id": _tool_id(call.id),
            "name": call.function.name,
            "input": turns.arguments(call, vendor),
        }
        for call in message.tool_calls or ()
    ]
    return _parts(message, vendor) + calls


def _parts(message: Message, vendor: str) -> list[dict[str, Any]]:
    if message.content is None or isinstance(message.content, str):
        return [{"type": "text", "text": message.content}] if message.content else []
    blocks: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, ImagePart):
            blocks.append({"type": "image", "source": _source(part, vendor)})
        elif part.text:
            blocks.append({"type": "text", "text": part.text})
    return blocks


def _source(part: ImagePart, vendor: str) -> dict[str, str]:
    turns.refuse_low_detail(part, vendor)
    if url := turns.image_url(part, vendor):
        return {"type": "url", "url": url}
    image = turns.inline_image(part, vendor)
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _tool_id(text: str) -> str:
    """An id in the characters that the vendor takes; other vendors' ids have more."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", text)


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    schema = function.parameters or {"type": "object", "properties": {}}
    document: dict[str, Any] = {"name": function.name, "input_schema": schema}
    if function.description is not None:
        document["description"] = function.description
    if function.strict is not None:
        document["strict"] = function.strict
    return document


def _tool_choice(chat: ChatRequest, vendor: str) -> dict[str, Any] | None:
    choice = chat.tool_choice
    if not chat.tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest(f"{vendor}: tool_choice without tools", code="tool_choice")
        return None
    if choice is None and chat.parallel_tool_calls is not False:
        return None
    if choice == "none":
        return {"type": "none"}
    document: dict[str, Any] = {"type": "any" if choice == "required" else "auto"}
    if choice is not None and not isinstance(choice, str):
        document = {"type": "tool", "name": choice.function.name}
    if chat.parallel_tool_calls is False:
        document["disable_parallel_tool_use"] = True
    return document


def _thinking(chat: ChatRequest, api_name: str, most: int, vendor: str) -> dict[str, Any]:
    """How much to think, in the words of the model's generation."""
    effort = chat.reasoning_effort
    if effort is None:
        return {}
    little = effort in ("none", "minimal")
    if not _BUDGETED.match(api_name):
        known = next(efforts for names, efforts in _EFFORTS if names.match(api_name))
        output = {"output_config": {"effort": turns.nearest_effort(effort, known)}}
        return output if little else {"thinking": {"type": "adaptive"}, **output}
    if little:
        return {}
    wanted = _THINKING_TOKENS[turns.nearest_effort(effort, tuple(_THINKING_TOKENS))]
    budget = min(wanted, most - 1)
    if budget < _LEAST_THINKING_TOKENS:
        raise InvalidRequest(
            f"{vendor}: reasoning_effort {effort!r} needs max_output_tokens above "
            f"{_LEAST_THINKING_TOKENS}, the least that can be spent on thinking; got {most}",
            code="reasoning_effort",
        )
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _refuse_beside_thinking(document: dict[str, Any], vendor: str) -> None:
    """Raise what says that the vendor does not take something together with thinking.

    Raises:
        InvalidRequest: a call is demanded; or, with a budget, sampling is set, or a tool's result
            is to be answered, which needs the thoughts that led to the call, and no log has them.
    """
    wrong = ""
    if document.get("tool_choice", {}).get("type") in ("any", "tool"):
        wrong = "a tool_choice that demands a call"
    elif document["thinking"]["type"] == "enabled":
        wrong = _wrong_with_budget(document)
    if wrong:
        raise InvalidRequest(
            f"{vendor} cannot think (reasoning_effort) together with {wrong}", code="unable"
        )


def _wrong_with_budget(document: dict[str, Any]) -> str:
    if document.get("temperature", 1) != 1:
        return "a temperature other than 1"
    if document.get("top_p", 1) < _LEAST_TOP_P:
        return f"a top_p below {_LEAST_TOP_P}"
    last = document["messages"][-1]["content"]
    if isinstance(last, list) and any(block["type"] == "tool_result" for block in last):
        return "a history that ends with a tool's result"
    return ""
