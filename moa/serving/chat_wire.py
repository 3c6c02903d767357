"""OpenAI's chat completions, from the side of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, from_json

from moa.errors import Refusal
from moa.providers.provider import CallPiece, Completion, CompletionDelta, Usage
from moa.request import MOST_OUTPUT_TOKENS, ChatRequest, ImagePart
from moa.serving.config import HttpConfig

SAME = (
    "messages", "temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty",
    "reasoning_effort", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "response_format",
)  # fmt: skip
"""Fields with the same name and meaning in `ChatRequest`."""
KEPT_HERE = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata")
"""What says something of the caller, not of the answer: taken, and told to no vendor."""
NO_CHOICE: dict[str, tuple[object, ...]] = {
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
    "modalities": (None, ["text"]),
    "verbosity": (None, "medium"),
    "logit_bias": (None, {}),
}
"""Fields that are taken where they ask for what is done anyway."""
NOT_DROPPED = "is not known here; what cannot be passed on is refused, not dropped"


class StreamOptions(BaseModel):
    """What a stream has besides its pieces."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class About(BaseModel):
    """What a body has besides the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=16)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_OUTPUT_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_OUTPUT_TOKENS)
    moa: bool | None = Field(default=None, description="Say in a field `moa` who answered and why")


class Asked(NamedTuple):
    """A request, read."""

    model: str
    chat: ChatRequest
    stream: bool
    include_usage: bool
    n: int
    explain: bool
    echo: Mapping[str, JsonValue] = MappingProxyType({})
    """What a response says again of its request."""


def read_chat(body: bytes, limits: HttpConfig) -> Asked:
    """A body as a request.

    Raises:
        Refusal: 400: it is none, or asks for what nobody here can do.
    """
    document = read_object(body)
    refuse_unsupported(document, NO_CHOICE)
    given = {k: v for k, v in document.items() if k in SAME and v is not None}
    rest = {k: v for k, v in document.items() if k not in SAME}
    try:
        about = About.model_validate(rest)
    except ValidationError as error:
        raise invalid(error) from None
    if about.max_completion_tokens is not None and about.max_tokens is not None:
        raise Refusal(
            "max_tokens and max_completion_tokens are both given: give one", param="max_tokens"
        )
    most = about.max_completion_tokens or about.max_tokens
    if most is not None:
        given["max_output_tokens"] = most
    if about.stream_options is not None and not about.stream:
        raise Refusal("stream_options without stream: true", param="stream_options")
    if (about.n or 1) > limits.max_choices:
        raise Refusal(f"n is {about.n}; at most {limits.max_choices} here", param="n")
    return Asked(
        model=about.model,
        chat=read_conversation(given, limits),
        stream=bool(about.stream),
        include_usage=bool(about.stream_options and about.stream_options.include_usage),
        n=about.n or 1,
        explain=bool(about.moa),
    )


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refusal: 400: it is none.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal("the body is no JSON", code="invalid_json") from None
    if not isinstance(document, dict):
        raise Refusal("the body is no JSON object", code="invalid_json")
    return document


def refuse_unsupported(
    document: dict[str, Any], no_choice: Mapping[str, tuple[object, ...]]
) -> None:
    """Take out what says nothing of the answer, and refuse what would be dropped.

    Raises:
        Refusal: 400: naming the field.
    """
    for name in KEPT_HERE:
        document.pop(name, None)
    for name, harmless in no_choice.items():
        if document.pop(name, None) not in harmless:
            said = " or ".join(repr(one) for one in harmless if one is not None)
            raise unsupported(name, f"leave it out{said and f', or say {said}'}")


def unsupported(name: str, remedy: str) -> Refusal:
    """What is known, and cannot be done here."""
    words = f"{name} is not supported here: {remedy}"
    return Refusal(words, param=name, code="unsupported_parameter")


def read_conversation(given: dict[str, Any], limits: HttpConfig) -> ChatRequest:
    """The conversation and how it shall be answered.

    Raises:
        Refusal: 400, with the field.
    """
    messages = given.get("messages")
    if isinstance(messages, list) and len(messages) > limits.max_messages:
        raise Refusal(
            f"{len(messages)} messages; at most {limits.max_messages} here", param="messages"
        )
    try:
        chat = ChatRequest.model_validate(given)
        if chat.tools or chat.response_format:
            from_json(chat.canonical())  # as vendors will read it: 200 levels at most
    except ValidationError as error:
        raise invalid(error) from None
    except (RecursionError, ValueError):
        raise Refusal("its JSON is nested too deeply", code="invalid_json") from None
    _check_images(chat, limits)
    return chat


def _check_images(chat: ChatRequest, limits: HttpConfig) -> None:
    for number, message in enumerate(chat.messages):
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, ImagePart) and len(part.image_url.url) > limits.max_image_bytes:
                raise Refusal(
                    f"an image of {len(part.image_url.url)} bytes; at most "
                    f"{limits.max_image_bytes} here",
                    param=f"messages.{number}.content",
                )


def invalid(error: ValidationError) -> Refusal:
    """The first of its problems, without what was said."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(one) for one in first["loc"]) or None
    return Refusal(f"{param or 'the request'}: {_words(first)}", param=param)


