"""OpenAI's chat completions: also what vLLM, OpenRouter and Azure's v1 endpoint speak.

What is not known: which limit a 429 was about. OpenAI gives the same code for requests per minute
and per day, and a wait of seconds for either (a day's quota trickles in). So a daily quota is
recognised by headers that show nothing left of a limit that takes longer than minutes to be whole,
by a wait of minutes, or by a code that says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from yarl import URL

from moa.catalog import Account
from moa.errors import (
    AccountRefused,
    ConfigError,
    ContextExceeded,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers import faults, http
from moa.providers.faults import Fault
from moa.providers.openai_request import request_document
from moa.providers.provider import (
    CallPiece,
    Completion,
    CompletionDelta,
    Request,
    Usage,
    VendorLimits,
)
from moa.providers.turns import openai_tool_call
from moa.providers.wire import Call, WireProvider, vendor_limits

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_DEFAULT_URL = "https://api.openai.com/v1"

_CODES: dict[str, type[ProviderError]] = {
    "account_deactivated": AccountRefused,
    "billing_hard_limit_reached": AccountRefused,
    "billing_not_active": AccountRefused,
    "credit_balance_exhausted": AccountRefused,
    "insufficient_quota": AccountRefused,
    "organization_spend_limit_exceeded": AccountRefused,
    "organization_usage_limit_exceeded": AccountRefused,
    "project_spend_limit_exceeded": AccountRefused,
    "invalid_api_key": KeyRefused,
    "context_length_exceeded": ContextExceeded,
    "exceed_context_size_error": ContextExceeded,  # llama.cpp
    "string_above_max_length": ContextExceeded,
    "model_not_found": InvalidRequest,  # comes as 403 too: this model, not the account
    "rate_limit_error": RateLimited,
    "rate_limit_exceeded": RateLimited,
    "slow_down": RateLimited,  # came as 503 once
    "server_error": TransientError,
}
"""Codes, and types where there is no code, that say more than the status."""

_NO_CAPACITY = ("resource_unavailable", "capacity_exceeded")
"""What flex says when it is full; the latter is Groq's, with its status 498."""

_REFUSALS = ("content_filter", "content_policy_violation")
"""The prompt was refused before a model saw it (Azure)."""

