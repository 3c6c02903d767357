from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import Wire
from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_provider
from moa.providers.anthropic import seconds_until
from moa.providers.anthropic_request import alternating_turns
from moa.providers.provider import Answer, Completion, Request, VendorLimits
from tests.providers.dialects import AnthropicDialect, a_chat, a_model
from tests.providers.provider_contract import ProviderContract
from tests.providers.vendor_server import Scripted, VendorServer, answer

DIALECT = AnthropicDialect()


@pytest.fixture
def wire() -> Wire:
    return "anthropic"


class TestAnthropicKeepsTheContract(ProviderContract):
    pass


async def call(
    server: VendorServer, api_name: str = "claude-opus-5-5", lane: str = "live", /, **fields: object
) -> Answer:
    provider = open_provider(DIALECT.account, environ=DIALECT.environ, base_url=server.base_url)
    try:
        request = Request("q1", a_chat(**fields), a_model("anthropic", api_name), lane)
        return await provider.complete(request, timeout_s=10)
    finally:
        await provider.close()


async def sent(
    server: VendorServer, api_name: str = "claude-opus-5-5", /, **fields: object
) -> dict[str, Any]:
    """The body that a request becomes."""
    server.script(DIALECT.ok("Paris"))
    await call(server, api_name, **fields)
    return server.requests[-1].body


async def test_system_messages_become_the_system_prompt(vendor_server: VendorServer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Be kind."},
    ]

    body = await sent(vendor_server, messages=messages)

    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


async def test_the_output_limit_is_the_models_own_when_none_is_asked_for(
    vendor_server: VendorServer,
) -> None:
    body = await sent(vendor_server)

    assert body["max_tokens"] == 8_000


async def test_turns_of_one_side_in_a_row_become_one(vendor_server: VendorServer) -> None:
    messages = [
        {"role": "user", "content": "One"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Three"},
    ]

    body = await sent(vendor_server, messages=messages)

    (turn,) = body["messages"]
    assert [block["text"] for block in turn["content"]] == ["One", "Two", "Three"]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=3)), max_size=9))
async def test_turns_alternate_and_no_text_is_lost(turns: list[tuple[str, str]]) -> None:
    said = [{"role": role, "content": text} for role, text in turns]
    chat = a_chat(messages=[*said, {"role": "user", "content": "end"}])

    wire_turns = alternating_turns(chat, "anthropic")

    roles = [turn["role"] for turn in wire_turns]
    assert all(a != b for a, b in itertools.pairwise(roles))
    texts = [
        turn["content"]
        if isinstance(turn["content"], str)
        else "".join(block["text"] for block in turn["content"])
        for turn in wire_turns
    ]
    assert "".join(texts) == "".join(text for _, text in turns) + "end"


