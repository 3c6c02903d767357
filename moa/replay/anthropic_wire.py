"""Anthropic's messages, as its API reference has them (state of November 2026).

- Success: `message`; streamed: `message_start`, `content_block_start`, `ping`,
  `content_block_delta`…, `content_block_stop`, `message_delta` (stop reason, cumulative usage),
  `message_stop`. A refusal is a message with stop reason `refusal`.
- Errors: `{"type": "error", "error": {"type", "message"}, "request_id"}`, in a stream as an event
  `error`. Types: authentication_error 401, billing_error 402, permission_error 403,
  not_found_error 404, request_too_large 413, rate_limit_error 429, api_error 500, timeout_error
  504, overloaded_error 529. The spend limit of a tier is a rate_limit_error with
  `error.details.error_code` and no `retry-after`. There is no daily quota: what stands for one here
  is a 429 that asks for hours.
- Limits: `anthropic-ratelimit-{requests,input-tokens,output-tokens,tokens}-{limit,remaining,
  reset}` on every answer, resets as RFC 3339 times, remaining tokens rounded to the thousand (here:
  from limits of 10,000 on, below which real ones never are); 429s carry `retry-after` in seconds.
- Keys come as `x-api-key` or `Authorization: Bearer`; `anthropic-version` and `max_tokens` are
  required.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.wire import (
    Answer,
    Asked,
    Levels,
    Measure,
    Reply,
    Target,
    Trouble,
    bearer,
    called,
    document_of,
    last_user_text,
    pieces,
    sse,
    text_at,
    whole_number,
)

_MESSAGES = Target()
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request was not valid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use this resource."),
    404: ("not_found_error", "Not found"),
    409: ("conflict_error", "The resource was changed by another request."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
_SPENT = (
    "You have reached your API usage limits: your organization has crossed its monthly API usage "
    "threshold, set based on your organization's API tier."
)
_SPENT_CODE = "enforced_spend_limit_reached"
_LIMIT_WORDS: dict[Measure, str] = {
    "requests": "requests per minute",
    "input_tokens": "input tokens per minute",
    "output_tokens": "output tokens per minute",
    "tokens": "tokens per minute",
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}
_ROUNDED_FROM = 10_000


class AnthropicReplay:
    """See `moa.replay.wire.ReplayWire`."""

    provider: Wire = "anthropic"

    def target(self, path: str, query: Mapping[str, str]) -> Target | None:
        """See `ReplayWire.target`."""
        return _MESSAGES if path == "/v1/messages" else None

    def key(
        self, target: Target, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> str | Trouble:
        """See `ReplayWire.key`."""
        key = headers.get("x-api-key", "").strip() or bearer(headers)
        return key or Trouble(401, "x-api-key header is required")

    def refused_key(self, target: Target) -> Trouble:
        """See `ReplayWire.refused_key`."""
        return Trouble(401)

    def read(self, target: Target, headers: Mapping[str, str], body: bytes) -> Asked | Trouble:
        """See `ReplayWire.read`."""
        if not headers.get("anthropic-version"):
            return Trouble(400, "anthropic-version: header is required")
        document = document_of(body)
        if document is None:
            return Trouble(400, "The request body is not valid JSON")
        return self.asked(target, document)

    def asked(self, target: Target, document: dict[str, Any]) -> Asked | Trouble:
        """See `ReplayWire.asked`."""
        missing = [n for n in ("model", "max_tokens", "messages") if not document.get(n)]
        if missing:
            return Trouble(400, f"{missing[0]}: Field required")
        prompt = last_user_text(document["messages"], "content")
        if prompt is None:
            return Trouble(400, "messages: at least one user message with text is required")
        stream = document.get("stream") is True
        return Asked(
            model=str(document["model"]),
            prompt=prompt,
            stream=stream,
            target=target,
            most_output_tokens=whole_number(document["max_tokens"]),
            tool=_demanded(document),
        )

    def unknown_model(self, model: str) -> Trouble:
        """See `ReplayWire.unknown_model`."""
        return Trouble(404, f"model: {model}")

    def whole(self, asked: Asked, answer: Answer, request_id: str) -> bytes:
        """See `ReplayWire.whole`."""
        content: list[dict[str, Any]] = []
        stop = _STOP[answer.finish]
        if function := called(asked, answer):
            content, stop = [_call(function, request_id)], "tool_use"
        elif answer.text:
            content = [{"type": "text", "text": answer.text}]
        usage = _usage(answer, answer.output_tokens)
        if asked.service_tier == "batch":
            usage["service_tier"] = "batch"
        return orjson.dumps(_message(answer, request_id, content, stop, usage))

    def events(self, asked: Asked, answer: Answer, request_id: str) -> list[bytes]:
        """See `ReplayWire.events`."""
        start = _message(answer, request_id, [], None, _usage(answer, 1))
        events = [_event("message_start", message=start)]
        stop = _STOP[answer.finish]
        if function := called(asked, answer):
            stop, block = "tool_use", _call(function, request_id)
            delta = {"type": "input_json_delta", "partial_json": ""}
            events.append(_event("content_block_start", index=0, content_block=block))
            events.append(_event("content_block_delta", index=0, delta=delta))
            events.append(_event("content_block_stop", index=0))
        elif answer.text:
            block = {"type": "text", "text": ""}
            events.append(_event("content_block_start", index=0, content_block=block))
            events.append(_event("ping"))
            for piece in pieces(answer.text):
                delta = {"type": "text_delta", "text": piece}
                events.append(_event("content_block_delta", index=0, delta=delta))
            events.append(_event("content_block_stop", index=0))
        end = {"stop_reason": stop, "stop_sequence": None}
        usage = {
            "input_tokens": answer.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": answer.output_tokens,
        }
        return [*events, _event("message_delta", delta=end, usage=usage), _event("message_stop")]

    def error(self, trouble: Trouble, request_id: str) -> Reply:
        """See `ReplayWire.error`."""
        headers = {}
        if trouble.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(trouble.retry_after_s))
        return Reply(trouble.status, headers, orjson.dumps(_error(trouble, request_id)))

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        """See `ReplayWire.error_event`."""
        return sse(_error(trouble, request_id), "error")

    def stream_type(self, asked: Asked) -> str:
        """See `ReplayWire.stream_type`."""
        return "text/event-stream; charset=utf-8"

    def headers(self, levels: Levels, request_id: str) -> dict[str, str]:
        """See `ReplayWire.headers`."""
        headers = {"request-id": f"req_{request_id}"}
        for measure, level in levels.items():
            name = "anthropic-ratelimit-" + measure.replace("_", "-")
            headers[name + "-limit"] = f"{level.limit:.0f}"
            headers[name + "-remaining"] = str(_remaining(measure, level.limit, level.remaining))
            headers[name + "-reset"] = rfc_3339(time.time() + level.reset_s)
        return headers


def _remaining(measure: Measure, limit: float, remaining: float) -> int:
    if measure != "requests" and limit >= _ROUNDED_FROM:
        return round(remaining / 1000) * 1000
    return math.floor(remaining)


def rfc_3339(unix_s: float) -> str:
    """A moment as Anthropic writes it: whole seconds, rounded up."""
    moment = datetime.fromtimestamp(math.ceil(unix_s), tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _demanded(document: dict[str, Any]) -> str | None:
    if text_at(document, "tool_choice", "type") == "any":
        return text_at(document, "tools", 0, "name")
    return text_at(document, "tool_choice", "name")


def _call(function: str, request_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{request_id}", "name": function, "input": {}}


def _message(
    answer: Answer,
    request_id: str,
    content: list[dict[str, Any]],
    stop_reason: str | None,
    usage: dict[str, Any],
) -> dict[str, Any]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": answer.served_model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _usage(answer: Answer, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _event(name: str, **fields: object) -> bytes:
    return sse({"type": name, **fields}, name)


def _error(trouble: Trouble, request_id: str) -> dict[str, Any]:
    other = "api_error" if trouble.status >= 500 else "invalid_request_error"
    kind, message = _ERRORS.get(trouble.status, (other, "Error"))
    error: dict[str, Any] = {"type": kind, "message": trouble.message or message}
    if trouble.shortage is not None:
        level = trouble.shortage.level
        words = "requests per day" if level.per == "day" else _LIMIT_WORDS[trouble.shortage.measure]
        error["message"] = (
            "This request would exceed your organization's rate limit of "
            f"{level.limit:,.0f} {words}. For details, refer to: "
            "https://docs.claude.com/en/api/rate-limits."
        )
    if trouble.status == 429 and trouble.quota == "spend":
        error |= {"message": _SPENT, "details": {"error_code": _SPENT_CODE}}
    if trouble.code:
        error["details"] = {"error_code": trouble.code}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}
