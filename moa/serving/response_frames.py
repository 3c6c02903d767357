"""A response as OpenAI's clients read it: whole, and as the events of a stream."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import JsonValue

from moa.errors import Refusal
from moa.providers.provider import Completion, Usage
from moa.serving.chat_wire import Asked, event


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
