from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from moa.catalog import Account, Wire
from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    KeyRefused,
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_provider
from moa.providers.openai import OpenAIAssembly, OpenAIWire, seconds
from moa.providers.openai_request import request_document
from moa.providers.provider import (
    Answer,
    CallPiece,
    Completion,
    CompletionDelta,
    Request,
    VendorLevel,
    VendorLimits,
)
from tests.providers.dialects import OpenAIDialect, a_chat, a_model
from tests.providers.provider_contract import ProviderContract
from tests.providers.vendor_server import Scripted, VendorServer, answer

DIALECT = OpenAIDialect()


@pytest.fixture
def wire() -> Wire:
    return "openai"


class TestOpenAIKeepsTheContract(ProviderContract):
    pass


async def call(server: VendorServer, lane: str = "live", /, **fields: object) -> Answer:
    """The whole answer to one call."""
    provider = open_provider(
        DIALECT.account, environ=DIALECT.environ, base_url=server.base_url + "/v1"
    )
    try:
        request = Request("q1", a_chat(**fields), DIALECT.model, lane)
        return await provider.complete(request, timeout_s=10)
    finally:
        await provider.close()


async def failed(
    server: VendorServer, scripted: Scripted, lane: str = "live", /, **fields: object
) -> ProviderError:
    server.script(scripted)
    with pytest.raises(ProviderError) as caught:
        await call(server, lane, **fields)
    return caught.value


def an_error(status: int, code: object, kind: str = "invalid_request_error", **h: str) -> Scripted:
    error = {"message": "No.", "type": kind, "param": None, "code": code}
    return answer({"error": error}, status=status, headers=h)


async def test_a_developer_message_goes_out_as_system(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]

    await call(vendor_server, messages=messages)

    sent = vendor_server.requests[0].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user"]


async def test_no_more_output_is_asked_for_than_the_model_gives(
    vendor_server: VendorServer,
) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    await call(vendor_server, max_output_tokens=1_000_000)

    assert vendor_server.requests[0].body["max_completion_tokens"] == 8_000


