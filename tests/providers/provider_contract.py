"""What every provider does alike, whatever its wire and whoever plays the vendor.

A test file runs it by making a subclass whose name begins with `Test` and a fixture `side`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import orjson
import pytest

from moa.catalog import Account, Model
from moa.errors import (
    AccountRefused,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_provider
from moa.providers.provider import Answer, Completion, Provider, Request
from moa.request import ChatRequest, Effort

PROMPT = "Tell me, which city is the capital of France?"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

Kind = Literal[
    "ok",
    "tool_call",
    "refusal",
    "cut_by_limit",
    "error",
    "reset",
    "cut_json",
    "hang",
    "stream",
    "tool_stream",
    "broken_stream",
    "hanging_stream",
    "error_in_stream",
    "error_before_stream",
    "error_after_thoughts",
    "error_in_tool_call",
    "stream_without_end",
]


@dataclass(frozen=True, slots=True)
class Says:
    """What the vendor shall do with one call."""

    kind: Kind
    text: str = "Paris"
    """Of a completion; a stream sends it in two pieces."""
    status: int = 200
    message: str = "No."
    """The words of an error."""
    retry_after_s: float | None = None
    code: str | None = None
    """In place of the error's own."""


class OtherSide(Protocol):
    """Whoever plays the vendor. Its completions report 20 input tokens, 8 of them cached, and 5
    output tokens, 2 of them reasoning; its tool call is `weather({"city": "Paris"})`.
    """

    base_url: str
    """As `open_provider` takes it."""
    account: Account
    environ: dict[str, str]
    model: Model
    key: str
    """The credential that `environ` holds."""

    def script(self, *says: Says) -> None:
        """One for each call to come, the last one for all further calls."""
        ...

    @property
    def bodies(self) -> Sequence[dict[str, Any]]:
        """The JSON of each call so far."""
        ...

    @property
    def urls(self) -> Sequence[str]:
        """The path of each call so far."""
        ...

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        """Of a body with one call of a tool and its result: name and arguments, and the result.

        Fails where the result is not tied to the call.
        """
        ...

    async def reached(self) -> None:
        """Return when a call has come in."""
        ...

    async def left(self) -> None:
        """Return when a client has left before its answer had ended."""
        ...


Ask = Callable[..., Request]


def quoted_as_json(text: str) -> str:
    """As Python's json writes it: in ASCII."""
    return json.dumps(text)


def quoted_twice(text: str) -> str:
    """JSON inside of JSON, as tool calls have it."""
    return json.dumps(json.dumps(text))