async def test_other_vendors_tool_ids_are_put_in_letters_that_are_taken(
    vendor_server: VendorServer,
) -> None:
    function = {"name": "f", "arguments": "{}"}
    call_made = {"id": "a.b/c", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call_made]},
        {"role": "tool", "tool_call_id": "a.b/c", "content": "1"},
    ]

    body = await sent(vendor_server, messages=messages)

    used, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert used["id"] == result["tool_use_id"] == "a_b_c"


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7},
        {"logprobs": True},
        {"presence_penalty": 0.5},
        {"temperature": 1.5},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"tool_choice": "required"},
        {"messages": [{"role": "user", "name": "ann", "content": "Hi"}]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[]"}}],
                },
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
                        }
                    ],
                }
            ]
        },
    ],
)
async def test_what_it_cannot_do_is_refused_not_dropped(
    vendor_server: VendorServer, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        await call(vendor_server, **fields)

    assert not vendor_server.requests


async def test_there_is_no_flex_lane(vendor_server: VendorServer) -> None:
    with pytest.raises(InvalidRequest, match="lane 'flex'"):
        await call(vendor_server, "claude-opus-5-5", "flex")


async def test_sampling_goes_out_under_the_version_that_has_it(
    vendor_server: VendorServer,
) -> None:
    plain = await sent(vendor_server)
    sampled = await sent(vendor_server, temperature=0.2, top_p=0.9)

    versions = [request.headers["anthropic-version"] for request in vendor_server.requests]
    assert versions == ["2026-10-21", "2023-06-01"]
    assert "temperature" not in plain
    assert (sampled["temperature"], sampled["top_p"]) == (0.2, 0.9)


@pytest.mark.parametrize(
    ("api_name", "effort", "thinking", "output_config"),
    [
        ("claude-opus-5-5", "high", {"type": "adaptive"}, {"effort": "high"}),
        ("claude-opus-4-6", "low", {"type": "adaptive"}, {"effort": "low"}),
        ("claude-opus-5-5", "minimal", None, {"effort": "low"}),
        ("claude-opus-5-5", "none", None, {"effort": "low"}),
        ("claude-opus-5-5", "xhigh", {"type": "adaptive"}, {"effort": "xhigh"}),
        ("claude-opus-5-5", "max", {"type": "adaptive"}, {"effort": "max"}),
        ("claude-opus-4-6", "xhigh", {"type": "adaptive"}, {"effort": "max"}),
        ("claude-haiku-4-5", "max", {"type": "enabled", "budget_tokens": 7_999}, None),
        ("claude-haiku-4-5", "none", None, None),
        ("claude-haiku-4-5", "low", {"type": "enabled", "budget_tokens": 1_024}, None),
        ("claude-haiku-4-5-20251001", "high", {"type": "enabled", "budget_tokens": 7_999}, None),
        ("claude-3-7-sonnet-20250219", "low", {"type": "enabled", "budget_tokens": 1_024}, None),
        ("claude-haiku-4-5", "minimal", None, None),
    ],
)
async def test_reasoning_effort_is_put_in_the_generations_own_way(
    vendor_server: VendorServer,
    api_name: str,
    effort: str,
    thinking: dict[str, Any] | None,
    output_config: dict[str, Any] | None,
) -> None:
    body = await sent(vendor_server, api_name, reasoning_effort=effort)

    assert body.get("thinking") == thinking
    assert body.get("output_config") == output_config


TOOLS = [{"type": "function", "function": {"name": "f"}}]
ROUND = [
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4"},
]


@pytest.mark.parametrize(
    ("api_name", "fields", "words"),
    [
        ("claude-opus-5-5", {"tools": TOOLS, "tool_choice": "required"}, "demands a call"),
        (
            "claude-haiku-4-5",
            {"tools": TOOLS, "tool_choice": {"function": {"name": "f"}}},
            "demands a call",
        ),
        ("claude-haiku-4-5", {"temperature": 0.5}, "temperature"),
        ("claude-haiku-4-5", {"top_p": 0.5}, "top_p"),
        ("claude-haiku-4-5", {"tools": TOOLS, "messages": ROUND}, "ends with a tool's result"),
    ],
)
async def test_what_goes_not_together_with_thinking_is_refused_before_the_call(
    vendor_server: VendorServer, api_name: str, fields: dict[str, Any], words: str
) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    with pytest.raises(InvalidRequest, match=words) as caught:
        await call(vendor_server, api_name, reasoning_effort="high", **fields)

    assert caught.value.code == "unable"
    assert not vendor_server.requests


@pytest.mark.parametrize(
    ("api_name", "fields"),
    [
        ("claude-opus-5-5", {"tools": TOOLS, "messages": ROUND}),
        ("claude-haiku-4-5", {"temperature": 1, "top_p": 0.95}),
        (
            "claude-haiku-4-5",
            {
                "messages": [
                    *ROUND,
                    {"role": "assistant", "content": "4."},
                    {"role": "user", "content": "And 5?"},
                ]
            },
        ),
    ],
)
async def test_what_goes_together_with_thinking_is_sent(
    vendor_server: VendorServer, api_name: str, fields: dict[str, Any]
) -> None:
    body = await sent(vendor_server, api_name, reasoning_effort="high", **fields)

    assert "thinking" in body


async def test_without_thinking_all_goes_together(vendor_server: VendorServer) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "messages": ROUND}

    body = await sent(
        vendor_server, "claude-haiku-4-5", reasoning_effort="none", temperature=0.5, **fields
    )

    assert body["tool_choice"] == {"type": "any"}
    assert "thinking" not in body


