"""The project's own form of one request: OpenAI's chat form, validated once, sent to any vendor.

It is the form that query logs, the OpenAI Batch format and clients already have. What a vendor
cannot do is found by `abilities()` before the vendor is chosen, never dropped on the way.
"""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
import xxhash
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """Text inside a message of several parts."""

    type: Literal["text"] = "text"
    text: str


class ImageURL(_Part):
    """Where an image is; `data:` URLs carry it."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Part):
    """An image inside a message."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageURL


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class FunctionCall(_Part):
    """Which function a model called; `arguments` is JSON as text."""

    name: str
    arguments: str


class ToolCall(_Part):
    """One call of a tool by a model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Part):
    """One turn. `system` and `developer` mean the same here."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError(f"a {self.role} message has neither content nor tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool message needs tool_call_id")
        return self

    @property
    def text(self) -> str:
        """The text parts of the content, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(p.text for p in self.content or [] if isinstance(p, TextPart))


class FunctionTool(_Part):
    """A function that a model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(_Part):
    """A tool that a model may call."""

    type: Literal["function"] = "function"
    function: FunctionTool


class NamedFunction(_Part):
    """The function that must be called."""

    name: str


class NamedToolChoice(_Part):
    """Demand a call of one function."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(_Part):
    """The schema that a JSON answer must follow."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    name: str
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """Text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("response_format json_schema needs its json_schema")
        return self


class ChatRequest(BaseModel):
    """A conversation and how it shall be answered. The model is not part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[Message] = Field(min_length=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: list[str] | None = Field(default=None, max_length=4)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: Literal["minimal", "low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: JsonValue) -> JsonValue:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _asks_something(self) -> ChatRequest:
        if not any(m.role in ("user", "tool") and m.content for m in self.messages):
            raise ValueError("no user message with content")
        return self

    def canonical(self) -> str:
        """JSON with sorted keys and nothing unset: equal requests give equal text."""
        document = self.model_dump(mode="json", exclude_none=True)
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()

    def text(self) -> str:
        """The conversation as one text, which the router reads: role marks from two turns on."""
        if len(self.messages) == 1:
            return self.messages[0].text
        return "\n\n".join(f"[{m.role}]\n{m.text}" for m in self.messages)

    def abilities(self) -> list[str]:
        """What a model must be able to do to take this request, sorted."""
        needed = set()
        if self.tools:
            needed.add("tools")
        if any(isinstance(p, ImagePart) for m in self.messages for p in _parts(m)):
            needed.add("images")
        if self.response_format is not None and self.response_format.type != "text":
            needed.add(self.response_format.type)
        if self.logprobs:
            needed.add("logprobs")
        if self.seed is not None:
            needed.add("seed")
        if self.frequency_penalty or self.presence_penalty:
            needed.add("penalties")
        if self.temperature is not None:
            needed.add("temperature" if self.temperature <= 1 else "temperature_above_1")
        for name in ("top_p", "stop", "reasoning_effort"):
            if getattr(self, name) is not None:
                needed.add(name)
        return sorted(needed)


def _parts(message: Message) -> list[TextPart | ImagePart]:
    return message.content if isinstance(message.content, list) else []


def request_hash(canonical: str) -> str:
    """xxh3-128 of a canonical request, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical.encode())
