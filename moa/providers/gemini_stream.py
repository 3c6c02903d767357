"""Gemini's streamed answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson

from moa.providers.faults import Fault
from moa.providers.gemini_faults import fault_of
from moa.providers.provider import CallPiece, CompletionDelta
from moa.providers.turns import openai_tool_call


class GeminiAssembly:
    """A streamed answer; see `moa.providers.wire.Assembly`. Its end is the body's end."""

    def __init__(self) -> None:
        self.finished = False
        self.ended = False
        self._whole: dict[str, Any] = {}
        self._candidate: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._logprobs: dict[str, list[Any]] = {}
        self._calls = 0

    def add(self, event: bytes) -> CompletionDelta | Fault:
        """See `Assembly.add`."""
        document = orjson.loads(event)
        if document.get("error") is not None:
            return fault_of(200, event, None)
        return self._add_chunk(document)

    def _add_chunk(self, chunk: dict[str, Any]) -> CompletionDelta:
        candidates = chunk.pop("candidates", None) or []
        self._whole |= chunk
        if (chunk.get("promptFeedback") or {}).get("blockReason"):
            self.finished = True
        if not candidates:
            return CompletionDelta()
        parts = (candidates[0].pop("content", None) or {}).get("parts") or ()
        logprobs = self._add_logprobs(candidates[0].pop("logprobsResult", None) or {})
        self._candidate |= candidates[0]
        self.finished = self.finished or bool(self._candidate.get("finishReason"))
        calls = tuple([self._add_call(p["functionCall"]) for p in parts if p.get("functionCall")])
        text = "".join([self._add_part(part) for part in parts])
        return CompletionDelta(text, calls=calls, logprobs=logprobs)

    def _add_call(self, call: dict[str, Any]) -> CallPiece:
        """Calls come whole; one without an id gets the one that it has in the whole answer."""
        named = self._whole.setdefault("responseId", f"call-{uuid4().hex}")
        call["id"] = call.get("id") or f"{named}-{self._calls}"
        arguments = orjson.dumps(call.get("args") or {}).decode()
        whole = openai_tool_call(call["id"], call.get("name") or "", arguments)
        self._calls += 1
        return CallPiece(self._calls - 1, whole["id"], **whole["function"])

    def _add_part(self, part: dict[str, Any]) -> str:
        """Keep a part; texts of one kind in a row become one."""
        last = self._parts[-1] if self._parts else {}
        alike = part.keys() == last.keys() and part.keys() <= {"text", "thought"}
        if alike and "text" in part:
            last["text"] += part["text"]
        else:
            self._parts.append(part)
        return "" if part.get("thought") else part.get("text") or ""

    def _add_logprobs(self, result: dict[str, Any]) -> str | None:
        """Each piece brings those of its own tokens."""
        for name in ("chosenCandidates", "topCandidates"):
            if result.get(name):
                self._logprobs.setdefault(name, []).extend(result[name])
        return openai_logprobs(result) if result.get("chosenCandidates") else None

    def body(self) -> bytes:
        """See `Assembly.body`."""
        if self._logprobs:
            self._candidate["logprobsResult"] = self._logprobs
        if not self._candidate and not self._parts:
            return orjson.dumps(self._whole)
        content = {"role": "model", "parts": self._parts}
        return orjson.dumps(
            {**self._whole, "candidates": [{**self._candidate, "content": content}]}
        )


def openai_logprobs(result: Mapping[str, Any]) -> str:
    """Log probabilities, Gemini's as JSON has them, in OpenAI's form; Gemini gives no bytes."""
    tops = result.get("topCandidates") or []
    content = [
        {
            **_token(chosen),
            "top_logprobs": [
                _token(top)
                for top in (tops[place].get("candidates") or () if place < len(tops) else ())
            ],
        }
        for place, chosen in enumerate(result.get("chosenCandidates") or ())
    ]
    return orjson.dumps({"content": content, "refusal": None}).decode()


def _token(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": one.get("token"), "logprob": one.get("logProbability"), "bytes": None}