_FINISH = {
    "function_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def check(account: Account, environ: Mapping[str, str]) -> None:
    """See `moa.providers.accounts.check_credentials`."""
    _key(account, environ)
    http.proxy_for(api_root(account, environ, None), environ)


def open_openai(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> WireProvider:
    """A provider for an account of wire `openai`."""
    base = api_root(account, environ, base_url)
    key = _key(account, environ)
    headers = _headers(account, environ, base)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    transport = http.Transport(headers, proxy=http.proxy_for(base, environ))
    return WireProvider(account.name, OpenAIWire(account.name, base, key), transport)


def _key(account: Account, environ: Mapping[str, str]) -> str:
    """The key; `""` for a server of one's own that names none."""
    if account.api_key_env is None and account.base_url is not None:
        return ""
    name = account.api_key_env or "OPENAI_API_KEY"
    key = http.credential(environ, name, where=f"account {account.name!r}")
    if not key:
        raise ConfigError(f"account {account.name!r}: set {name}, its API key, in the environment")
    return key


def api_root(account: Account, environ: Mapping[str, str], override: str | None) -> URL:
    """Where the API is.

    Raises:
        ConfigError: a base URL is none.
    """
    text = override or account.base_url or environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
    return http.base_url(text, where=f"account {account.name!r}")


def _headers(account: Account, environ: Mapping[str, str], base: URL) -> dict[str, str]:
    """What the SDK takes from the environment; another vendor's server is not told of it."""
    if account.base_url is not None and not (base.host or "").endswith("openai.com"):
        return {}
    headers = http.header_lines(environ.get("OPENAI_CUSTOM_HEADERS", ""))
    for name, variable in (
        ("OpenAI-Organization", "OPENAI_ORG_ID"),
        ("OpenAI-Project", "OPENAI_PROJECT_ID"),
    ):
        if environ.get(variable):
            headers[name] = environ[variable]
    return headers


class OpenAIWire:
    """The format; see `moa.providers.wire.Wire`."""

    def __init__(
        self, name: str, base: URL, key: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        from openai.types.chat import ChatCompletion  # seconds to import

        self.key = key
        self._name = name
        self._url = base / "chat/completions"
        self._clock = clock
        self._type = ChatCompletion

    token = None

    def call(self, request: Request, *, stream: bool) -> Call:
        """See `Wire.call`."""
        document = request_document(request, self._name)
        if stream:
            document["stream"] = True
            document["stream_options"] = {"include_usage": True}
        return Call(self._url, document)

    def read(self, body: bytes) -> Completion | Fault:
        """See `Wire.read`."""
        try:
            answer = self._type.model_validate_json(body)
        except ValidationError:
            return self._read_loosely(body)
        return self._completion(answer)

    def _read_loosely(self, body: bytes) -> Completion | Fault:
        """Compatible servers leave out what the type demands: take them as the SDK does."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise faults.malformed(self._name, "the answer is no JSON") from None
        if not isinstance(document, dict):
            raise faults.malformed(self._name, "the answer is no JSON object")
        if document.get("error") is not None and not document.get("choices"):
            return _fault(200, body, None)
        return self._completion(self._type.construct(**document))

    def _completion(self, answer: ChatCompletion) -> Completion:
        if not answer.choices:
            raise faults.malformed(self._name, "the answer has no choices")
        choice = answer.choices[0]
        message = choice.message
        finish: str = choice.finish_reason or "stop"
        finish = _FINISH.get(finish, finish)
        if finish not in ("stop", "length", "tool_calls", "content_filter"):
            raise faults.malformed(self._name, "the model stopped for an unknown reason")
        refused = bool(message.refusal) or finish == "content_filter"
        text = _text(message.content) or message.refusal or ""
        if not (text or message.tool_calls or refused or finish == "length"):
            raise faults.empty(self._name, finish)
        return Completion(
            text=text,
            finish_reason=finish,
            usage=self._usage(answer),
            response_id=answer.id or "",
            served_model=answer.model or "",
            tool_calls=_tool_calls(message.tool_calls) if message.tool_calls else None,
            refused=refused,
            logprobs=choice.logprobs.model_dump_json() if choice.logprobs else None,
            service_tier=answer.service_tier,
        )

    def _usage(self, answer: ChatCompletion) -> Usage:
        usage = answer.usage
        if usage is None or usage.prompt_tokens is None:
            raise faults.unbilled(self._name)
        of_prompt, of_output = usage.prompt_tokens_details, usage.completion_tokens_details
        return Usage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens or 0,
            cached_input_tokens=(of_prompt and of_prompt.cached_tokens) or 0,
            cache_write_tokens=(of_prompt and of_prompt.cache_write_tokens) or 0,
            reasoning_tokens=(of_output and of_output.reasoning_tokens) or 0,
        )

    def reject(self, reply: http.Reply) -> Completion | Fault:
        """See `Wire.reject`."""
        error = faults.error_document(reply.body)
        flagged = isinstance(error.get("metadata"), dict) and "flagged_input" in error["metadata"]
        if str(error.get("code")) in _REFUSALS or flagged:  # the latter is OpenRouter's moderation
            return Completion("", "content_filter", Usage(0, 0), "", "", refused=True)
        wait_s = faults.retry_after_s(reply.headers, self._clock())
        fault = _fault(reply.status, reply.body, wait_s)
        if fault.kind is RateLimited and _day_is_spent(self.limits(reply.headers)):
            return replace(fault, kind=QuotaSpent)
        return fault

    def limits(self, headers: Mapping[str, str]) -> VendorLimits:
        """See `Wire.limits`; OpenAI counts tokens together, compatible servers also apart."""
        return vendor_limits(headers, "x-ratelimit-{part}-{measure}", seconds)

    def assembly(self) -> OpenAIAssembly:
        """See `Wire.assembly`."""
        return OpenAIAssembly()


class OpenAIAssembly:
    """A streamed answer; see `moa.providers.wire.Assembly`."""

    def __init__(self) -> None:
        self.ended = False
        self._stopped = False
        self._whole: dict[str, Any] = {"object": "chat.completion"}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[int, dict[str, Any]] = {}
        self._choice: dict[str, Any] = {"index": 0, "message": self._message}

    @property
    def finished(self) -> bool:
        """See `Assembly.finished`: the usage comes after the reason why the model stopped."""
        return self._stopped and (self.ended or "usage" in self._whole)

    def add(self, event: bytes) -> CompletionDelta | Fault:
        """See `Assembly.add`."""
        if event.strip() == b"[DONE]":
            self.ended = True
            return CompletionDelta()
        chunk = orjson.loads(event)
        if chunk.get("error") is not None:
            return _fault(200, event, None)
        return self._add_chunk(chunk)

    def _add_chunk(self, chunk: dict[str, Any]) -> CompletionDelta:
        for name in ("id", "model", "created", "service_tier", "usage"):
            if chunk.get(name) is not None:
                self._whole[name] = chunk[name]
        choices = chunk.get("choices")
        if not choices:
            return CompletionDelta()
        choice = choices[0]  # more were not asked for
        if choice.get("finish_reason"):
            self._choice["finish_reason"] = choice["finish_reason"]
            self._stopped = True
        delta = choice.get("delta") or {}
        return CompletionDelta(
            self._add_words("content", delta),
            refusal=self._add_words("refusal", delta),
            calls=tuple([self._add_call(piece) for piece in delta.get("tool_calls") or ()]),
            logprobs=self._add_logprobs(choice.get("logprobs") or {}),
        )

    def _add_words(self, name: str, delta: dict[str, Any]) -> str:
        words: str = delta.get(name) or ""
        if words:
            self._message[name] = (self._message.get(name) or "") + words
        return words

    def _add_call(self, piece: dict[str, Any]) -> CallPiece:
        """Add to a tool call; servers that leave the index out begin each call with its id."""
        index = piece.get("index")
        if index is None:
            index = max(self._calls, default=-1)
            if index < 0 or piece.get("id") not in (None, "", self._calls[index]["id"]):
                index += 1
        call = self._calls.setdefault(index, openai_tool_call("", "", ""))
        function = piece.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        call_id = "" if call["id"] else piece.get("id") or ""
        added = openai_tool_call(call_id, name, arguments)
        call["id"] += added["id"]
        call["function"]["name"] += name
        call["function"]["arguments"] += arguments
        return CallPiece(list(self._calls).index(index), call_id, name, arguments)

    def _add_logprobs(self, logprobs: dict[str, Any]) -> str | None:
        found = {name: logprobs.get(name) or None for name in ("content", "refusal")}
        if not any(found.values()):
            return None
        for name, tokens in found.items():
            if tokens:
                self._choice.setdefault("logprobs", {}).setdefault(name, []).extend(tokens)
        return orjson.dumps(found).decode()

    def body(self) -> bytes:
        """See `Assembly.body`."""
        if self._calls:
            self._message["tool_calls"] = list(self._calls.values())
        return orjson.dumps({**self._whole, "choices": [self._choice]})


def _text(content: object) -> str:
    """The text of a message; some compatible servers send a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    return content or ""


def _tool_calls(calls: list[Any]) -> str:
    return orjson.dumps(
        [openai_tool_call(c.id or "", c.function.name, c.function.arguments or "") for c in calls]
    ).decode()


def _fault(status: int, body: bytes, retry_after_s: float | None) -> Fault:
    """What an error says; inside a successful answer its code is the only status there is."""
    error = faults.error_document(body)
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:  # OpenRouter and vLLM repeat the status
        status, code = (code if status == 200 else status), error.get("type")
    if status == 200:
        status = 502  # whoever says this is a gateway
    name = str(code or error.get("type") or "").lower()
    kind = _CODES.get(name) or _CODES.get(str(error.get("type") or "")) or faults.kind_of(status)
    if issubclass(kind, RateLimited) and ("per_day" in name or "daily" in name):
        kind = QuotaSpent
    message = str(error.get("message") or "")
    return Fault(kind, status, message, name, retry_after_s, no_capacity=name in _NO_CAPACITY)


def _day_is_spent(limits: VendorLimits) -> bool:
    """Whether nothing is left of a limit that takes longer to be whole than any per minute."""
    return any(
        level is not None
        and level.remaining is not None
        and level.remaining < 1
        and (level.reset_s or 0) > faults.LONG_WAIT_S
        for level in limits
    )


def seconds(text: str) -> float | None:
    """The seconds of `12ms`, `1s` or `6m0s`; `None` of anything else."""
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in found)
