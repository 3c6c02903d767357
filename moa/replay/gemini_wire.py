"""Gemini's generateContent on Vertex and on the Developer API (state of November 2026).

- Success: `GenerateContentResponse`; streamed: the same in pieces, as server-sent events with
  `alt=sse`, otherwise as a JSON array. The last piece has the finish reason. A refusal is a
  candidate without content and with finish reason `SAFETY`.
- Errors: `google.rpc.Status`: `{"error": {"code", "message", "status", "details"}}`. No key is a
  403 `PERMISSION_DENIED` on the Developer API and a 401 `UNAUTHENTICATED` on Vertex; a key that is
  not valid is a 400 with reason `API_KEY_INVALID` there and a 401 here.
- Limits: no headers. A 429 is `RESOURCE_EXHAUSTED` with `QuotaFailure` (the metric, the quota's id,
  which tells minutes from days, and its value) and `RetryInfo.retryDelay`. Credit that is spent is
  a 402 with the same status, flex without capacity a 503 `UNAVAILABLE`.
- Keys come as `x-goog-api-key`, `?key=` or `Authorization: Bearer`.
"""

from __future__ import annotations

import re
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
    Quota,
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

_PATH = re.compile(
    r"/(?:v1|v1beta|v1beta1)/"
    r"(?P<vertex>(?:projects/[^/]+/locations/[^/]+/)?publishers/google/)?"
    r"models/(?P<model>[^/:]+):(?P<method>generateContent|streamGenerateContent)"
)
_STATUS: dict[int, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    402: ("RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    403: ("PERMISSION_DENIED", "The caller does not have permission."),
    404: ("NOT_FOUND", "Requested entity was not found."),
    408: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    409: ("ABORTED", "The operation was aborted."),
    413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    499: ("CANCELLED", "The operation was cancelled."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_NO_TOKEN = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential."
)
_BAD_KEY = "API key not valid. Please pass a valid API key."
_TYPE = "type.googleapis.com/google.rpc."
_SERVICE = "generativelanguage.googleapis.com"
_QUOTAS: dict[Measure, tuple[str, str]] = {
    "requests": ("generate_content_requests", "GenerateRequestsPerMinutePerProjectPerModel"),
    "input_tokens": (
        "generate_content_input_token_count",
        "GenerateContentInputTokensPerModelPerMinute",
    ),
    "output_tokens": (
        "generate_content_output_token_count",
        "GenerateContentOutputTokensPerModelPerMinute",
    ),
    "tokens": ("generate_content_token_count", "GenerateContentTokensPerModelPerMinute"),
}
_PER_DAY = "GenerateRequestsPerDayPerProjectPerModel"
_OTHER_STATUS: dict[Quota, int] = {"spend": 402, "flex": 503}
"""What is no 429 here."""


class GeminiReplay:
    """See `moa.replay.wire.ReplayWire`."""

    provider: Wire = "gemini"

    def target(self, path: str, query: Mapping[str, str]) -> Target | None:
        """See `ReplayWire.target`."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        return Target(
            model=match["model"],
            stream=match["method"] == "streamGenerateContent",
            sse=query.get("alt") == "sse",
            vertex=match["vertex"] is not None,
        )

    def key(
        self, target: Target, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> str | Trouble:
        """See `ReplayWire.key`."""
        key = headers.get("x-goog-api-key", "").strip() or bearer(headers) or query.get("key", "")
        if key:
            return key
        if target.vertex:
            return Trouble(401, _NO_TOKEN, code="CREDENTIALS_MISSING")
        return Trouble(403, _NO_KEY)

    def refused_key(self, target: Target) -> Trouble:
        """See `ReplayWire.refused_key`."""
        return Trouble(401) if target.vertex else Trouble(400, _BAD_KEY, code="API_KEY_INVALID")

    def read(self, target: Target, headers: Mapping[str, str], body: bytes) -> Asked | Trouble:
        """See `ReplayWire.read`."""
        document = document_of(body)
        if document is None:
            return Trouble(400, "Invalid JSON payload received.")
        return self.asked(target, document)

    def asked(self, target: Target, document: dict[str, Any]) -> Asked | Trouble:
        """See `ReplayWire.asked`."""
        prompt = last_user_text(document.get("contents"), "parts")
        if prompt is None:
            said = "* GenerateContentRequest.contents: contents is not specified"
            return Trouble(400, said)
        config = document.get("generationConfig")
        tier = document.get("serviceTier")
        return Asked(
            model=target.model or "",
            prompt=prompt,
            stream=target.stream,
            target=target,
            service_tier=tier.lower() if isinstance(tier, str) else None,
            most_output_tokens=whole_number(
                config.get("maxOutputTokens") if isinstance(config, dict) else None
            ),
            tool=_demanded(document),
        )

    def unknown_model(self, model: str) -> Trouble:
        """See `ReplayWire.unknown_model`."""
        return Trouble(404, f"models/{model} is not found, or is not supported for generateContent")

    def whole(self, asked: Asked, answer: Answer, request_id: str) -> bytes:
        """See `ReplayWire.whole`."""
        return orjson.dumps(_document(asked, answer, request_id, answer.text, last=True))

    def events(self, asked: Asked, answer: Answer, request_id: str) -> list[bytes]:
        """See `ReplayWire.events`."""
        texts = [""] if called(asked, answer) else pieces(answer.text) or [""]
        documents = [_document(asked, answer, request_id, text, last=False) for text in texts[:-1]]
        documents.append(_document(asked, answer, request_id, texts[-1], last=True))
        if asked.target.sse:
            return [sse(document) for document in documents]
        return _array([orjson.dumps(document) for document in documents])

    def error(self, trouble: Trouble, request_id: str) -> Reply:
        """See `ReplayWire.error`."""
        document = _error(trouble)
        return Reply(document["error"]["code"], {}, orjson.dumps(document))

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        """See `ReplayWire.error_event`."""
        return sse(_error(trouble))

    def stream_type(self, asked: Asked) -> str:
        """See `ReplayWire.stream_type`."""
        return "text/event-stream" if asked.target.sse else "application/json; charset=UTF-8"

    def headers(self, levels: Levels, request_id: str) -> dict[str, str]:
        """See `ReplayWire.headers`; Gemini says nothing of its limits."""
        return {}


def _demanded(document: dict[str, Any]) -> str | None:
    config = ("toolConfig", "functionCallingConfig")
    if text_at(document, *config, "mode") != "ANY":
        return None
    named = text_at(document, *config, "allowedFunctionNames", 0)
    return named or text_at(document, "tools", 0, "functionDeclarations", 0, "name")


def _array(documents: list[bytes]) -> list[bytes]:
    """A JSON array that can be read as it comes."""
    first, *others = documents
    return [b"[" + first, *(b",\r\n" + other for other in others), b"]"]


def _document(
    asked: Asked, answer: Answer, request_id: str, text: str, *, last: bool
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if answer.finish != "refusal":
        part: dict[str, Any] = {"text": text}
        if function := called(asked, answer):
            part = {"functionCall": {"name": function, "args": {}}}
        candidate["content"] = {"role": "model", "parts": [part]}
    usage: dict[str, Any] = {
        "promptTokenCount": answer.input_tokens,
        "totalTokenCount": answer.input_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": answer.input_tokens}],
    }
    if last:
        candidate["finishReason"] = _FINISH[answer.finish]
        usage["candidatesTokenCount"] = answer.output_tokens
        usage["totalTokenCount"] += answer.output_tokens
    document = {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": answer.served_model,
        "responseId": request_id,
    }
    if asked.target.vertex:
        usage["trafficType"] = "ON_DEMAND"
        document["createTime"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return document


def _error(trouble: Trouble) -> dict[str, Any]:
    code = trouble.status
    if code == 429:
        code = _OTHER_STATUS.get(trouble.quota, code)
    status, message = _STATUS.get(code, ("UNKNOWN", "Unknown error."))
    error: dict[str, Any] = {"code": code, "message": trouble.message or message, "status": status}
    if details := _details(trouble, code):
        error["details"] = details
    return {"error": error}


def _details(trouble: Trouble, code: int) -> list[dict[str, Any]]:
    details = [_reason(trouble.code)] if trouble.code else []
    if code == 429:
        details.append({"@type": _TYPE + "QuotaFailure", "violations": [_violation(trouble)]})
    if trouble.retry_after_s is not None:
        delay = f"{trouble.retry_after_s:.9f}".rstrip("0").rstrip(".") + "s"
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": delay})
    return details


def _reason(reason: str) -> dict[str, Any]:
    info = {"reason": reason, "domain": "googleapis.com", "metadata": {"service": _SERVICE}}
    return {"@type": _TYPE + "ErrorInfo", **info}


def _violation(trouble: Trouble) -> dict[str, Any]:
    metric, quota = _QUOTAS[trouble.shortage.measure if trouble.shortage else "requests"]
    violation: dict[str, Any] = {
        "quotaMetric": f"{_SERVICE}/{metric}",
        "quotaId": _PER_DAY if trouble.quota == "day" else quota,
        "quotaDimensions": {"location": "global", "model": trouble.model},
    }
    if trouble.shortage:
        violation["quotaValue"] = f"{trouble.shortage.level.limit:.0f}"
    return violation
