"""What the vendors' adapters do alike with a request: check it, and take its parts to pieces."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from moa.errors import InvalidRequest
from moa.request import ChatRequest, ImagePart, Message, ToolCall

SYSTEM_ROLES = ("system", "developer")


class InlineImage(NamedTuple):
    """An image that travels inside the request."""

    media_type: str
    data: str
    """Base64."""


def refuse_unable(chat: ChatRequest, abilities: frozenset[str], vendor: str) -> None:
    """Raise what says that the vendor cannot do something that `chat` asks for.

    Raises:
        InvalidRequest: naming what it is.
    """
    unable = [name for name in chat.abilities() if name not in abilities]
    if unable:
        raise InvalidRequest(f"{vendor} cannot do {', '.join(unable)}", code="unable")


def inline_image(part: ImagePart, vendor: str) -> InlineImage:
    """The image of a `data:` URL; nothing that a request names is ever fetched.

    Raises:
        InvalidRequest: the URL is of another kind, or its data are not base64.
    """
    head, comma, data = part.image_url.url.partition(",")
    media_type, semicolon, encoding = head.removeprefix("data:").rpartition(";")
    if not (comma and semicolon and head.startswith("data:") and encoding == "base64"):
        raise InvalidRequest(
            f"{vendor}: an image is not a data: URL in base64; URLs are not fetched", code="image"
        )
    return InlineImage(media_type.partition(";")[0], data)


def refuse_low_detail(part: ImagePart, vendor: str) -> None:
    """Raise what says that the vendor has no cheaper reading of an image.

    Raises:
        InvalidRequest: the part asks for `detail: low`.
    """
    if part.image_url.detail == "low":
        raise InvalidRequest(f"{vendor} cannot read an image with detail 'low'", code="unable")


def refuse_name(message: Message, vendor: str) -> None:
    """Raise what says that the vendor's turns have no place for a participant's name.

    Raises:
        InvalidRequest: the message has one. A tool's name is its call's, so nothing is lost there.
    """
    if message.name is not None and message.role != "tool":
        raise InvalidRequest(f"{vendor} cannot name a participant", code="unable")


def system_texts(chat: ChatRequest, vendor: str) -> list[str]:
    """The system messages in order, for vendors that take them apart from the turns.

    Raises:
        InvalidRequest: one of them holds an image.
    """
    texts = []
    for message in chat.messages:
        if message.role in SYSTEM_ROLES:
            refuse_name(message, vendor)
            if not isinstance(message.content, str):
                refuse_images(message, vendor)
            texts.append(message.text)
    return [text for text in texts if text]


def refuse_images(message: Message, vendor: str) -> None:
    """Raise what says that the vendor takes no image in a message of this role.

    Raises:
        InvalidRequest: the message holds one.
    """
    if isinstance(message.content, list) and any(
        isinstance(part, ImagePart) for part in message.content
    ):
        raise InvalidRequest(f"{vendor} takes no image in a {message.role} message", code="unable")


def arguments(call: ToolCall, vendor: str) -> dict[str, Any]:
    """A logged tool call's arguments as the object that they describe.

    Raises:
        InvalidRequest: they are not a JSON object.
    """
    try:
        value = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"{vendor}: the arguments of a logged call of {call.function.name!r} "
            "are not a JSON object",
            code="tool_arguments",
        )
    return value


def described_schema(chat: ChatRequest, vendor: str) -> dict[str, Any]:
    """The JSON schema that the answer must follow, with its description inside.

    Raises:
        InvalidRequest: the response format names no schema.
    """
    wanted = chat.response_format.json_schema if chat.response_format else None
    if wanted is None or wanted.schema_ is None:
        raise InvalidRequest(f"{vendor}: response_format json_schema has no schema", code="schema")
    if wanted.description and "description" not in wanted.schema_:
        return {**wanted.schema_, "description": wanted.description}
    return wanted.schema_


def openai_tool_call(call_id: str, name: str, arguments_json: str) -> dict[str, Any]:
    """A tool call in OpenAI's form, which is the project's."""
    function = {"name": name, "arguments": arguments_json}
    return {"id": call_id, "type": "function", "function": function}
