"""What each vendor says on the wire, as of November 2026: small, and only what matters here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from moa.catalog import Account, Limits, Model, Wire
from moa.providers.accounts import ABILITIES
from moa.request import ChatRequest
from tests.providers.vendor_server import Scripted, answer

KEY = "key-4f1c0ffee0dd"


def a_model(wire: Wire, api_name: str) -> Model:
    return Model(
        id=f"{wire}/{api_name}",
        provider=wire,
        api_name=api_name,
        context_window=100_000,
        max_output_tokens=8_000,
        abilities=ABILITIES[wire],
        limits=Limits(),
        price_provider=wire,
        price_ref=api_name,
    )


def a_chat(**fields: object) -> ChatRequest:
    fields.setdefault("messages", [{"role": "user", "content": "Capital of France?"}])
    return ChatRequest.model_validate(fields)


class Dialect(Protocol):
    """How one vendor would put what a test scripts."""

    wire: Wire
    account: Account
    environ: dict[str, str]
    model: Model
    suffix: str
    """What its SDK's base URL has after host and port."""

    def ok(self, text: str) -> Scripted:
        """With 20 input tokens, 8 of them cached, and 5 output tokens, 2 of them reasoning."""
        ...

    def tool_call(self, name: str, arguments: dict[str, Any]) -> Scripted: ...

    def refusal(self) -> Scripted: ...

    def cut_by_limit(self, text: str) -> Scripted: ...

    def error(
        self, status: int, message: str, code: str | None = None, /, **headers: str
    ) -> Scripted: ...

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        """See `OtherSide.tool_round`."""
        ...

    def stream(self, *texts: str) -> tuple[bytes, ...]:
        """The events of an answer with the usage of `ok`."""
        ...

    def tool_stream(self, *arguments: str) -> tuple[bytes, ...]:
        """The events of a call of `weather`, its arguments in pieces; Gemini's come whole."""
        ...

    def stream_error(self) -> bytes:
        """The event by which the vendor says that it is overloaded."""
        ...

    def thoughts(self) -> tuple[bytes, ...]:
        """The events of an answer that is still being thought about."""
        ...

    def begun_tool_call(self) -> tuple[bytes, ...]:
        """The events of half a call of `weather`."""
        ...

    def stream_without_end(self) -> tuple[bytes, ...]:
        """The events of an answer whose usage does not come."""
        ...


def _sse(document: object, name: str = "") -> bytes:
    event = f"event: {name}\n".encode() if name else b""
    return event + b"data: " + orjson.dumps(document) + b"\n\n"