async def test_a_limit_too_small_to_think_in_is_refused(vendor_server: VendorServer) -> None:
    with pytest.raises(InvalidRequest, match=r"above 1024, .* got 500"):
        await call(
            vendor_server,
            "claude-haiku-4-5",
            reasoning_effort="low",
            max_output_tokens=500,
        )


def an_error(status: int, kind: str, code: str | None = None) -> Scripted:
    error: dict[str, Any] = {"type": kind, "message": "No."}
    if code:
        error["details"] = {"error_code": code}
    return answer({"type": "error", "error": error}, status=status)


@pytest.mark.parametrize(
    ("scripted", "kind"),
    [
        (an_error(400, "billing_error"), AccountRefused),
        (an_error(403, "billing_error"), AccountRefused),
        (an_error(401, "authentication_error"), KeyRefused),
        (an_error(403, "permission_error"), KeyRefused),
        (an_error(400, "invalid_request_error", "organization_on_hold"), AccountRefused),
        (an_error(429, "rate_limit_error", "enforced_spend_limit_reached"), AccountRefused),
        (an_error(429, "rate_limit_error", "contract_spend_limit_reached"), AccountRefused),
        (an_error(402, "billing_error"), AccountRefused),
        (
            an_error(402, "billing_error", "linked_organization_spend_limit_reached"),
            AccountRefused,
        ),
        (an_error(429, "rate_limit_error", "ramp_limit_exceeded"), RateLimited),
        (an_error(400, "invalid_request_error", "request_body_timeout"), TransientError),
        (an_error(413, "request_too_large"), ContextExceeded),
        (an_error(400, "invalid_request_error"), InvalidRequest),
        (an_error(529, "overloaded_error"), TransientError),
    ],
)
async def test_codes_decide_what_an_error_means(
    vendor_server: VendorServer, scripted: Scripted, kind: type[ProviderError]
) -> None:
    vendor_server.script(scripted)

    with pytest.raises(ProviderError) as caught:
        await call(vendor_server)

    assert type(caught.value) is kind


async def test_a_stop_sequence_at_once_is_a_whole_answer(vendor_server: VendorServer) -> None:
    vendor_server.script(answer(DIALECT.document([], "stop_sequence")))

    completion: Completion = (await call(vendor_server, stop=["END"])).completion

    assert (completion.text, completion.finish_reason) == ("", "stop")


async def test_a_block_that_the_sdk_does_not_know_is_no_failure(
    vendor_server: VendorServer,
) -> None:
    content = [{"type": "hologram", "shape": 1}, {"type": "text", "text": "Paris"}]
    vendor_server.script(answer(DIALECT.document(content, "end_turn")))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.text == "Paris"


@pytest.mark.parametrize(
    "document",
    [[], "Paris", {}, {"content": "Paris"}, DIALECT.document(["Paris"], "end_turn")],
)
async def test_garbage_is_no_completion(vendor_server: VendorServer, document: object) -> None:
    vendor_server.script(answer(document))

    with pytest.raises(TransientError) as caught:
        await call(vendor_server)

    assert caught.value.maybe_billed
    assert "Paris" not in str(caught.value)


LEVELS = {
    "requests": ("50", "49", "2001-01-01T00:00:00Z"),
    "tokens": ("60000", "54000", "2101-01-01T00:00:00Z"),
    "input-tokens": ("50000", "46000", "2101-01-01T00:00:00Z"),
    "output-tokens": ("10000", "8000", "2101-01-01T00:01:00Z"),
}


