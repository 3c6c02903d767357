"""OpenAI's responses, from the side of the server. Nothing is stored: clients send all turns."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from moa.errors import Refusal
from moa.providers.provider import Completion, Usage
from moa.request import MOST_OUTPUT_TOKENS
from moa.serving.chat_wire import (
    Asked,
    event,
    invalid,
    read_conversation,
    read_object,
    refuse_unsupported,
)
from moa.serving.config import HttpConfig

_STORED = ("previous_response_id", "conversation", "prompt", "background")
"""What would need a store."""
_IGNORED: dict[str, tuple[object, ...]] = {
    "include": (None, []),
    "max_tool_calls": (None,),
    "truncation": (None, "disabled"),
    "stream_options": (None, {}, {"include_obfuscation": False}, {"include_obfuscation": True}),
}
"""Taken where they ask for what is done anyway."""


class About(BaseModel):
    """The body of `POST /v1/responses`, but for `input`, `tools` and `text`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256)
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_OUTPUT_TOKENS)
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = Field(
        default=None, description="Ignored by agreement: nothing is ever stored"
    )
    moa: bool | None = None


def read_response(body: bytes, limits: HttpConfig) -> Asked:
    """A body as a request.

    Raises:
        Refusal: 400: it is none, or asks for what nobody here can do.
    """
    document = read_object(body)
    store = document.pop("store", None)
    refuse_unsupported(document)
    for name in _STORED:
        if document.pop(name, None):
            raise _unsupported(name, "nothing is stored here: send all turns as input")
    for name, harmless in _IGNORED.items():
        if document.pop(name, None) not in harmless:
            raise _unsupported(name, "leave it out")
    said, tools, choice, text, reasoning = (
        document.pop(name, None) for name in ("input", "tools", "tool_choice", "text", "reasoning")
    )
    try:
        about = About.model_validate({**document, "store": store})
    except ValidationError as error:
        raise invalid(error) from None
    given: dict[str, Any] = {
        "messages": _messages(said, about.instructions),
        "tools": [_tool(one) for one in _list(tools, "tools")] or None,
        "tool_choice": _tool_choice(choice),
        "response_format": _format(text),
        "reasoning_effort": _effort(reasoning),
    }
    for name in ("max_output_tokens", "temperature", "top_p", "parallel_tool_calls"):
        given[name] = getattr(about, name)
    if about.top_logprobs:
        given |= {"logprobs": True, "top_logprobs": about.top_logprobs}
    given = {name: value for name, value in given.items() if value is not None}
    return Asked(
        model=about.model,
        chat=read_conversation(given, limits),
        stream=bool(about.stream),
        include_usage=True,
        n=1,
        explain=bool(about.moa),
    )


def _unsupported(name: str, remedy: str) -> Refusal:
    return Refusal(
        f"{name} is not supported here: {remedy}", param=name, code="unsupported_parameter"
    )


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refusal(f"{name}: should be a list", param=name)
    return value


def _messages(said: object, instructions: str | None) -> list[Any]:
    """The items of `input` as turns; calls of one turn come as items of their own."""
    turns: list[Any] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    if isinstance(said, str):
        return [*turns, {"role": "user", "content": said}]
    for number, item in enumerate(_list(said, "input")):
        if not isinstance(item, dict):
            raise Refusal("an item of input is no object", param=f"input.{number}")
        _add(turns, item, f"input.{number}")
    return turns


def _add(turns: list[Any], item: dict[str, Any], param: str) -> None:
    match item.get("type", "message"):
        case "message":
            turns.append({"role": item.get("role"), "content": _content(item, param)})
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if turns and turns[-1]["role"] == "assistant":
                turns[-1].setdefault("tool_calls", []).append(call)
            else:
                turns.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _content({"content": output}, param)
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case "reasoning":  # a vendor's own, which none takes back: see moa.request
            pass
        case other:
            raise Refusal(
                f"items of type {str(other)[:40]!r} are not supported here",
                param=param,
                code="unsupported_parameter",
            )


