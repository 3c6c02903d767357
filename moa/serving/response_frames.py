"""A response as OpenAI's clients read it: whole, and as the events of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from pydantic import JsonValue

from moa.errors import Refusal
from moa.providers.provider import CallPiece, Completion, CompletionDelta, Usage
from moa.serving.chat_wire import Asked, event, refusal_words


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


Part = Literal["output_text", "refusal"]
_WORDS: dict[Part, str] = {"output_text": "text", "refusal": "refusal"}
"""Kind of a message's part → its field that has the words."""


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
            "max_output_tokens": chat.max_output_tokens,
            "parallel_tool_calls": chat.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": chat.reasoning_effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": chat.temperature,
            "tool_choice": _choice_document(chat.tool_choice),
            "tools": [_tool_document(tool.function) for tool in chat.tools or ()],
            "top_p": chat.top_p,
            "truncation": "disabled",
            **asked.echo,
        }

    def begun(self) -> dict[str, Any]:
        """Before anything was said."""
        return {**self._frame, "status": "in_progress", "output": [], "usage": None}

    def whole(
        self,
        completion: Completion,
        usage: Usage,
        moa: dict[str, JsonValue] | None,
        output: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """The response; of a stream, with the items that were sent."""
        cut = _cut(completion)
        document = {
            **self._frame,
            "status": "completed" if cut is None else "incomplete",
            "output": self.output(completion) if output is None else output,
            "usage": usage_document(usage),
        }
        if cut is not None:
            document["incomplete_details"] = {"reason": cut}
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
            kind: Part = "refusal" if completion.refused else "output_text"
            words = refusal_words(completion) if completion.refused else completion.text
            part = _part_document(kind, words, _logprobs(completion.logprobs))
            items.append(self.message([part], _status(completion)))
        for call in orjson.loads(completion.tool_calls or "[]"):
            function = call["function"]
            items.append(
                _call_document(call["id"], function["name"], function["arguments"], "completed")
            )
        return items

    def message(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        """What was said, as an item."""
        item = {"type": "message", "id": f"msg_{self.id}", "role": "assistant"}
        return {**item, "status": status, "content": content}


def _cut(completion: Completion) -> str | None:
    """Why an answer is not whole; `None` when it is. A refusal is an answer."""
    if completion.finish_reason == "length":
        return "max_output_tokens"
    filtered = completion.finish_reason == "content_filter" and not completion.refused
    return "content_filter" if filtered else None


def _status(completion: Completion) -> str:
    return "completed" if _cut(completion) is None else "incomplete"


def _call_document(call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _part_document(kind: Part, words: str, logprobs: list[Any]) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": words}
    return {"type": kind, "text": words, "annotations": [], "logprobs": logprobs}


def _logprobs(found: str | None) -> list[dict[str, Any]]:
    """Those of the text's tokens."""
    document = orjson.loads(found) if found else {}
    return document.get("content") or []


def _choice_document(choice: object) -> object:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    name = getattr(getattr(choice, "function", None), "name", "")
    return {"type": "function", "name": name}


def _tool_document(function: Any) -> dict[str, Any]:  # noqa: ANN401 - a FunctionTool
    return {"type": "function", "parameters": None, "strict": None, **function.model_dump()}


@dataclass(slots=True)
class _Voice:
    """Words that are still coming: an answer's, a refusal's, or the arguments of a call."""

    place: dict[str, Any]
    """What each of its events says of where it belongs."""
    said: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    @property
    def words(self) -> str:
        """All of them."""
        return "".join(self.said)


class ResponseStream:
    """The events of a streamed response. Items are begun as their first pieces come, and are ended
    all at the end: until then a vendor may go on with any of them.
    """

    def __init__(self, frame: ResponseFrame) -> None:
        self._frame = frame
        self._number = 0
        self._items: list[dict[str, Any]] = []
        """In the order of the output."""
        self._message: dict[str, Any] | None = None
        self._parts: dict[Part, _Voice] = {}
        """Of the message, in its order."""
        self._calls: dict[int, _Voice] = {}

    def begin(self) -> bytes:
        """The first events."""
        begun = self._frame.begun()
        created = self._event("response.created", {"response": begun})
        return created + self._event("response.in_progress", {"response": begun})

    def piece(self, piece: CompletionDelta) -> bytes:
        """Some text, a part of a tool call, whatever has come."""
        events = []
        logprobs = _logprobs(piece.logprobs)
        if piece.text or logprobs:
            events.append(self._say("output_text", piece.text, logprobs))
        if piece.refusal:
            events.append(self._say("refusal", piece.refusal, []))
        events += [self._call(one) for one in piece.calls]
        return b"".join(events)

    def end(self, completion: Completion, usage: Usage, moa: dict[str, JsonValue] | None) -> bytes:
        """All that follows the last piece."""
        events = []
        if completion.refused and not self._parts:
            events.append(self._say("refusal", refusal_words(completion), []))
        elif completion.refused and "refusal" not in self._parts:
            completion = replace(completion, refused=False)  # what was said is an answer cut off
        elif not self._items:
            events.append(self._part("output_text"))
        calls = len(orjson.loads(completion.tool_calls or "[]"))
        if self._message is not None:
            self._message["status"] = _status(completion)
            events.append(self._end_message(self._message))
        for number, voice in self._calls.items():
            # A call that the completion has not was cut with the output.
            status = "completed" if number < calls else "incomplete"
            events.append(self._end_call(voice, status))
        whole = self._frame.whole(completion, usage, moa, self._items)
        events.append(self._event(f"response.{whole['status']}", {"response": whole}))
        return b"".join(events)

    def failed(self, refusal: Refusal) -> bytes:
        """The end of a response whose vendor broke."""
        return self._event("response.failed", {"response": self._frame.failed(refusal)})

    def _say(self, kind: Part, words: str, logprobs: list[Any]) -> bytes:
        opened = b"" if kind in self._parts else self._part(kind)
        voice = self._parts[kind]
        voice.said.append(words)
        voice.logprobs += logprobs
        delta = {**voice.place, "delta": words}
        if kind == "output_text":
            delta["logprobs"] = logprobs
        return opened + self._event(f"response.{kind}.delta", delta)

    def _part(self, kind: Part) -> bytes:
        """Begin a part of the message."""
        opened = b""
        if self._message is None:
            self._message = self._frame.message([], "in_progress")
            opened = self._begin_item(self._message)
        part = _part_document(kind, "", [])
        place = {
            "item_id": self._message["id"],
            "output_index": self._items.index(self._message),
            "content_index": len(self._parts),
        }
        self._message["content"].append(part)
        self._parts[kind] = _Voice(place)
        return opened + self._event("response.content_part.added", {**place, "part": part})

    def _call(self, piece: CallPiece) -> bytes:
        opened = b""
        voice = self._calls.get(piece.number)
        if voice is None:
            item = _call_document(piece.id, piece.name, "", "in_progress")
            opened = self._begin_item(item)
            voice = _Voice({"item_id": item["id"], "output_index": len(self._items) - 1})
            self._calls[piece.number] = voice
        elif piece.name:
            self._items[voice.place["output_index"]]["name"] += piece.name
        if not piece.arguments:
            return opened
        voice.said.append(piece.arguments)
        delta = {**voice.place, "delta": piece.arguments}
        return opened + self._event("response.function_call_arguments.delta", delta)

    def _begin_item(self, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        place = {"output_index": len(self._items) - 1, "item": item}
        return self._event("response.output_item.added", place)

    def _end_message(self, item: dict[str, Any]) -> bytes:
        events = []
        item["content"] = [
            _part_document(kind, voice.words, voice.logprobs) for kind, voice in self._parts.items()
        ]
        for (kind, voice), part in zip(self._parts.items(), item["content"], strict=True):
            done = {**voice.place, _WORDS[kind]: part[_WORDS[kind]]}
            if kind == "output_text":
                done["logprobs"] = voice.logprobs
            events.append(self._event(f"response.{kind}.done", done))
            events.append(self._event("response.content_part.done", {**voice.place, "part": part}))
        place = {"output_index": self._items.index(item), "item": item}
        return b"".join(events) + self._event("response.output_item.done", place)

    def _end_call(self, voice: _Voice, status: str) -> bytes:
        number = voice.place["output_index"]
        item = self._items[number]
        item["arguments"], item["status"] = voice.words, status
        done = {**voice.place, "arguments": voice.words, "name": item["name"]}
        return self._event("response.function_call_arguments.done", done) + self._event(
            "response.output_item.done", {"output_index": number, "item": item}
        )

    def _event(self, name: str, document: dict[str, Any]) -> bytes:
        numbered = {"type": name, "sequence_number": self._number, **document}
        self._number += 1
        return event(numbered, name)
