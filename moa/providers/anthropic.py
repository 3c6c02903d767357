"""Anthropic's messages.

What is not known, because no code says it: that a prompt is too long for the window, and that a
spend limit of one's own was reached, both come as a plain 400 `invalid_request_error`; they are
`InvalidRequest` here. Only a 413 (too many bytes) is surely `ContextExceeded`. The spend limits of
the tier and of a contract come as a 429 without a wait, with codes of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from yarl import URL

from moa.catalog import Account
from moa.errors import (
    AccountRefused,
    ConfigError,
    KeyRefused,
    ProviderError,
    RateLimited,
    TransientError,
)
from moa.providers import faults, http, turns
from moa.providers.anthropic_request import request_document
from moa.providers.faults import Fault
from moa.providers.provider import (
    CallPiece,
    Completion,
    CompletionDelta,
    Request,
    Usage,
    VendorLimits,
)
from moa.providers.wire import Call, WireProvider, vendor_limits

if TYPE_CHECKING:
    from anthropic.types import Message as VendorMessage

_DEFAULT_URL = "https://api.anthropic.com"
_VERSION = {"anthropic-version": "2026-10-21"}
VERSION_WITH_SAMPLING = {"anthropic-version": "2023-06-01"}
"""The newer version refuses `temperature` and `top_p`, the older models still follow them."""

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_CODES: dict[str, type[ProviderError]] = {
    "claude_code_key_creator_not_member": KeyRefused,
    "cmek_key_disabled": KeyRefused,
    "cmek_key_network_blocked": KeyRefused,
    "contract_spend_limit_reached": AccountRefused,
    "enforced_spend_limit_reached": AccountRefused,
    "linked_organization_billing_unavailable": AccountRefused,
    "linked_organization_spend_limit_reached": AccountRefused,
    "organization_on_hold": AccountRefused,
    "organization_not_enrolled_in_beta": KeyRefused,
    "workspace_policy_violation": KeyRefused,
    "request_body_timeout": TransientError,
}
"""`error.details.error_code`, where it says more than the status."""

_TYPES: dict[str, tuple[type[ProviderError], int]] = {
    "authentication_error": (KeyRefused, 401),
    "billing_error": (AccountRefused, 402),
    "permission_error": (KeyRefused, 403),
    "rate_limit_error": (RateLimited, 429),
    "api_error": (TransientError, 500),
    "timeout_error": (TransientError, 504),
    "overloaded_error": (TransientError, 529),
}
"""`error.type` → its kind, and the status that it has when it comes inside a stream."""


def check(account: Account, environ: Mapping[str, str]) -> None:
    """See `moa.providers.accounts.check_credentials`."""
    _key(account, environ)
    http.proxy_for(api_root(account, environ, None), environ)


def open_anthropic(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> WireProvider:
    """A provider for an account of wire `anthropic`."""
    base = api_root(account, environ, base_url)
    key = _key(account, environ)
    headers = {"Authorization": f"Bearer {key}", **_VERSION}
    if account.base_url is None:
        headers |= http.header_lines(environ.get("ANTHROPIC_CUSTOM_HEADERS", ""))
    transport = http.Transport(headers, proxy=http.proxy_for(base, environ))
    return WireProvider(account.name, AnthropicWire(account.name, base, key), transport)


def _key(account: Account, environ: Mapping[str, str]) -> str:
    names = [account.api_key_env] if account.api_key_env else ["ANTHROPIC_API_KEY"]
    if account.api_key_env is None:
        names.append("ANTHROPIC_AUTH_TOKEN")
    for name in names:
        if key := http.credential(environ, name, where=f"account {account.name!r}"):
            return key
    raise ConfigError(f"account {account.name!r}: set {names[0]}, its API key, in the environment")


def api_root(account: Account, environ: Mapping[str, str], override: str | None) -> URL:
    """Where the API is.

    Raises:
        ConfigError: a base URL is none.
    """
    text = override or account.base_url or environ.get("ANTHROPIC_BASE_URL") or _DEFAULT_URL
    return http.base_url(text, where=f"account {account.name!r}")


class AnthropicWire:
    """The format; see `moa.providers.wire.Wire`."""

    def __init__(
        self, name: str, base: URL, key: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        from anthropic.types import Message as VendorMessage  # seconds to import

        self.key = key
        self._name = name
        self._url = base / "v1/messages"
        self._clock = clock
        self._type = VendorMessage

    token = None

    def call(self, request: Request, *, stream: bool) -> Call:
        """See `Wire.call`."""
        document = request_document(request, self._name)
        if stream:
            document["stream"] = True
        sampled = "temperature" in document or "top_p" in document
        headers = VERSION_WITH_SAMPLING if sampled else None
        return Call(self._url, document, headers)

    def read(self, body: bytes) -> Completion | Fault:
        """See `Wire.read`."""
        try:
            answer = self._type.model_validate_json(body)
        except ValidationError:
            answer = self._read_loosely(body)
        return self._completion(answer)

    def _read_loosely(self, body: bytes) -> VendorMessage:
        """A block or a stop reason that this version of the SDK has no name for is no failure."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise faults.malformed(self._name, "the answer is no JSON") from None
        if not isinstance(document, dict) or not isinstance(document.get("content"), list):
            raise faults.malformed(self._name, "the answer is no message")
        return self._type.construct(**document)

    def _completion(self, answer: VendorMessage) -> Completion:
        stop = answer.stop_reason
        finish = _FINISH.get(stop or "")
        if finish is None:
            raise faults.malformed(self._name, "the model stopped for an unknown reason")
        text = "".join(block.text for block in answer.content if block.type == "text")
        calls = [
            turns.openai_tool_call(block.id, block.name, orjson.dumps(block.input).decode())
            for block in answer.content
            if block.type == "tool_use"
        ]
        nothing = not text and not calls and finish in ("stop", "tool_calls")
        if nothing and stop != "stop_sequence":  # it may well stop at once
            raise faults.empty(self._name, stop or "")
        return Completion(
            text=text,
            finish_reason=finish,
            usage=self._usage(answer),
            response_id=answer.id or "",
            served_model=answer.model or "",
            tool_calls=orjson.dumps(calls).decode() if calls else None,
            refused=stop == "refusal",
            service_tier=answer.usage.service_tier,
        )

    def _usage(self, answer: VendorMessage) -> Usage:
        usage = answer.usage
        if usage is None or usage.input_tokens is None or usage.output_tokens is None:
            raise faults.unbilled(self._name)
        read = usage.cache_read_input_tokens or 0
        written = usage.cache_creation_input_tokens or 0
        details = usage.output_tokens_details
        return Usage(
            input_tokens=usage.input_tokens + read + written,
            output_tokens=usage.output_tokens,
            cached_input_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=details.thinking_tokens if details else 0,
        )

    def reject(self, reply: http.Reply) -> Completion | Fault:
        """See `Wire.reject`."""
        return _fault(reply.status, reply.body, faults.retry_after_s(reply.headers, self._clock()))

    def limits(self, headers: Mapping[str, str]) -> VendorLimits:
        """See `Wire.limits`."""
        now_s = self._clock()
        name = "anthropic-ratelimit-{measure}-{part}"
        return vendor_limits(headers, name, lambda text: seconds_until(text, now_s))

    def assembly(self) -> AnthropicAssembly:
        """See `Wire.assembly`."""
        return AnthropicAssembly(self._name)