def _words(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return NOT_DROPPED
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return message[:300]


def usage_document(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def refusal_words(completion: Completion) -> str:
    """The words of a refusal; some vendors say none."""
    return completion.text or "The model refused."


def message_document(completion: Completion) -> dict[str, Any]:
    """An assistant's turn."""
    refused = completion.refused
    document: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused or (completion.tool_calls and not completion.text) else "",
        "refusal": refusal_words(completion) if refused else None,
        "annotations": [],
    }
    if document["content"] is not None:
        document["content"] = completion.text
    if completion.tool_calls:
        document["tool_calls"] = orjson.loads(completion.tool_calls)
    return document


def whole_answer(
    completion_id: str, created: int, model: str, completions: list[Completion], usage: Usage
) -> dict[str, Any]:
    """A `chat.completion`."""
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": message_document(one),
                "logprobs": orjson.loads(one.logprobs) if one.logprobs else None,
                "finish_reason": one.finish_reason,
            }
            for index, one in enumerate(completions)
        ],
        "usage": usage_document(usage),
        "system_fingerprint": None,
        "service_tier": "default",
    }


class ChatStream:
    """The events of a streamed answer, or of several.

    Args:
        models: of each of them.
    """

    def __init__(
        self, completion_id: str, created: int, models: Sequence[str], include_usage: bool
    ) -> None:
        self._frame: dict[str, Any] = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": models[0],
            "system_fingerprint": None,
        }
        self._models = models
        self._usage = include_usage
        self._said: set[int] = set()
        """Answers of which some text was passed on: that cannot be taken back."""

    def begin(self, index: int = 0) -> bytes:
        """The first event."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, piece: CompletionDelta, index: int = 0) -> bytes:
        """Some text, a part of a tool call, whatever has come; nothing for nothing."""
        said: dict[str, Any] = {}
        if piece.text:
            said["content"] = piece.text
        if piece.refusal:
            said["refusal"] = piece.refusal
        if said:
            self._said.add(index)
        if piece.calls:
            said["tool_calls"] = [_call_piece_document(one) for one in piece.calls]
        if not said and piece.logprobs is None:
            return b""
        logprobs = None if piece.logprobs is None else orjson.Fragment(piece.logprobs)
        return self._chunk(index, said, logprobs=logprobs)

    def end(self, completion: Completion, index: int = 0) -> bytes:
        """What comes after the last piece: a refusal of which nothing was said, the reason."""
        refused = b""
        if completion.refused and index not in self._said:
            refused = self._chunk(index, {"refusal": refusal_words(completion)})
        return refused + self._chunk(index, {}, finish=completion.finish_reason)

    def close(self, usage: Usage, moa: dict[str, JsonValue] | None) -> bytes:
        """The last events."""
        last = b""
        if self._usage or moa is not None:
            document: dict[str, Any] = {**self._frame, "choices": []}
            if self._usage:
                document["usage"] = usage_document(usage)
            if moa is not None:
                document["moa"] = moa
            last = event(document)
        return last + b"data: [DONE]\n\n"

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        logprobs: object = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        document = {**self._frame, "model": self._models[index], "choices": [choice]}
        if self._usage:
            document["usage"] = None
        return event(document)


def _call_piece_document(piece: CallPiece) -> dict[str, Any]:
    function = {"arguments": piece.arguments}
    if piece.name:
        function = {"name": piece.name, **function}
    began = {"id": piece.id, "type": "function"} if piece.id else {}
    return {"index": piece.number, **began, "function": function}


def event(document: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(document) + b"\n\n"


def error_document(refusal: Refusal) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.kind,
            "param": refusal.param,
            "code": refusal.code,
        }
    }