async def test_the_flex_lane_is_a_service_tier(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    await call(vendor_server, "flex")

    assert vendor_server.requests[0].body["service_tier"] == "flex"


async def test_a_lane_that_the_vendor_has_not_is_refused(vendor_server: VendorServer) -> None:
    with pytest.raises(InvalidRequest, match="lane 'batch'"):
        await call(vendor_server, "batch")


@pytest.mark.parametrize(
    ("scripted", "kind"),
    [
        (an_error(429, "insufficient_quota", "insufficient_quota"), AccountRefused),
        (an_error(429, None, "insufficient_quota"), AccountRefused),
        (an_error(429, "credit_balance_exhausted", "insufficient_quota"), AccountRefused),
        (an_error(429, "organization_spend_limit_exceeded"), AccountRefused),
        (an_error(429, "organization_usage_limit_exceeded"), AccountRefused),
        (an_error(429, "project_spend_limit_exceeded"), AccountRefused),
        (an_error(400, "billing_hard_limit_reached"), AccountRefused),
        (an_error(400, "context_length_exceeded"), ContextExceeded),
        (an_error(413, None), ContextExceeded),
        (an_error(403, "model_not_found"), InvalidRequest),
        (an_error(429, "rate_limit_exceeded", "tokens"), RateLimited),
        (an_error(429, "slow_down", "rate_limit_error"), RateLimited),
        (an_error(503, "slow_down", "rate_limit_error"), RateLimited),
        (an_error(503, "server_is_overloaded", "service_unavailable_error"), TransientError),
        (an_error(429, "requests_per_day_exceeded", "requests"), QuotaSpent),
        (an_error(429, "rate_limit_exceeded", "requests", **{"retry-after": "3600"}), QuotaSpent),
        (an_error(429, "resource_unavailable"), RateLimited),
        (an_error(429, 429, "TooManyRequests"), RateLimited),
        (answer({"object": "error", "message": "No.", "code": 400}, status=400), InvalidRequest),
        (answer({"detail": [{"msg": "No.", "input": "secret"}]}, status=422), InvalidRequest),
        (answer({"error": {"message": "No.", "code": 400}}, status=502), TransientError),
        (answer({"error": None, "message": "No.", "code": "x"}, status=500), TransientError),
        (an_error(429, ["rate", "limit"]), RateLimited),
        (Scripted(status=502, body=b"<html>Bad gateway</html>"), TransientError),
        (Scripted(status=307, headers={"location": "http://127.0.0.1:1/"}), KeyRefused),
        (Scripted(status=202, body=b"{}"), TransientError),
        (an_error(401, "invalid_api_key"), KeyRefused),
        (an_error(401, "account_deactivated"), AccountRefused),
        (an_error(403, "unsupported_country_region_territory"), KeyRefused),
        (an_error(403, "billing_not_active"), AccountRefused),
    ],
)
async def test_codes_decide_what_an_error_means(
    vendor_server: VendorServer, scripted: Scripted, kind: type[ProviderError]
) -> None:
    error = await failed(vendor_server, scripted)

    assert type(error) is kind
    assert error.status == scripted.status
    assert "secret" not in str(error)


async def test_an_error_keeps_the_vendors_code(vendor_server: VendorServer) -> None:
    error = await failed(vendor_server, an_error(429, "resource_unavailable"))

    assert error.code == "resource_unavailable"


async def test_milliseconds_go_before_seconds(vendor_server: VendorServer) -> None:
    headers = {"retry-after-ms": "250", "retry-after": "1"}

    error = await failed(vendor_server, an_error(429, "rate_limit_exceeded", **headers))

    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 0.25


async def test_a_prompt_refused_by_azures_filter_is_a_refusal(vendor_server: VendorServer) -> None:
    vendor_server.script(an_error(400, "content_filter"))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.refused
    assert completion.finish_reason == "content_filter"


async def test_an_answer_that_the_filter_stopped_is_a_refusal(vendor_server: VendorServer) -> None:
    vendor_server.script(answer(DIALECT.document({"content": ""}, "content_filter")))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.refused


async def test_the_words_of_a_refusal_are_kept(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.refusal())

    completion: Completion = (await call(vendor_server)).completion

    assert completion.text == "I can't."


async def test_a_compatible_server_may_leave_much_out(vendor_server: VendorServer) -> None:
    bare = {
        "choices": [{"message": {"content": "Paris"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1},
    }
    vendor_server.script(answer(bare))

    completion: Completion = (await call(vendor_server)).completion

    assert (completion.text, completion.finish_reason) == ("Paris", "stop")
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (9, 1)


async def test_a_compatible_server_may_say_more(vendor_server: VendorServer) -> None:
    document = DIALECT.document({"content": "Paris", "reasoning_content": "Hm."}, "stop")
    vendor_server.script(answer({**document, "provider": "x", "service_tier": "odd"}))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.text == "Paris"


async def test_an_answer_without_usage_is_not_taken_and_not_bought_again(
    vendor_server: VendorServer,
) -> None:
    document = {**DIALECT.document({"content": "Paris"}, "stop"), "usage": None}

    error = await failed(vendor_server, answer(document))

    assert type(error) is InvalidRequest
    assert error.code == "usage_missing"


def with_usage(**usage: object) -> dict[str, Any]:
    return {**DIALECT.document({"content": "Paris"}, "stop"), "usage": usage}


@pytest.mark.parametrize(
    "document",
    [
        [],
        "Paris",
        {"choices": "Paris"},
        {"choices": []},
        {"choices": [{"message": "Paris"}]},
        {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}], "usage": {}},
        {"choices": [{"message": {"content": "Paris"}, "finish_reason": "error"}]},
        with_usage(prompt_tokens=9, completion_tokens="1"),
        with_usage(prompt_tokens=9, completion_tokens=9.5),
        with_usage(prompt_tokens=-9, completion_tokens=1),
        with_usage(prompt_tokens=True, completion_tokens=1),
        {**DIALECT.document({"content": "Paris"}, "stop"), "id": 5},
        DIALECT.document({"tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}, "stop"),
        DIALECT.document(
            {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}]}, "stop"
        ),
    ],
)
async def test_garbage_is_no_completion(vendor_server: VendorServer, document: object) -> None:
    error = await failed(vendor_server, answer(document))

    assert isinstance(error, TransientError)
    assert error.maybe_billed
    assert "Paris" not in str(error)


async def test_an_error_inside_a_success_is_an_error(vendor_server: VendorServer) -> None:
    openrouter = answer({"error": {"code": 429, "message": "Slow down."}})

    error = await failed(vendor_server, openrouter)

    assert type(error) is RateLimited


async def test_log_probabilities_are_passed_on(vendor_server: VendorServer) -> None:
    token = {"token": "Paris", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    document = DIALECT.document({"content": "Paris"}, "stop")
    document["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    vendor_server.script(answer(document))

    completion: Completion = (await call(vendor_server, logprobs=True)).completion

    assert orjson.loads(completion.logprobs or "{}")["content"] == [token]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(429, "resource_unavailable", RateLimited), (498, "capacity_exceeded", InvalidRequest)],
)
async def test_flex_without_capacity_is_told_from_what_it_would_be_live(
    vendor_server: VendorServer, status: int, code: str, kind: type[ProviderError]
) -> None:
    scripted = an_error(status, code, **{"retry-after": "2"})

    in_flex = await failed(vendor_server, scripted, "flex")
    live = await failed(vendor_server, scripted)

    assert type(in_flex) is LaneUnavailable
    assert (in_flex.status, in_flex.code, in_flex.retry_after_s) == (status, code, 2)
    assert not in_flex.maybe_billed
    assert type(live) is kind


async def test_flex_without_capacity_is_no_spent_quota_however_long_the_wait(
    vendor_server: VendorServer,
) -> None:
    scripted = an_error(429, "resource_unavailable", **{"retry-after": "3600"})

    error = await failed(vendor_server, scripted, "flex")

    assert type(error) is LaneUnavailable


async def test_a_rate_that_flex_meets_is_a_rate(vendor_server: VendorServer) -> None:
    error = await failed(vendor_server, an_error(429, "rate_limit_exceeded", "tokens"), "flex")

    assert type(error) is RateLimited


def rate_headers(**said: str) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": text for name, text in said.items()}


@pytest.mark.parametrize(
    ("headers", "kind", "wait_s"),
    [
        ({"remaining_requests": "0", "reset_requests": "23h59m51.36s"}, QuotaSpent, None),
        ({"remaining_tokens": "0", "reset_tokens": "7h12m0s"}, QuotaSpent, None),
        ({"remaining_requests": "0", "reset_requests": "1m0s"}, RateLimited, 8.64),
        ({"remaining_requests": "0"}, RateLimited, 8.64),
        ({"remaining_requests": "5000", "reset_requests": "12h0m0s"}, RateLimited, 8.64),
        ({}, RateLimited, 8.64),
    ],
)
async def test_a_day_that_trickles_in_by_seconds_is_a_spent_quota(
    vendor_server: VendorServer,
    headers: dict[str, str],
    kind: type[RateLimited],
    wait_s: float | None,
) -> None:
    """A day of 10,000 requests has room for one more every 8.64 s, and says so."""
    said = {"retry-after-ms": "8640", **rate_headers(**headers)}

    error = await failed(vendor_server, an_error(429, "rate_limit_exceeded", "requests", **said))

    assert type(error) is kind
    assert error.retry_after_s == wait_s


async def test_spent_money_is_no_spent_day(vendor_server: VendorServer) -> None:
    headers = rate_headers(remaining_requests="0", reset_requests="23h0m0s")

    error = await failed(vendor_server, an_error(429, "insufficient_quota", **headers))

    assert type(error) is AccountRefused


async def test_limits_are_read_from_the_headers(vendor_server: VendorServer) -> None:
    headers = rate_headers(
        limit_requests="10000",
        remaining_requests="9999",
        reset_requests="8.64s",
        limit_tokens="200000",
        remaining_tokens="199978",
        reset_tokens="6ms",
    )
    vendor_server.script(Scripted(body=DIALECT.ok("Paris").body, headers=headers))

    limits = (await call(vendor_server)).limits()

    assert limits == VendorLimits(
        requests=VendorLevel(10_000, 9_999, 8.64), tokens=VendorLevel(200_000, 199_978, 0.006)
    )


async def test_a_compatible_server_may_count_input_and_output_apart(
    vendor_server: VendorServer,
) -> None:
    headers = rate_headers(
        limit_input_tokens="5000", remaining_output_tokens="soon", reset_output_tokens="1m30s"
    )
    vendor_server.script(Scripted(body=DIALECT.ok("Paris").body, headers=headers))

    limits = (await call(vendor_server)).limits()

    assert limits == VendorLimits(
        input_tokens=VendorLevel(5_000, None, None), output_tokens=VendorLevel(None, None, 90)
    )


async def test_a_server_that_says_nothing_of_limits_has_none(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    assert (await call(vendor_server)).limits() == VendorLimits()


@given(hours=st.integers(0, 48), minutes=st.integers(0, 59), milliseconds=st.integers(0, 59_999))
def test_any_duration_is_read(hours: int, minutes: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{milliseconds / 1000}s"

    assert seconds(text) == pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)


@pytest.mark.parametrize("text", ["", "soon", "1", "1s later", "-1s"])
def test_what_is_no_duration_is_unknown(text: str) -> None:
    assert seconds(text) is None


async def test_a_streamed_tool_call_is_put_together(vendor_server: VendorServer) -> None:
    def piece(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": function}]}

    opening = piece(name="weather", arguments="")
    opening["tool_calls"][0] |= {"id": "call_1", "type": "function"}
    vendor_server.script(
        Scripted(
            events=(
                DIALECT.delta(opening),
                DIALECT.delta(piece(arguments='{"city"')),
                DIALECT.delta(piece(arguments=':"Paris"}')),
                DIALECT.delta({}, "tool_calls"),
                DIALECT.chunk([], usage=DIALECT.usage),
                b"data: [DONE]\n\n",
            )
        )
    )
    provider = open_provider(
        DIALECT.account, environ=DIALECT.environ, base_url=vendor_server.base_url
    )

    deltas = [d async for d in provider.stream(Request("q1", a_chat(), DIALECT.model), timeout_s=9)]

    await provider.close()
    assert [delta.calls for delta in deltas] == [
        (CallPiece(0, "call_1", "weather"),),
        (CallPiece(0, arguments='{"city"'),),
        (CallPiece(0, arguments=':"Paris"}'),),
        (),
    ]
    completion = deltas[-1].completion
    assert completion is not None
    (tool_call,) = orjson.loads(completion.tool_calls or "[]")
    assert tool_call["id"] == "call_1"
    assert tool_call["function"] == {"name": "weather", "arguments": '{"city":"Paris"}'}


async def streamed(server: VendorServer, *events: bytes) -> Completion:
    server.script(Scripted(events=events))
    provider = open_provider(DIALECT.account, environ=DIALECT.environ, base_url=server.base_url)
    try:
        request = Request("q1", a_chat(), DIALECT.model)
        deltas = [delta async for delta in provider.stream(request, timeout_s=10)]
        assert deltas[-1].completion is not None
        return deltas[-1].completion
    finally:
        await provider.close()


async def test_a_chunk_whose_error_is_null_is_no_error(vendor_server: VendorServer) -> None:
    choice = {"index": 0, "delta": {"content": "Paris"}, "finish_reason": None}
    first = DIALECT.chunk([choice], error=None)

    completion = await streamed(vendor_server, first, *DIALECT.stream()[1:])

    assert completion.text == "Paris"


async def test_tool_calls_without_an_index_are_told_apart_by_their_ids(
    vendor_server: VendorServer,
) -> None:
    def piece(call_id: str | None, **function: str) -> bytes:
        return DIALECT.delta({"tool_calls": [{"id": call_id, "function": function}]})

    completion = await streamed(
        vendor_server,
        piece("a", name="f", arguments='{"x"'),
        piece(None, arguments=":1}"),
        piece("b", name="g", arguments="{}"),
        *DIALECT.stream()[1:],
    )

    calls = orjson.loads(completion.tool_calls or "[]")
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "{}"),
    ]


async def test_the_usage_may_come_with_the_last_words(vendor_server: VendorServer) -> None:
    choice = {"index": 0, "delta": {"content": "Paris"}, "finish_reason": "stop"}

    completion = await streamed(vendor_server, DIALECT.chunk([choice], usage=DIALECT.usage))

    assert completion.usage.input_tokens == 20


async def test_a_stream_that_ends_without_usage_on_purpose_is_not_bought_again(
    vendor_server: VendorServer,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await streamed(vendor_server, *DIALECT.stream("Paris")[:-2], b"data: [DONE]\n\n")

    assert caught.value.code == "usage_missing"


async def test_streamed_log_probabilities_are_put_together(vendor_server: VendorServer) -> None:
    tokens: list[dict[str, Any]] = [
        {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}
        for text in ("Pa", "ris")
    ]
    chunks = [
        DIALECT.chunk(
            [{"index": 0, "delta": {"content": t["token"]}, "logprobs": {"content": [t]}}]
        )
        for t in tokens
    ]

    completion = await streamed(vendor_server, *chunks, *DIALECT.stream()[1:])

    assert orjson.loads(completion.logprobs or "{}")["content"] == tokens


@pytest.mark.parametrize(
    ("api_name", "effort", "sent"),
    [
        ("o3-mini", "none", "low"),
        ("o4-mini", "max", "high"),
        ("gpt-5-mini", "none", "minimal"),
        ("gpt-5.1", "minimal", "low"),
        ("gpt-5.2", "max", "xhigh"),
        ("openai/gpt-5.4", "none", "none"),
        ("gpt-6.1-sol", "max", "max"),
        ("qwen3-32b", "minimal", "minimal"),
    ],
)
def test_an_effort_goes_to_the_nearest_that_the_generation_has(
    api_name: str, effort: str, sent: str
) -> None:
    request = Request("q1", a_chat(reasoning_effort=effort), a_model("openai", api_name))

    assert request_document(request, "openai")["reasoning_effort"] == sent


async def test_an_images_url_goes_out_as_it_is(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}

    await call(vendor_server, messages=[{"role": "user", "content": [image]}])

    assert vendor_server.requests[0].body["messages"][0]["content"] == [image]


async def test_a_stream_asks_for_its_usage(vendor_server: VendorServer) -> None:
    vendor_server.script(Scripted(events=DIALECT.stream("Paris")))
    provider = open_provider(
        DIALECT.account, environ=DIALECT.environ, base_url=vendor_server.base_url
    )

    async for _ in provider.stream(Request("q1", a_chat(), DIALECT.model), timeout_s=10):
        pass

    await provider.close()
    body = vendor_server.requests[0].body
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_streamed_text_is_the_sum_of_its_pieces(texts: list[str]) -> None:
    assembly = OpenAIAssembly()
    events = [event.removeprefix(b"data: ").strip() for event in DIALECT.stream(*texts)]

    pieces = [assembly.add(event) for event in events]

    completion = OpenAIWire("openai", URL("http://localhost"), "").read(assembly.body())
    assert isinstance(completion, Completion)
    assert assembly.finished
    said = [piece.text for piece in pieces if isinstance(piece, CompletionDelta)]
    assert "".join(said) == completion.text == "".join(texts)


async def test_a_server_of_ones_own_needs_no_key_and_hears_of_no_organisation(
    vendor_server: VendorServer,
) -> None:
    vendor_server.script(DIALECT.ok("Paris"))
    account = Account("ours", "openai", base_url=vendor_server.base_url + "/v1")
    provider = open_provider(account, environ={"OPENAI_ORG_ID": "org-1", "OPENAI_API_KEY": "k"})

    await provider.complete(Request("q1", a_chat(), DIALECT.model), timeout_s=10)

    await provider.close()
    assert "authorization" not in vendor_server.requests[0].headers
    assert "openai-organization" not in vendor_server.requests[0].headers


async def test_the_sdks_variables_are_heeded(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))
    environ = {
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": vendor_server.base_url + "/v1/",
        "OPENAI_ORG_ID": "org-1",
        "OPENAI_PROJECT_ID": "proj-1",
        "OPENAI_CUSTOM_HEADERS": "X-Team: nightly\nbroken line",
    }
    provider = open_provider(Account("openai", "openai"), environ=environ)

    await provider.complete(Request("q1", a_chat(), DIALECT.model), timeout_s=10)

    await provider.close()
    received = vendor_server.requests[0]
    assert received.path == "/v1/chat/completions"
    assert received.headers["openai-organization"] == "org-1"
    assert received.headers["openai-project"] == "proj-1"
    assert received.headers["x-team"] == "nightly"
    assert received.headers["authorization"] == "Bearer k"