class AnthropicAssembly:
    """A streamed answer; see `moa.providers.wire.Assembly`."""

    def __init__(self, name: str) -> None:
        self.finished = False
        self.ended = False
        self._name = name
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        """Of the blocks that are tool calls, as text."""

    def add(self, event: bytes) -> CompletionDelta | Fault:
        """See `Assembly.add`."""
        document = orjson.loads(event)
        if document["type"] == "error":
            return _fault(200, event, None)
        return self._add_event(document)

    def _add_event(self, event: dict[str, Any]) -> CompletionDelta:
        match event["type"]:
            case "message_start":
                self._message = event["message"]
            case "content_block_start":
                return self._begin_block(event["index"], event["content_block"])
            case "content_block_delta":
                return self._add_delta(event["index"], event["delta"])
            case "message_delta":
                self._message |= {k: v for k, v in event["delta"].items() if v is not None}
                usage = {k: v for k, v in event["usage"].items() if v is not None}
                self._message["usage"] |= usage
            case "message_stop":
                self.finished = self.ended = True
        return CompletionDelta()

    def _begin_block(self, index: int, block: dict[str, Any]) -> CompletionDelta:
        self._blocks[index] = block
        if block["type"] != "tool_use":
            return CompletionDelta(block.get("text") or "")
        turns.openai_tool_call(block["id"], block["name"], "")
        self._inputs[index] = ""
        return CompletionDelta(
            calls=(CallPiece(len(self._inputs) - 1, block["id"], block["name"]),)
        )

    def _add_delta(self, index: int, delta: dict[str, Any]) -> CompletionDelta:
        if delta["type"] == "text_delta":
            self._blocks[index]["text"] += delta["text"]
            return CompletionDelta(delta["text"])
        if delta["type"] == "input_json_delta" and index in self._inputs:
            self._inputs[index] += delta["partial_json"]
            number = list(self._inputs).index(index)
            return CompletionDelta(calls=(CallPiece(number, arguments=delta["partial_json"]),))
        return CompletionDelta()

    def body(self) -> bytes:
        """See `Assembly.body`."""
        content = []
        for index, block in sorted(self._blocks.items()):
            if self._inputs.get(index):
                try:
                    block["input"] = orjson.loads(self._inputs[index])
                except orjson.JSONDecodeError:
                    if self._message.get("stop_reason") == "max_tokens":
                        continue  # the call was cut with the output: there is no call
                    raise faults.malformed(self._name, "a tool call's input is no JSON") from None
            content.append(block)
        return orjson.dumps({**self._message, "content": content})


def _fault(status: int, body: bytes, retry_after_s: float | None) -> Fault:
    """What an error says; inside a stream (`status` 200) its type stands for the status."""
    error = faults.error_document(body)
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    name = str(error.get("type") or "")
    of_type, usual_status = _TYPES.get(name, (None, 400))
    if status == 200:
        status = usual_status
    kind = _CODES.get(str(code)) or of_type or faults.kind_of(status)
    return Fault(kind, status, str(error.get("message") or ""), str(code or name), retry_after_s)


def seconds_until(text: str, now_s: float) -> float | None:
    """Seconds from `now_s` (since 1970) to an RFC 3339 time; 0 when it is past."""
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
