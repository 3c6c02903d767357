"""Gemini's streamed answers."""

from __future__ import annotations

from typing import Any

import orjson

from moa.providers.faults import Fault
from moa.providers.gemini_faults import fault_of


class GeminiAssembly:
    """A streamed answer; see `moa.providers.wire.Assembly`. Its end is the body's end."""

    def __init__(self) -> None:
        self.finished = False
        self.ended = False
        self._whole: dict[str, Any] = {}
        self._candidate: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, event: bytes) -> str | Fault:
        """See `Assembly.add`."""
        document = orjson.loads(event)
        if document.get("error") is not None:
            return fault_of(200, event, None)
        return self._add_chunk(document)

    def _add_chunk(self, chunk: dict[str, Any]) -> str:
        candidates = chunk.pop("candidates", None) or []
        self._whole |= chunk
        if (chunk.get("promptFeedback") or {}).get("blockReason"):
            self.finished = True
        if not candidates:
            return ""
        content = candidates[0].pop("content", None) or {}
        self._add_logprobs(candidates[0].pop("logprobsResult", None) or {})
        self._candidate |= candidates[0]
        self.finished = self.finished or bool(self._candidate.get("finishReason"))
        return "".join([self._add_part(part) for part in content.get("parts") or ()])

    def _add_part(self, part: dict[str, Any]) -> str:
        """Keep a part; texts of one kind in a row become one."""
        last = self._parts[-1] if self._parts else {}
        alike = part.keys() == last.keys() and part.keys() <= {"text", "thought"}
        if alike and "text" in part:
            last["text"] += part["text"]
        else:
            self._parts.append(part)
        return "" if part.get("thought") else part.get("text") or ""

    def _add_logprobs(self, result: dict[str, Any]) -> None:
        """Each piece brings those of its own tokens."""
        for name in ("chosenCandidates", "topCandidates"):
            if result.get(name):
                self._logprobs.setdefault(name, []).extend(result[name])

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
