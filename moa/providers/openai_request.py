"""Requests as OpenAI's chat completions want them."""

from __future__ import annotations

import re
from typing import Any

from moa.errors import InvalidRequest
from moa.providers.provider import Request
from moa.providers.turns import (
    SYSTEM_ROLES,
    image_url,
    inline_image,
    nearest_effort,
    refuse_images,
    refuse_unable,
)
from moa.request import Effort, ImagePart, Message

ABILITIES = frozenset(
    {
        "image_urls",
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
    "temperature",
    "top_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
)
"""Fields with the same name and meaning on the wire."""

_EFFORTS: tuple[tuple[re.Pattern[str], tuple[Effort, ...]], ...] = (
    (re.compile(r"(.*/)?o\d"), ("low", "medium", "high")),
    (re.compile(r"(.*/)?gpt-5(-|$)"), ("minimal", "low", "medium", "high")),
    (re.compile(r"(.*/)?gpt-5\.1(-|$)"), ("none", "low", "medium", "high")),
    (re.compile(r"(.*/)?gpt-5\.\d"), ("none", "low", "medium", "high", "xhigh")),
)
"""Names of models → the efforts that their generation knows; the first match holds. Any other name,
a later one or one of another vendor's, is told what was asked for.
"""


def request_document(request: Request, vendor: str) -> dict[str, Any]:
    """What goes out.

    Raises:
        InvalidRequest: the request holds what the vendor cannot do.
    """
    chat, model = request.chat, request.model
    refuse_unable(chat, ABILITIES, vendor)
    document: dict[str, Any] = {
        "model": model.api_name,
        "messages": [_message(message, vendor) for message in chat.messages],
    }
    for name in _SAMPLING:
        value = getattr(chat, name)
        if value is not None:
            document[name] = value
    if chat.reasoning_effort is not None:
        document["reasoning_effort"] = _effort(chat.reasoning_effort, model.api_name)
    if chat.max_output_tokens is not None:
        document["max_completion_tokens"] = min(chat.max_output_tokens, model.max_output_tokens)
    if chat.tools is not None:
        document["tools"] = [tool.model_dump(exclude_none=True) for tool in chat.tools]
    if chat.tool_choice is not None:
        choice = chat.tool_choice
        document["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump()
    if chat.parallel_tool_calls is not None:
        document["parallel_tool_calls"] = chat.parallel_tool_calls
    if chat.response_format is not None and chat.response_format.type != "text":
        document["response_format"] = chat.response_format.model_dump(exclude_none=True)
    if request.lane == "flex":
        document["service_tier"] = "flex"
    elif request.lane != "live":
        raise InvalidRequest(f"{vendor} has no lane {request.lane!r}", code="lane")
    return document


def _effort(wanted: Effort, api_name: str) -> Effort:
    known = next((efforts for names, efforts in _EFFORTS if names.match(api_name)), None)
    return wanted if known is None else nearest_effort(wanted, known)


def _message(message: Message, vendor: str) -> dict[str, Any]:
    role = "system" if message.role in SYSTEM_ROLES else message.role  # servers know no developer
    document: dict[str, Any] = {"role": role}
    if isinstance(message.content, str):
        document["content"] = message.content
    elif message.content is not None:
        if role != "user":
            refuse_images(message, vendor)
        for part in message.content:
            if isinstance(part, ImagePart):
                _check_image(part, vendor)
        document["content"] = [part.model_dump(exclude_none=True) for part in message.content]
    if message.name is not None:
        document["name"] = message.name
    if message.tool_calls:
        document["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document


def _check_image(part: ImagePart, vendor: str) -> None:
    """Raise what says that an image is neither in the request nor where the vendor can get it."""
    if not image_url(part, vendor):
        inline_image(part, vendor)
