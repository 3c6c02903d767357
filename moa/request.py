"""The project's own form of one request: OpenAI's chat form, validated once, sent to any vendor.

It is the form that query logs, the OpenAI Batch format and clients already have. Nothing of it is
dropped on the way: what a model cannot do is found by `abilities()` before the model is chosen, and
what that does not know (a participant's name, two settings that a vendor does not take together) an
adapter refuses before the call. Only what vendors put into their own turns and take from nobody
(annotations, reasoning) is left out, when a request is read.
"""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
import xxhash
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

MOST_OUTPUT_TOKENS = 2**31 - 1
"""What the tables hold; no model comes near it."""
IMAGE_TOKENS = 1000
"""Of one image, about: vendors count from 258 (Gemini, one tile) to 1,600 (Anthropic, at most), by
a size in pixels that is not known here."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """Text inside a message of several parts."""

    type: Literal["text"] = "text"
    text: str


class ImageURL(_Part):
    """Where an image is; `data:` URLs carry it. Others are the vendor's to fetch, never ours."""

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


_RESPONSE_ONLY = ("annotations", "reasoning", "reasoning_content", "reasoning_details", "refusal")
"""What a vendor's turn has besides ours, and no vendor takes back."""
_ONCE_USED = ("audio", "function_call")
"""In every turn of OpenAI's, as null. With a value they would be part of what was said."""


class Message(_Part):
    """One turn. `system` and `developer` mean the same here."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_vendors_return_it(cls, value: JsonValue) -> JsonValue:
        """Take an assistant's turn out of a response; the words of a refusal are its content."""
        if not isinstance(value, dict) or value.get("role") != "assistant":
            return value
        kept = {k: v for k, v in value.items() if k not in _RESPONSE_ONLY}
        kept = {k: v for k, v in kept.items() if k not in _ONCE_USED or v is not None}
        if kept.get("content") is None and isinstance(value.get("refusal"), str):
            kept["content"] = value["refusal"]
        return kept

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


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much to think, from not at all to as much as may help."""


class ChatRequest(BaseModel):
    """A conversation and how it shall be answered. The model is not part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[Message] = Field(min_length=1)
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_OUTPUT_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: list[str] | None = Field(default=None, max_length=4)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: Effort | None = None
    """What a model has no word for goes to the nearest that it has; see its adapter's table."""
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
        if not any(m.role in ("user", "tool") and _says(m) for m in self.messages):
            raise ValueError("no user message with content")
        return self

    @model_validator(mode="after")
    def _log_probabilities_are_wanted(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs without logprobs: set logprobs to true, or leave it out")
        return self

    def canonical(self) -> str:
        """JSON without what is unset, keys in the order of these classes: equal requests give
        equal text.

        Inside `parameters` and `schema` all stays as it was written: models write the properties
        of an answer in the order in which the schema has them.
        """
        return orjson.dumps(self.model_dump(mode="json", exclude_none=True)).decode()

    def text(self) -> str:
        """The conversation as one text, which the router reads: role marks from two turns on."""
        if len(self.messages) == 1:
            return self.messages[0].text
        return "\n\n".join(f"[{m.role}]\n{m.text}" for m in self.messages)

    def other_input_tokens(self) -> float:
        """About how many tokens of prompt there are besides `text()`.

        Tools, the schema of the answer and the arguments of tool calls at four characters a
        token; `IMAGE_TOKENS` for each image.
        """
        written = [
            *(self.tools or ()),
            *([self.response_format] if self.response_format else ()),
            *(call for m in self.messages for call in m.tool_calls or ()),
        ]
        characters = sum(len(one.model_dump_json(exclude_none=True)) for one in written)
        images = sum(isinstance(p, ImagePart) for m in self.messages for p in _parts(m))
        return characters / 4 + images * IMAGE_TOKENS

    def abilities(self) -> list[str]:
        """What a model must be able to do to take this request, sorted."""
        needed = set()
        if self.tools:
            needed.add("tools")
        for image in (p for m in self.messages for p in _parts(m) if isinstance(p, ImagePart)):
            needed.add("images")
            if not image.image_url.url.startswith("data:"):
                needed.add("image_urls")
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


def _says(message: Message) -> bool:
    return bool(message.text) or any(isinstance(p, ImagePart) for p in _parts(message))


def request_hash(canonical: str) -> str:
    """xxh3-128 of a canonical request, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical.encode())