async def test_limits_are_read_from_the_headers(vendor_server: VendorServer) -> None:
    headers = {
        f"anthropic-ratelimit-{measure}-{part}": text
        for measure, texts in LEVELS.items()
        for part, text in zip(("limit", "remaining", "reset"), texts, strict=True)
    }
    vendor_server.script(Scripted(body=DIALECT.ok("Paris").body, headers=headers))

    limits = (await call(vendor_server)).limits()

    levels = [limits.requests, limits.tokens, limits.input_tokens, limits.output_tokens]
    assert [(level.limit, level.remaining) for level in levels if level] == [
        (50, 49),
        (60_000, 54_000),
        (50_000, 46_000),
        (10_000, 8_000),
    ]
    resets_s = [level.reset_s or 0 for level in levels if level]
    assert resets_s[0] == 0
    assert resets_s[1] > 1e9
    assert resets_s[3] - resets_s[1] == pytest.approx(60)


async def test_an_answer_that_says_nothing_of_limits_has_none(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    assert (await call(vendor_server)).limits() == VendorLimits()


@pytest.mark.parametrize(
    ("headers", "kind", "wait_s"),
    [
        ({"retry-after": "21"}, RateLimited, 21),
        ({}, RateLimited, None),
        ({"retry-after": "7200"}, QuotaSpent, 7200),
    ],
)
async def test_a_rate_waits_as_long_as_it_is_told(
    vendor_server: VendorServer,
    headers: dict[str, str],
    kind: type[RateLimited],
    wait_s: float | None,
) -> None:
    vendor_server.script(DIALECT.error(429, "No.", **headers))

    with pytest.raises(RateLimited) as caught:
        await call(vendor_server)

    assert type(caught.value) is kind
    assert caught.value.retry_after_s == wait_s


def test_a_reset_is_seconds_from_now() -> None:
    assert seconds_until("2026-11-24T00:01:00Z", 1795478400.0) == 60
    assert seconds_until("2026-11-24T02:01:00+02:00", 1795478400.0) == 60
    assert seconds_until("soon", 0) is None


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


def tool_stream(*pieces: str, stop: str) -> tuple[bytes, ...]:
    whole = DIALECT.stream("I look.")
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    last = {"stop_reason": stop, "stop_sequence": None}
    return (
        *whole[:5],
        DIALECT.event("content_block_start", index=1, content_block=block),
        *(DIALECT.event("content_block_delta", index=1, delta=delta) for delta in deltas),
        DIALECT.event("message_delta", delta=last, usage={"output_tokens": 5}),
        DIALECT.event("message_stop"),
    )


async def test_a_streamed_tool_call_is_put_together(vendor_server: VendorServer) -> None:
    completion = await streamed(
        vendor_server, *tool_stream('{"city": ', '"Paris"}', stop="tool_use")
    )

    assert completion.text == "I look."
    assert completion.finish_reason == "tool_calls"
    (made,) = orjson.loads(completion.tool_calls or "[]")
    assert orjson.loads(made["function"]["arguments"]) == {"city": "Paris"}


async def test_a_tool_call_that_was_cut_with_the_output_is_no_call(
    vendor_server: VendorServer,
) -> None:
    completion = await streamed(vendor_server, *tool_stream('{"city": "Pa', stop="max_tokens"))

    assert completion.tool_calls is None
    assert completion.finish_reason == "length"


async def test_a_call_without_arguments_streams_an_empty_object(
    vendor_server: VendorServer,
) -> None:
    vendor_server.script(Scripted(events=DIALECT.tool_stream("")))
    provider = open_provider(
        DIALECT.account, environ=DIALECT.environ, base_url=vendor_server.base_url
    )

    request = Request("q1", a_chat(), DIALECT.model)
    deltas = [delta async for delta in provider.stream(request, timeout_s=10)]

    await provider.close()
    assert "".join(piece.arguments for delta in deltas for piece in delta.calls) == "{}"
    assert orjson.loads(deltas[-1].completion.tool_calls)[0]["function"]["arguments"] == "{}"  # type: ignore[union-attr, arg-type]


async def test_the_kinds_of_tool_choice(vendor_server: VendorServer) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    named = {"type": "function", "function": {"name": "f"}}
    choices: list[Any] = ["auto", "none", "required", named]

    bodies = [await sent(vendor_server, tools=tools, tool_choice=choice) for choice in choices]

    assert [body["tool_choice"] for body in bodies] == [
        {"type": "auto"},
        {"type": "none"},
        {"type": "any"},
        {"type": "tool", "name": "f"},
    ]
