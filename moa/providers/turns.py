"""What the vendors' adapters do alike with a request: check it, and take its parts to pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import orjson

from moa.errors import InvalidRequest
from moa.request import ChatRequest, Effort, ImagePart, Message, ToolCall

SYSTEM_ROLES = ("system", "developer")
EFFORTS: tuple[Effort, ...] = get_args(Effort)

_MEDIA_TYPE = re.compile(r"image/[A-Za-z0-9.+-]{1,64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


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
        detail = f"{vendor} cannot do {', '.join(unable)}"
        if "image_urls" in unable:
            detail += ": an image is given by its URL, which nobody here fetches"
        raise InvalidRequest(detail, code="unable")


def image_url(part: ImagePart, vendor: str) -> str:
    """Where an image is that the vendor shall fetch; `""` when the request carries it.

    Raises:
        InvalidRequest: it is neither a `data:` nor an http or https URL.
    """
    url = part.image_url.url
    if url.startswith("data:"):
        return ""
    if not url.startswith(("http://", "https://")):
        scheme = url.partition(":")[0][:20] if ":" in url else ""
        raise InvalidRequest(
            f"{vendor}: an image is at a URL of scheme {scheme!r}, not data, http or https",
            code="image",
        )
    return url


def inline_image(part: ImagePart, vendor: str) -> InlineImage:
    """The image of a `data:` URL; nothing that a request names is ever fetched.

    Raises:
        InvalidRequest: the URL is of another kind, it is no image, or its data are not base64.
    """
    head, comma, data = part.image_url.url.partition(",")
    media_type, semicolon, encoding = head.removeprefix("data:").rpartition(";")
    media_type = media_type.partition(";")[0]
    if not (comma and semicolon and head.startswith("data:") and encoding == "base64"):
        raise InvalidRequest(
            f"{vendor}: an image is not a data: URL in base64; URLs are not fetched", code="image"
        )
    if not _MEDIA_TYPE.fullmatch(media_type) or not _BASE64.fullmatch(data):
        raise InvalidRequest(
            f"{vendor}: a data: URL is not of the form data:image/png;base64,..., with an image's "
            "media type and the letters of base64",
            code="image",
        )
    return InlineImage(media_type, data)


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


def nearest_effort(wanted: Effort, known: Sequence[Effort]) -> Effort:
    """The one of `known` (ascending) that is nearest to `wanted`; of two as near, the higher."""
    place = EFFORTS.index(wanted)
    return min(reversed(known), key=lambda effort: abs(EFFORTS.index(effort) - place))


def system_texts(chat: ChatRequest, vendor: str) -> list[str]:
    """The system messages in order, for vendors that take them apart from the turns.

    Wherever it stands in the conversation, a system message becomes part of the one system prompt,
    which these vendors read before all turns: it then holds from the beginning.

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
    """A tool call in OpenAI's form, which is the project's.

    Raises:
        TypeError: a part of it is no text: servers are not held to their types.
    """
    if not all(isinstance(text, str) for text in (call_id, name, arguments_json)):
        raise TypeError("a part of a tool call is no text")
    function = {"name": name, "arguments": arguments_json}
    return {"id": call_id, "type": "function", "function": function}