@dataclass
class OpenAIDialect:
    wire: Wire = "openai"
    suffix: str = "/v1"

    def __post_init__(self) -> None:
        self.account = Account("openai", "openai", api_key_env="OPENAI_KEY_OF_TEST")
        self.environ = {"OPENAI_KEY_OF_TEST": KEY}
        self.model = a_model("openai", "gpt-6-mini")

    usage = {  # noqa: RUF012 - a constant
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    def document(self, message: dict[str, Any], finish: str) -> dict[str, Any]:
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1790000000,
            "model": "gpt-6-mini-2026-08-01",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "refusal": None, **message},
                    "logprobs": None,
                    "finish_reason": finish,
                }
            ],
            "usage": self.usage,
            "service_tier": "default",
            "system_fingerprint": "fp_1",
        }

    def ok(self, text: str) -> Scripted:
        return answer(self.document({"content": text}, "stop"))

    def tool_call(self, name: str, arguments: dict[str, Any]) -> Scripted:
        function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
        call = {"id": "call_1", "type": "function", "function": function}
        return answer(self.document({"content": None, "tool_calls": [call]}, "tool_calls"))

    def refusal(self) -> Scripted:
        return answer(self.document({"content": None, "refusal": "I can't."}, "stop"))

    def cut_by_limit(self, text: str) -> Scripted:
        return answer(self.document({"content": text}, "length"))

    def error(
        self, status: int, message: str, code: str | None = None, /, **headers: str
    ) -> Scripted:
        error = {"message": message, "type": "some_error", "param": None, "code": code}
        return answer({"error": error}, status=status, headers=headers)

    def chunk(self, choices: list[Any], **more: object) -> bytes:
        document = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1790000000,
            "model": "gpt-6-mini-2026-08-01",
            "choices": choices,
            **more,
        }
        return _sse(document)

    def delta(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self.chunk([{"index": 0, "delta": delta, "finish_reason": finish}], usage=None)

    def stream(self, *texts: str) -> tuple[bytes, ...]:
        return (
            self.delta({"role": "assistant", "content": ""}),
            *(self.delta({"content": text}) for text in texts),
            self.delta({}, "stop"),
            self.chunk([], usage=self.usage),
            b"data: [DONE]\n\n",
        )

    def tool_stream(self, *arguments: str) -> tuple[bytes, ...]:
        function = {"name": "weather", "arguments": ""}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        rest = [{"index": 0, "function": {"arguments": piece}} for piece in arguments]
        return (
            self.delta({"role": "assistant", "content": None, "tool_calls": [call]}),
            *(self.delta({"tool_calls": [piece]}) for piece in rest),
            self.delta({}, "tool_calls"),
            self.chunk([], usage=self.usage),
            b"data: [DONE]\n\n",
        )

    def stream_error(self) -> bytes:
        return _sse({"error": {"message": "overloaded", "type": "server_error", "code": None}})

    def thoughts(self) -> tuple[bytes, ...]:
        return (self.delta({"role": "assistant", "reasoning_content": "Hm."}),)

    def begun_tool_call(self) -> tuple[bytes, ...]:
        function = {"name": "weather", "arguments": '{"ci'}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return (self.delta({"role": "assistant", "tool_calls": [call]}),)

    def stream_without_end(self) -> tuple[bytes, ...]:
        return self.stream("Paris")[:-2]

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        assistant, tool = body["messages"][-2:]
        (call,) = assistant["tool_calls"]
        assert tool["role"] == "tool"
        assert tool["tool_call_id"] == call["id"]
        function = call["function"]
        return (function["name"], orjson.loads(function["arguments"])), tool["content"]


@dataclass
class AnthropicDialect:
    wire: Wire = "anthropic"
    suffix: str = ""

    def __post_init__(self) -> None:
        self.account = Account("anthropic", "anthropic", api_key_env="ANTHROPIC_KEY_OF_TEST")
        self.environ = {"ANTHROPIC_KEY_OF_TEST": KEY}
        self.model = a_model("anthropic", "claude-opus-5-5")

    usage = {  # noqa: RUF012 - a constant
        "input_tokens": 9,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 8,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
        "service_tier": "standard",
    }

    def document(self, content: list[Any], stop: str) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-5-5-20261001",
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": self.usage,
        }

    def ok(self, text: str) -> Scripted:
        return answer(self.document([{"type": "text", "text": text}], "end_turn"))

    def tool_call(self, name: str, arguments: dict[str, Any]) -> Scripted:
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}
        return answer(self.document([block], "tool_use"))

    def refusal(self) -> Scripted:
        return answer(self.document([{"type": "text", "text": "I can't."}], "refusal"))

    def cut_by_limit(self, text: str) -> Scripted:
        return answer(self.document([{"type": "text", "text": text}], "max_tokens"))

    def error(
        self, status: int, message: str, code: str | None = None, /, **headers: str
    ) -> Scripted:
        types = {429: "rate_limit_error", 401: "authentication_error", 529: "overloaded_error"}
        error: dict[str, Any] = {"type": types.get(status, "invalid_request_error")}
        error["message"] = message
        if status in (500, 503):
            error["type"] = "api_error"
        if code is not None:
            error["details"] = {"error_code": code}
        return answer({"type": "error", "error": error}, status=status, headers=headers)

    def stream(self, *texts: str) -> tuple[bytes, ...]:
        start = {**self.document([], "end_turn"), "stop_reason": None}
        start["usage"] = {**self.usage, "output_tokens": 1}
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": text} for text in texts]
        last = {"stop_reason": "end_turn", "stop_sequence": None}
        return (
            self.event("message_start", message=start),
            self.event("content_block_start", index=0, content_block=block),
            self.event("ping"),
            *(self.event("content_block_delta", index=0, delta=delta) for delta in deltas),
            self.event("content_block_stop", index=0),
            self.event("message_delta", delta=last, usage={"output_tokens": 5}),
            self.event("message_stop"),
        )

    def tool_stream(self, *arguments: str) -> tuple[bytes, ...]:
        block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in arguments]
        last = {"stop_reason": "tool_use", "stop_sequence": None}
        return (
            self.stream()[0],
            self.event("content_block_start", index=0, content_block=block),
            *(self.event("content_block_delta", index=0, delta=delta) for delta in deltas),
            self.event("content_block_stop", index=0),
            self.event("message_delta", delta=last, usage={"output_tokens": 5}),
            self.event("message_stop"),
        )

    def event(self, name: str, **fields: object) -> bytes:
        return _sse({"type": name, **fields}, name)

    def stream_error(self) -> bytes:
        error = {"type": "overloaded_error", "message": "Overloaded"}
        return _sse({"type": "error", "error": error}, "error")

    def thoughts(self) -> tuple[bytes, ...]:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        delta = {"type": "thinking_delta", "thinking": "Hm."}
        return (
            self.stream()[0],
            self.event("content_block_start", index=0, content_block=block),
            self.event("content_block_delta", index=0, delta=delta),
        )

    def begun_tool_call(self) -> tuple[bytes, ...]:
        block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": '{"ci'}
        return (
            self.stream()[0],
            self.event("content_block_start", index=0, content_block=block),
            self.event("content_block_delta", index=0, delta=delta),
        )

    def stream_without_end(self) -> tuple[bytes, ...]:
        return self.stream("Paris")[:-2]

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        assistant, user = body["messages"][-2:]
        (call,), (result,) = assistant["content"], user["content"]
        assert (call["type"], result["type"]) == ("tool_use", "tool_result")
        assert result["tool_use_id"] == call["id"]
        return (call["name"], call["input"]), result["content"]