def _content(item: dict[str, Any], param: str) -> Any:  # noqa: ANN401 - checked by ChatRequest
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{param}.content") for part in _list(content, f"{param}.content")]
    if item.get("role") == "assistant":
        return "\n".join(str(part.get("text", "")) for part in parts)
    return parts


def _part(part: object, param: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict):
        if kind in ("input_text", "output_text", "text"):
            return {"type": "text", "text": part.get("text")}
        if kind == "refusal":
            return {"type": "text", "text": part.get("refusal")}
        if kind == "input_image" and part.get("image_url") is not None:
            image = {"url": part["image_url"]}
            if part.get("detail") is not None:
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
    raise Refusal(
        f"content of type {str(kind)[:40]!r} is not supported here",
        param=param,
        code="unsupported_parameter",
    )


def _tool(tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        raise _unsupported("tools", f"only functions are, not {str(kind)[:40]!r}")
    function = {k: v for k, v in tool.items() if k != "type" and v is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: object) -> object:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(text: object) -> object:
    if text is None:
        return None
    if not isinstance(text, dict):
        raise Refusal("text: should be an object", param="text")
    if text.get("verbosity") not in (None, "medium"):
        raise _unsupported("text.verbosity", "leave it out")
    kind = text.get("format")
    if not isinstance(kind, dict) or kind.get("type") != "json_schema":
        return kind
    schema = {k: v for k, v in kind.items() if k != "type" and v is not None}
    return {"type": "json_schema", "json_schema": schema}


def _effort(reasoning: object) -> object:
    if reasoning is None:
        return None
    if not isinstance(reasoning, dict):
        raise Refusal("reasoning: should be an object", param="reasoning")
    if any(v is not None for k, v in reasoning.items() if k != "effort"):
        raise _unsupported("reasoning", "only its effort is")
    return reasoning.get("effort")


def usage_document(usage: Usage) -> dict[str, Any]:
    """Tokens in the words of responses."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseFrame:
    """One response, from its beginning to its end."""

    def __init__(self, response_id: str, created: int, model: str, asked: Asked) -> None:
        chat = asked.chat
        self.id = response_id
        self._frame: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": model,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": chat.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": chat.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": chat.reasoning_effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": chat.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": _choice_document(chat.tool_choice),
            "tools": [_tool_document(tool.function) for tool in chat.tools or ()],
            "top_p": chat.top_p,
            "truncation": "disabled",
        }

    def begun(self) -> dict[str, Any]:
        """Before anything was said."""
        return {**self._frame, "status": "in_progress", "output": [], "usage": None}

    def whole(
        self, completion: Completion, usage: Usage, moa: dict[str, JsonValue] | None
    ) -> dict[str, Any]:
        """The response."""
        cut = completion.finish_reason in ("length", "content_filter") and not completion.refused
        document = {
            **self._frame,
            "status": "incomplete" if cut else "completed",
            "output": self.output(completion),
            "usage": usage_document(usage),
        }
        if cut:
            length = completion.finish_reason == "length"
            reason = "max_output_tokens" if length else "content_filter"
            document["incomplete_details"] = {"reason": reason}
        if moa is not None:
            document["moa"] = moa
        return document

    def failed(self, refusal: Refusal) -> dict[str, Any]:
        """What is left of a response whose vendor broke."""
        error = {"code": "server_error", "message": refusal.message}
        return {**self.begun(), "status": "failed", "error": error}

    def output(self, completion: Completion) -> list[dict[str, Any]]:
        """Its items."""
        items = []
        if completion.text or completion.refused or not completion.tool_calls:
            items.append(self.message(completion))
        items += map(_call_document, orjson.loads(completion.tool_calls or "[]"))
        return items

    def message(self, completion: Completion) -> dict[str, Any]:
        """What was said."""
        return {
            "type": "message",
            "id": f"msg_{self.id}",
            "role": "assistant",
            "status": "completed",
            "content": [_part_document(completion)],
        }


def _call_document(call: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{call['id']}",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
        "status": "completed",
    }


def _part_document(completion: Completion) -> dict[str, Any]:
    if completion.refused:
        return {"type": "refusal", "refusal": completion.text or "The model refused."}
    part: dict[str, Any] = {"type": "output_text", "text": completion.text, "annotations": []}
    found = orjson.loads(completion.logprobs) if completion.logprobs else {}
    part["logprobs"] = found.get("content") or []
    return part


def _choice_document(choice: object) -> object:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    name = getattr(getattr(choice, "function", None), "name", "")
    return {"type": "function", "name": name}


def _tool_document(function: Any) -> dict[str, Any]:  # noqa: ANN401 - a FunctionTool
    return {"type": "function", "parameters": None, "strict": None, **function.model_dump()}


class ResponseStream:
    """The events of a streamed response."""

    def __init__(self, frame: ResponseFrame) -> None:
        self._frame = frame
        self._number = 0
        self._text_open = False

    def begin(self) -> bytes:
        """The first events."""
        begun = self._frame.begun()
        created = self._event("response.created", {"response": begun})
        return created + self._event("response.in_progress", {"response": begun})

    def piece(self, text: str) -> bytes:
        """Some text."""
        opened = b"" if self._text_open else self._open()
        place = {"item_id": f"msg_{self._frame.id}", "output_index": 0, "content_index": 0}
        delta = {**place, "delta": text, "logprobs": []}
        return opened + self._event("response.output_text.delta", delta)

    def end(self, completion: Completion, usage: Usage, moa: dict[str, JsonValue] | None) -> bytes:
        """All that follows the text."""
        output = self._frame.output(completion)
        events = [self._close(completion)] if self._text_open else []
        rest = output[1:] if self._text_open else output
        for number, item in enumerate(rest, start=len(output) - len(rest)):
            events.append(self._item(number, item))
        whole = self._frame.whole(completion, usage, moa)
        name = "response.incomplete" if whole["status"] == "incomplete" else "response.completed"
        return b"".join([*events, self._event(name, {"response": whole})])

    def failed(self, refusal: Refusal) -> bytes:
        """The end of a response whose vendor broke."""
        return self._event("response.failed", {"response": self._frame.failed(refusal)})

    def _open(self) -> bytes:
        self._text_open = True
        item = {
            "type": "message", "id": f"msg_{self._frame.id}", "role": "assistant",
            "status": "in_progress", "content": [],
        }  # fmt: skip
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        added = self._event("response.output_item.added", {"output_index": 0, "item": item})
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0, "part": part}
        return added + self._event("response.content_part.added", place)

    def _close(self, completion: Completion) -> bytes:
        item = self._frame.message(completion)
        part = item["content"][0]
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        text = {**place, "text": completion.text, "logprobs": part.get("logprobs", [])}
        return (
            self._event("response.output_text.done", text)
            + self._event("response.content_part.done", {**place, "part": part})
            + self._event("response.output_item.done", {"output_index": 0, "item": item})
        )

    def _item(self, number: int, item: dict[str, Any]) -> bytes:
        place = {"output_index": number}
        events = []
        if item["type"] == "function_call":
            begun = {**item, "arguments": "", "status": "in_progress"}
            events.append(self._event("response.output_item.added", {**place, "item": begun}))
            of_item = {**place, "item_id": item["id"]}
            said = item["arguments"]
            events.append(
                self._event("response.function_call_arguments.delta", {**of_item, "delta": said})
            )
            done = {**of_item, "arguments": said, "name": item["name"]}
            events.append(self._event("response.function_call_arguments.done", done))
        else:
            begun = {**item, "status": "in_progress", "content": []}
            events.append(self._event("response.output_item.added", {**place, "item": begun}))
        events.append(self._event("response.output_item.done", {**place, "item": item}))
        return b"".join(events)

    def _event(self, name: str, document: dict[str, Any]) -> bytes:
        numbered = {"type": name, "sequence_number": self._number, **document}
        self._number += 1
        return event(numbered, name)