class ProviderContract:
    """The contract."""

    @pytest.fixture
    async def provider(self, side: OtherSide) -> AsyncIterator[Provider]:
        provider = open_provider(side.account, environ=side.environ, base_url=side.base_url)
        yield provider
        await provider.close()

    @pytest.fixture
    def ask(self, side: OtherSide) -> Ask:
        def ask(**fields: object) -> Request:
            fields.setdefault("messages", [{"role": "user", "content": PROMPT}])
            return Request("q1", ChatRequest.model_validate(fields), side.model)

        return ask

    async def test_an_answer_becomes_a_completion(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok", "Paris"))

        completion = await _complete(provider, ask())

        assert completion.text == "Paris"
        assert completion.finish_reason == "stop"
        assert completion.tool_calls is None
        assert not completion.refused
        assert completion.response_id
        assert completion.served_model

    async def test_usage_is_what_is_billed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok"))

        usage = (await _complete(provider, ask())).usage

        assert usage.input_tokens == 20
        assert usage.cached_input_tokens == 8
        assert usage.output_tokens == 5
        assert usage.reasoning_tokens == 2

    async def test_the_prompt_and_the_model_go_out_once(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok"))

        await _complete(provider, ask())

        (body,), (url,) = side.bodies, side.urls
        assert orjson.dumps(body).decode().count(PROMPT) == 1
        assert side.model.api_name == body.get("model") or f"/{side.model.api_name}:" in url

    async def test_a_tool_call_comes_back_in_openai_form(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("tool_call"))

        completion = await _complete(provider, ask(tools=[TOOL]))

        assert completion.finish_reason == "tool_calls"
        (call,) = orjson.loads(completion.tool_calls or "[]")
        assert call["type"] == "function"
        assert call["id"]
        assert call["function"]["name"] == "weather"
        assert orjson.loads(call["function"]["arguments"]) == {"city": "Paris"}

    async def test_a_tool_call_can_be_sent_back_with_its_result(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("tool_call"), Says("ok"))
        first = await _complete(provider, ask(tools=[TOOL]))
        calls = orjson.loads(first.tool_calls or "[]")

        await _complete(
            provider,
            ask(
                tools=[TOOL],
                messages=[
                    {"role": "user", "content": PROMPT},
                    {"role": "assistant", "tool_calls": calls},
                    {"role": "tool", "tool_call_id": calls[0]["id"], "content": "11 degrees"},
                ],
            ),
        )

        called, answered = side.tool_round(side.bodies[1])
        assert called == ("weather", {"city": "Paris"})
        assert "11 degrees" in answered

    async def test_a_refusal_is_a_completion(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("refusal"))

        completion = await _complete(provider, ask())

        assert completion.refused

    async def test_an_answer_that_met_its_limit_says_so(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("cut_by_limit", "Par"))

        completion = await _complete(provider, ask(max_output_tokens=1))

        assert (completion.text, completion.finish_reason) == ("Par", "length")

    async def test_an_answer_of_thoughts_alone_that_met_its_limit_is_not_tried_again(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("cut_by_limit", ""))

        completion = await _complete(provider, ask(max_output_tokens=1))

        assert (completion.text, completion.finish_reason) == ("", "length")

    @pytest.mark.parametrize("status", [400, 404, 422])
    async def test_a_bad_request_is_not_tried_again(
        self, side: OtherSide, provider: Provider, ask: Ask, status: int
    ) -> None:
        side.script(Says("error", status=status))

        error = await _error(provider, ask())

        assert type(error) is InvalidRequest
        assert error.status == status

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(401, KeyRefused), (402, AccountRefused), (403, KeyRefused), (301, KeyRefused)],
    )
    async def test_a_refused_key_is_told_from_a_bill_that_is_not_paid(
        self,
        side: OtherSide,
        provider: Provider,
        ask: Ask,
        status: int,
        kind: type[AccountRefused],
    ) -> None:
        side.script(Says("error", status=status))

        error = await _error(provider, ask())

        assert type(error) is kind

    async def test_a_redirect_is_told_from_a_refused_key(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("error", status=308, message=""))

        error = await _error(provider, ask())

        assert "base URL" in error.detail

    async def test_a_429_says_how_long_to_wait(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("error", status=429, retry_after_s=7))

        error = await _error(provider, ask())

        assert type(error) is RateLimited
        assert error.retry_after_s == pytest.approx(7, abs=1)

    @pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
    async def test_a_server_error_may_be_tried_again(
        self, side: OtherSide, provider: Provider, ask: Ask, status: int
    ) -> None:
        side.script(Says("error", status=status))

        error = await _error(provider, ask())

        assert type(error) is TransientError
        assert error.status == status
        assert error.maybe_billed == (status in (408, 504))

    @pytest.mark.parametrize("status", [408, 409, 500, 503, 529])
    async def test_a_server_error_says_how_long_to_wait(
        self, side: OtherSide, provider: Provider, ask: Ask, status: int
    ) -> None:
        side.script(Says("error", status=status, retry_after_s=7), Says("error", status=status))

        told, untold = await _error(provider, ask()), await _error(provider, ask())

        assert isinstance(told, TransientError)
        assert told.retry_after_s == pytest.approx(7, abs=1)
        assert isinstance(untold, TransientError)
        assert untold.retry_after_s is None

    @pytest.mark.parametrize("kind", ["reset", "cut_json"])
    async def test_a_cut_answer_may_be_billed(
        self, side: OtherSide, provider: Provider, ask: Ask, kind: Kind
    ) -> None:
        side.script(Says(kind))

        error = await _error(provider, ask())

        assert isinstance(error, TransientError)
        assert error.maybe_billed

    async def test_an_empty_completion_may_be_tried_again(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok", ""))

        error = await _error(provider, ask())

        assert isinstance(error, TransientError)
        assert error.maybe_billed

    async def test_a_hang_ends_with_the_timeout_and_may_be_billed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("hang"))

        with pytest.raises(TransientError) as caught:
            await provider.complete(ask(), timeout_s=0.1)

        assert caught.value.maybe_billed

    async def test_no_connection_is_surely_not_billed(self, side: OtherSide, ask: Ask) -> None:
        provider = open_provider(side.account, environ=side.environ, base_url="http://127.0.0.1:1")

        error = await _error(provider, ask())

        await provider.close()
        assert isinstance(error, TransientError)
        assert not error.maybe_billed

    async def test_cancelling_a_call_hangs_up(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("hang"))
        call = asyncio.create_task(provider.complete(ask(), timeout_s=60))
        await asyncio.wait_for(side.reached(), 5)

        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(side.left(), 5)

    @pytest.mark.parametrize("url", ["data:text/html;base64,AA==", "data:image/png;base64,!!", "x"])
    async def test_what_is_no_image_is_refused_before_the_call(
        self, side: OtherSide, provider: Provider, ask: Ask, url: str
    ) -> None:
        image = {"type": "image_url", "image_url": {"url": url}}

        error = await _error(provider, ask(messages=[{"role": "user", "content": [image]}]))

        assert type(error) is InvalidRequest
        assert not side.bodies

    @pytest.mark.parametrize("effort", get_args(Effort))
    async def test_every_effort_is_put_in_words_that_the_vendor_has(
        self, side: OtherSide, provider: Provider, ask: Ask, effort: Effort
    ) -> None:
        side.script(Says("ok"))

        completion = await _complete(provider, ask(reasoning_effort=effort))

        assert completion.text == "Paris"

    async def test_a_vendors_own_turn_can_be_sent_back(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok"))
        theirs: dict[str, Any] = {
            "role": "assistant",
            "content": "Let me think.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning_content": "A thought of its own",
        }
        user = {"role": "user", "content": PROMPT}

        await _complete(provider, ask(messages=[user, theirs, user]))

        sent = orjson.dumps(side.bodies[0]).decode()
        assert "Let me think." in sent
        assert "A thought of its own" not in sent

    @pytest.mark.parametrize("status", [400, 401, 429, 500])
    async def test_an_error_quotes_neither_prompt_nor_key(
        self, side: OtherSide, provider: Provider, ask: Ask, status: int
    ) -> None:
        words = f"You sent {PROMPT!r} with {side.key}. " + "x" * 1000
        side.script(Says("error", status=status, message=words))

        error = await _error(provider, ask())

        assert "capital" not in str(error)
        assert side.key not in str(error)
        assert len(error.detail) < 400
        assert "You sent" in error.detail

    @pytest.mark.parametrize("status", [400, 429])
    @pytest.mark.parametrize("escaped", [repr, quoted_as_json, quoted_twice])
    async def test_an_error_quotes_no_part_of_the_request_in_any_form(
        self,
        side: OtherSide,
        provider: Provider,
        ask: Ask,
        status: int,
        escaped: Callable[[str], str],
    ) -> None:
        secret = 'Caf\u00e9 \U0001f600\n"sesame"\topens\\the d\u00f6or'
        schema = {"type": "object", "description": f"Of tools: {secret}"}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        side.script(Says("error", status=status, message=f"You sent {escaped(secret)}."))

        error = await _error(provider, ask(tools=[tool]))

        assert "You sent" in error.detail
        assert "sesame" not in error.detail
        assert "opens" not in error.detail

    @pytest.mark.parametrize("status", [400, 429])
    async def test_a_code_of_words_is_none(
        self, side: OtherSide, provider: Provider, ask: Ask, status: int
    ) -> None:
        side.script(Says("error", status=status, code=f"invalid: {PROMPT}"))

        error = await _error(provider, ask())

        assert error.code == ""
        assert "capital" not in str(error)

    async def test_a_long_requests_passing_error_leaves_its_words_out(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        message = {"role": "user", "content": f"{PROMPT} " * 3_000}
        side.script(
            Says("error", status=429, message=f"Wait: {PROMPT}"),
            Says("error", status=400, message=f"Wrong: {PROMPT}"),
        )

        passing = await _error(provider, ask(messages=[message]))
        lasting = await _error(provider, ask(messages=[message]))

        assert "Wait" not in passing.detail
        assert "Wrong" in lasting.detail
        assert "capital" not in lasting.detail

    async def test_what_the_wire_cannot_do_is_refused_before_the_call(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        image = {"type": "image_url", "image_url": {"url": "gs://bucket/cat.png"}}

        error = await _error(provider, ask(messages=[{"role": "user", "content": [image]}]))

        assert type(error) is InvalidRequest
        assert not side.bodies

    async def test_a_stream_gives_its_pieces_and_then_the_whole(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("stream", "Paris"))

        deltas = [delta async for delta in provider.stream(ask(), timeout_s=10)]

        assert "".join(delta.text for delta in deltas) == "Paris"
        assert len([delta for delta in deltas if delta.text]) == 2
        assert [delta for delta in deltas[:-1] if delta.completion] == []

    async def test_a_streamed_completion_equals_the_unstreamed_one(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("stream", "Paris"), Says("ok", "Paris"))

        streamed = [d.completion async for d in provider.stream(ask(), timeout_s=10)][-1]

        whole = await _complete(provider, ask())
        assert streamed is not None
        assert (streamed.text, streamed.usage) == (whole.text, whole.usage)
        assert streamed.finish_reason == whole.finish_reason

    async def test_the_pieces_of_a_streamed_call_are_the_call(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("tool_stream"))

        deltas = [delta async for delta in provider.stream(ask(tools=[TOOL]), timeout_s=10)]

        completion, pieces = deltas[-1].completion, [p for d in deltas for p in d.calls]
        assert completion is not None
        (call,) = orjson.loads(completion.tool_calls or "[]")
        assert deltas[0].calls, "the first piece came with the whole"
        assert {piece.number for piece in pieces} == {0}
        assert [piece.id for piece in pieces if piece.id] == [call["id"]]
        assert "".join(piece.name for piece in pieces) == call["function"]["name"] == "weather"
        arguments = "".join(piece.arguments for piece in pieces)
        assert arguments == call["function"]["arguments"]
        assert orjson.loads(arguments) == {"city": "Paris"}

    async def test_a_stream_that_breaks_may_be_billed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("broken_stream", "Paris"))

        pieces, error = await _broken(provider, ask())

        assert pieces
        assert isinstance(error, TransientError)
        assert error.maybe_billed

    async def test_an_error_in_the_middle_of_a_stream_may_be_billed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("error_in_stream", "Paris"))

        pieces, error = await _broken(provider, ask())

        assert pieces
        assert isinstance(error, TransientError)
        assert error.maybe_billed

    async def test_an_error_instead_of_a_stream_is_what_it_would_be_unstreamed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("error", status=401))

        pieces, error = await _broken(provider, ask())

        assert not pieces
        assert type(error) is KeyRefused

    async def test_an_error_before_the_first_piece_of_a_stream_is_not_billed(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("error_before_stream"))

        pieces, error = await _broken(provider, ask())

        assert not pieces
        assert isinstance(error, TransientError)
        assert not error.maybe_billed

    @pytest.mark.parametrize("kind", ["error_after_thoughts", "error_in_tool_call"])
    async def test_an_error_after_pieces_without_text_may_be_billed(
        self, side: OtherSide, provider: Provider, ask: Ask, kind: Kind
    ) -> None:
        side.script(Says(kind))

        pieces, error = await _broken(provider, ask())

        assert "".join(pieces) == ""
        assert isinstance(error, TransientError)
        assert error.maybe_billed

    async def test_a_stream_without_its_usage_is_cut(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("stream_without_end"))

        _, error = await _broken(provider, ask())

        assert isinstance(error, TransientError)
        assert error.code == "cut_stream"
        assert error.maybe_billed

    async def test_a_closed_provider_calls_nobody(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("ok"))
        await provider.close()

        error = await _error(provider, ask())

        assert isinstance(error, TransientError)
        assert not error.maybe_billed
        assert not side.bodies

    async def test_closing_a_stream_hangs_up(
        self, side: OtherSide, provider: Provider, ask: Ask
    ) -> None:
        side.script(Says("hanging_stream", "Paris"))
        stream: Any = provider.stream(ask(), timeout_s=60)
        await anext(stream)

        await stream.aclose()

        await asyncio.wait_for(side.left(), 5)


async def _complete(provider: Provider, request: Request) -> Completion:
    answer: Answer = await provider.complete(request, timeout_s=10)
    return answer.completion


async def _error(provider: Provider, request: Request) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(request, timeout_s=10)
    return caught.value


async def _broken(provider: Provider, request: Request) -> tuple[list[str], ProviderError]:
    pieces: list[str] = []

    async def take() -> None:
        async for delta in provider.stream(request, timeout_s=10):
            pieces.append(delta.text)  # noqa: PERF401 - what came must survive the error

    with pytest.raises(ProviderError) as caught:
        await take()
    return pieces, caught.value