@dataclass
class GeminiDialect:
    wire: Wire = "gemini"
    suffix: str = ""

    def __post_init__(self) -> None:
        self.account = Account("gemini", "gemini", api_key_env="GEMINI_KEY_OF_TEST")
        self.environ = {"GEMINI_KEY_OF_TEST": KEY}
        self.model = a_model("gemini", "gemini-3-flash")

    usage = {  # noqa: RUF012 - a constant
        "promptTokenCount": 20,
        "cachedContentTokenCount": 8,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 25,
    }

    def document(self, parts: list[Any], finish: str | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        return {
            "candidates": [candidate],
            "usageMetadata": self.usage,
            "modelVersion": "gemini-3-flash-002",
            "responseId": "resp_1",
        }

    def ok(self, text: str) -> Scripted:
        return answer(self.document([{"text": text}], "STOP"))

    def tool_call(self, name: str, arguments: dict[str, Any]) -> Scripted:
        call = {"functionCall": {"name": name, "args": arguments}, "thoughtSignature": "c2ln"}
        return answer(self.document([call], "STOP"))

    def refusal(self) -> Scripted:
        return answer(self.document([], "SAFETY"))

    def cut_by_limit(self, text: str) -> Scripted:
        return answer(self.document([{"text": text}], "MAX_TOKENS"))

    def error(
        self, status: int, message: str, code: str | None = None, /, **headers: str
    ) -> Scripted:
        error = {"code": status, "message": message, "status": code or "SOME_STATUS"}
        return answer({"error": error}, status=status, headers=headers)

    def stream(self, *texts: str) -> tuple[bytes, ...]:
        whole = [self.document([{"text": text}], None) for text in texts]
        return (*map(_sse, whole), _sse(self.document([{"text": ""}], "STOP")))

    def tool_stream(self, *arguments: str) -> tuple[bytes, ...]:
        call = {"functionCall": {"name": "weather", "args": orjson.loads("".join(arguments))}}
        return (
            _sse(self.document([call], None)),
            _sse(self.document([{"text": ""}], "STOP")),
        )

    def stream_error(self) -> bytes:
        return _sse({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}})

    def thoughts(self) -> tuple[bytes, ...]:
        return (_sse(self.document([{"text": "Hm.", "thought": True}], None)),)

    def begun_tool_call(self) -> tuple[bytes, ...]:
        call = {"functionCall": {"name": "weather", "args": {"city": "Paris"}}}
        return (_sse(self.document([call], None)),)

    def stream_without_end(self) -> tuple[bytes, ...]:
        return self.stream("Paris")[:-1]

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        model, user = body["contents"][-2:]
        call, result = model["parts"][0]["functionCall"], user["parts"][0]["functionResponse"]
        assert (result["name"], result["id"]) == (call["name"], call["id"])
        return (call["name"], call["args"]), result["response"]["output"]


DIALECTS: dict[Wire, Dialect] = {
    "openai": OpenAIDialect(),
    "anthropic": AnthropicDialect(),
    "gemini": GeminiDialect(),
}
