"""OpenAI's chat completions, as its API reference has them (state of November 2026).

- Success: `chat.completion`; streamed: `chat.completion.chunk` events, a chunk with usage and no
  choices when `stream_options.include_usage` was set (the others then say `usage: null`), `[DONE]`.
- Errors: `{"error": {"message", "type", "param", "code"}}`. 401 `invalid_api_key`, 404
  `model_not_found`; 429 `rate_limit_exceeded` of type `requests` or `tokens`, per minute and per
  day alike; of type `insufficient_quota` with a code that says which money is spent (no retry
  helps, so no retry-after); `resource_unavailable` for flex.
- Limits: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` on every answer, resets as Go
  prints durations (`12ms`, `1s`, `6m0s`); 429s carry `retry-after` in whole seconds and
  `retry-after-ms`. Requests are those of the day where it has fewer left than the minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.wire import (
    REFUSAL,
    Answer,
    Asked,
    Levels,
    Measure,
    Quota,
    Reply,
    Shortage,
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

_CHAT = Target()
_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "Invalid request."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", None, "You are not allowed to use this resource."),
    404: ("invalid_request_error", None, "Unknown request URL."),
    408: ("server_error", None, "Request timed out."),
    409: ("invalid_request_error", None, "The resource was changed by another request."),
    413: ("invalid_request_error", None, "Request body too large."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The server is overloaded. Please try again later."),
}
"""Status → type, code, message."""

_QUOTAS: dict[Quota, tuple[str, str, str]] = {
    "minute": ("requests", "rate_limit_exceeded", "Rate limit reached for {model}."),
    "day": (
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per day (RPD).",
    ),
    "spend": (
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "flex": ("invalid_request_error", "resource_unavailable", "Resource Unavailable."),
}
_LIMIT_WORDS: dict[Measure, tuple[str, str]] = {
    "requests": ("requests", "requests per min (RPM)"),
    "tokens": ("tokens", "tokens per min (TPM)"),
    "input_tokens": ("input_tokens", "input tokens per min"),
    "output_tokens": ("output_tokens", "output tokens per min"),
}
_DAY_WORDS = ("requests", "requests per day (RPD)")


class OpenAIReplay:
    """See `moa.replay.wire.ReplayWire`."""

    provider: Wire = "openai"

    def target(self, path: str, query: Mapping[str, str]) -> Target | None:
        """See `ReplayWire.target`."""
        return _CHAT if path == "/v1/chat/completions" else None

    def key(
        self, target: Target, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> str | Trouble:
        """See `ReplayWire.key`."""
        return bearer(headers) or Trouble(401, _NO_KEY, code="")

    def refused_key(self, target: Target) -> Trouble:
        """See `ReplayWire.refused_key`."""
        return Trouble(401)

    def read(self, target: Target, headers: Mapping[str, str], body: bytes) -> Asked | Trouble:
        """See `ReplayWire.read`."""
        document = document_of(body)
        if document is None:
            return Trouble(400, "We could not parse the JSON body of your request.")
        return self.asked(target, document)

    def asked(self, target: Target, document: dict[str, Any]) -> Asked | Trouble:
        """See `ReplayWire.asked`."""
        model = document.get("model")
        if not model or not isinstance(model, str):
            return Trouble(400, "you must provide a model parameter")
        prompt = last_user_text(document.get("messages"), "content")
        if prompt is None:
            return Trouble(
                400, "Missing required parameter: 'messages'.", code="missing_required_parameter"
            )
        options = document.get("stream_options")
        if options is not None and not isinstance(options, dict):
            return Trouble(400, "Invalid type for 'stream_options': expected an object.")
        return Asked(
            model=model,
            prompt=prompt,
            stream=document.get("stream") is True,
            target=target,
            stream_usage=(options or {}).get("include_usage") is True,
            service_tier=document.get("service_tier"),
            most_output_tokens=whole_number(
                document.get("max_completion_tokens", document.get("max_tokens"))
            ),
            tool=_demanded(document),
        )

    def unknown_model(self, model: str) -> Trouble:
        """See `ReplayWire.unknown_model`."""
        said = f"The model `{model}` does not exist or you do not have access to it."
        return Trouble(404, said, code="model_not_found")

    def whole(self, asked: Asked, answer: Answer, request_id: str) -> bytes:
        """See `ReplayWire.whole`."""
        refused = answer.finish == "refusal"
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if refused else answer.text,
            "refusal": REFUSAL if refused else None,
            "annotations": [],
        }
        finish = _finish(answer)
        if function := called(asked, answer):
            message |= {"content": None, "tool_calls": [_call(function, request_id)]}
            finish = "tool_calls"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        document = _frame(asked, answer, request_id, "chat.completion")
        document |= {"choices": [choice], "usage": _usage(answer)}
        return orjson.dumps(document)

    def events(self, asked: Asked, answer: Answer, request_id: str) -> list[bytes]:
        """See `ReplayWire.events`."""
        frame = _frame(asked, answer, request_id, "chat.completion.chunk")
        extra = {"usage": None} if asked.stream_usage else {}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return sse({**frame, "choices": [choice], **extra})

        refused = answer.finish == "refusal"
        name, text = ("refusal", REFUSAL) if refused else ("content", answer.text)
        events = [chunk({"role": "assistant", "content": "", "refusal": None})]
        if function := called(asked, answer):
            call = {"index": 0, **_call(function, request_id)}
            events += [chunk({"tool_calls": [call]}), chunk({}, "tool_calls")]
        else:
            events += [chunk({name: piece}) for piece in pieces(text)]
            events.append(chunk({}, _finish(answer)))
        if asked.stream_usage:
            events.append(sse({**frame, "choices": [], "usage": _usage(answer)}))
        return [*events, b"data: [DONE]\n\n"]

    def error(self, trouble: Trouble, request_id: str) -> Reply:
        """See `ReplayWire.error`."""
        headers = {}
        if trouble.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(trouble.retry_after_s))
            headers["retry-after-ms"] = str(math.ceil(trouble.retry_after_s * 1000))
        return Reply(trouble.status, headers, orjson.dumps(_error(trouble)))

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        """See `ReplayWire.error_event`."""
        return sse(_error(trouble))

    def stream_type(self, asked: Asked) -> str:
        """See `ReplayWire.stream_type`."""
        return "text/event-stream; charset=utf-8"

    def headers(self, levels: Levels, request_id: str) -> dict[str, str]:
        """See `ReplayWire.headers`."""
        headers = {"x-request-id": f"req_{request_id}", "openai-version": "2020-10-01"}
        for measure, level in levels.items():
            name = measure.replace("_", "-")
            headers[f"x-ratelimit-limit-{name}"] = f"{level.limit:.0f}"
            headers[f"x-ratelimit-remaining-{name}"] = str(math.floor(level.remaining))
            headers[f"x-ratelimit-reset-{name}"] = go_duration(level.reset_s)
        return headers


def _frame(asked: Asked, answer: Answer, request_id: str, kind: str) -> dict[str, Any]:
    tier = asked.service_tier
    return {
        "id": f"chatcmpl-{request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.served_model,
        "service_tier": tier if tier in ("flex", "priority") else "default",
        "system_fingerprint": "fp_replay",
    }


def _demanded(document: dict[str, Any]) -> str | None:
    if document.get("tool_choice") == "required":
        return text_at(document, "tools", 0, "function", "name")
    return text_at(document, "tool_choice", "function", "name")


def _call(function: str, request_id: str) -> dict[str, Any]:
    arguments = {"name": function, "arguments": "{}"}
    return {"id": f"call_{request_id}", "type": "function", "function": arguments}


def _finish(answer: Answer) -> str:
    return "length" if answer.finish == "length" else "stop"


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _error(trouble: Trouble) -> dict[str, Any]:
    if trouble.shortage is not None:
        kind, code, message = _shortage(trouble, trouble.shortage)
    elif trouble.status == 429:
        kind, code, message = _QUOTAS[trouble.quota]
        message = message.format(model=trouble.model)
    else:
        other = "server_error" if trouble.status >= 500 else "invalid_request_error"
        kind, code, message = _ERRORS.get(trouble.status, (other, None, "Error."))  # type: ignore[assignment]
    if trouble.code is not None:
        code = trouble.code or None  # type: ignore[assignment]
    said = trouble.message or message
    return {"error": {"message": said, "type": kind, "param": None, "code": code}}


def _shortage(trouble: Trouble, shortage: Shortage) -> tuple[str, str, str]:
    level = shortage.level
    kind, words = _DAY_WORDS if level.per == "day" else _LIMIT_WORDS[shortage.measure]
    used = max(0, round(level.limit - level.remaining))
    message = (
        f"Rate limit reached for {trouble.model} in organization org-replay on {words}: Limit "
        f"{level.limit:.0f}, Used {used}, Requested {shortage.requested}. Please try again in "
        f"{go_duration(trouble.retry_after_s or 0)}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    if shortage.requested > level.limit:
        message = (
            f"Request too large for {trouble.model} in organization org-replay on {words}: Limit "
            f"{level.limit:.0f}, Requested {shortage.requested}."
        )
    return kind, "rate_limit_exceeded", message


def go_duration(seconds: float) -> str:
    """`12ms`, `1.5s`, `6m0s`, `1h0m0s`: rounded up to the millisecond."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    text = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
