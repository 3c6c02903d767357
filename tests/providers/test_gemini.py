from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from google import genai
from google.genai._transformers import t_model
from google.oauth2.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from moa.catalog import Account, Wire
from moa.errors import (
    AccountRefused,
    InvalidRequest,
    KeyRefused,
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_provider
from moa.providers.faults import Fault
from moa.providers.gemini import GeminiWire, models_root, vertex_path
from moa.providers.gemini_request import alternating_contents
from moa.providers.gemini_stream import GeminiAssembly
from moa.providers.provider import (
    Answer,
    Completion,
    CompletionDelta,
    Request,
    VendorLimits,
)
from tests.providers.dialects import GeminiDialect, a_chat, a_model
from tests.providers.provider_contract import ProviderContract
from tests.providers.vendor_server import Scripted, VendorServer, answer

DIALECT = GeminiDialect()
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def wire() -> Wire:
    return "gemini"


class TestGeminiKeepsTheContract(ProviderContract):
    pass


async def call(
    server: VendorServer, api_name: str = "gemini-3-flash", lane: str = "live", /, **fields: object
) -> Answer:
    provider = open_provider(DIALECT.account, environ=DIALECT.environ, base_url=server.base_url)
    try:
        request = Request("q1", a_chat(**fields), a_model("gemini", api_name), lane)
        return await provider.complete(request, timeout_s=10)
    finally:
        await provider.close()


async def sent(
    server: VendorServer, api_name: str = "gemini-3-flash", /, **fields: object
) -> dict[str, Any]:
    """The body that a request becomes."""
    server.script(DIALECT.ok("Paris"))
    await call(server, api_name, **fields)
    return server.requests[-1].body


async def failed(server: VendorServer, scripted: Scripted, lane: str = "live") -> ProviderError:
    server.script(scripted)
    with pytest.raises(ProviderError) as caught:
        await call(server, "gemini-3-flash", lane)
    return caught.value


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=3)), max_size=9))
def test_turns_alternate_and_no_text_is_lost(turns: list[tuple[str, str]]) -> None:
    said = [{"role": role, "content": text} for role, text in turns]
    chat = a_chat(messages=[*said, {"role": "user", "content": "end"}])

    contents = alternating_contents(chat, "gemini", signed=True)

    roles = [content["role"] for content in contents]
    assert all(a != b for a, b in itertools.pairwise(roles))
    texts = [part["text"] for content in contents for part in content["parts"]]
    assert "".join(texts) == "".join(text for _, text in turns) + "end"


async def test_several_system_messages_are_parts_of_one_instruction(
    vendor_server: VendorServer,
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]

    body = await sent(vendor_server, messages=messages)

    parts = body["systemInstruction"]["parts"]
    assert [part["text"] for part in parts] == ["Be brief.", "Be kind."]


async def test_the_flex_lane_is_a_service_tier(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    await call(vendor_server, "gemini-3-flash", "flex")

    assert vendor_server.requests[0].body["serviceTier"] == "flex"


@pytest.mark.parametrize(
    ("api_name", "effort", "config"),
    [
        ("gemini-3-flash", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-pro", "high", {"thinkingLevel": "HIGH"}),
        ("gemini-3-flash", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash", "max", {"thinkingLevel": "HIGH"}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH"}),
        ("gemini-3.5-pro", "minimal", {"thinkingLevel": "LOW"}),
        ("gemini-4-argon", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 1_024}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 24_576}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1_024}),
        ("gemini-2.5-pro", "high", {"thinkingBudget": 24_576}),
    ],
)
async def test_reasoning_effort_is_put_in_the_generations_own_way(
    vendor_server: VendorServer, api_name: str, effort: str, config: dict[str, Any]
) -> None:
    body = await sent(vendor_server, api_name, reasoning_effort=effort)

    assert body["generationConfig"]["thinkingConfig"] == config


async def test_the_kinds_of_tool_choice(vendor_server: VendorServer) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    choices: list[Any] = [None, "auto", "none", "required", named]

    bodies = [await sent(vendor_server, tools=TOOLS, tool_choice=choice) for choice in choices]

    modes = [b.get("toolConfig", {}).get("functionCallingConfig") for b in bodies]
    assert modes == [
        None,
        {"mode": "AUTO"},
        {"mode": "NONE"},
        {"mode": "ANY"},
        {"mode": "ANY", "allowedFunctionNames": ["f"]},
    ]


async def test_a_strict_tool_is_called_with_checked_arguments(vendor_server: VendorServer) -> None:
    strict = [{"type": "function", "function": {"name": "f", "strict": True}}]

    body = await sent(vendor_server, tools=strict)

    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "VALIDATED"}


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ('{"celsius": 11}', {"celsius": 11}),
        ("11 degrees", {"output": "11 degrees"}),
        ("[1, 2]", {"output": [1, 2]}),
    ],
)
async def test_a_tool_result_becomes_an_object(
    vendor_server: VendorServer, content: str, response: dict[str, Any]
) -> None:
    made = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "1", "content": content},
    ]

    body = await sent(vendor_server, messages=messages)

    result = body["contents"][2]["parts"][0]["functionResponse"]
    assert result == {"id": "1", "name": "f", "response": response}


@pytest.mark.parametrize(
    ("api_name", "signed"), [("gemini-3-flash", True), ("gemini-2.5-flash", False)]
)
async def test_logged_tool_calls_are_vouched_for_where_the_model_asks_for_it(
    vendor_server: VendorServer, api_name: str, signed: bool
) -> None:
    made = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [made, {**made, "id": "2"}]},
        {"role": "tool", "tool_call_id": "1", "content": "1"},
    ]

    body = await sent(vendor_server, api_name, messages=messages)

    parts = body["contents"][1]["parts"]
    assert ["thoughtSignature" in part for part in parts] == [signed, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "parallel_tool_calls": False},
        {"tool_choice": "required"},
        {"messages": [{"role": "user", "name": "ann", "content": "Hi"}]},
        {"messages": [{"role": "tool", "tool_call_id": "9", "content": "1"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
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


async def test_an_image_by_its_url_is_refused_in_clear_words(vendor_server: VendorServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}

    with pytest.raises(InvalidRequest, match="an image is given by its URL") as caught:
        await call(vendor_server, messages=[{"role": "user", "content": [image]}])

    assert caught.value.code == "unable"


def made(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


async def test_tool_results_come_in_the_order_of_their_calls(vendor_server: VendorServer) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [made("a", "f"), made("b", "g")]},
        result("b", "second"),
        {"role": "user", "content": "Well?"},
        result("a", "first"),
    ]

    body = await sent(vendor_server, messages=messages)

    one, two, text = body["contents"][2]["parts"]
    assert one["functionResponse"] == {"id": "a", "name": "f", "response": {"output": "first"}}
    assert two["functionResponse"] == {"id": "b", "name": "g", "response": {"output": "second"}}
    assert text == {"text": "Well?"}
    calls = [part["functionCall"] for part in body["contents"][1]["parts"]]
    assert [call["id"] for call in calls] == ["a", "b"]


async def test_an_id_used_again_belongs_to_the_turn_before_it(vendor_server: VendorServer) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [made("call-0", "f")]},
        result("call-0", "1"),
        {"role": "assistant", "tool_calls": [made("call-0", "g"), made("call-0", "h")]},
        result("call-0", "2"),
        result("call-0", "3"),
    ]

    body = await sent(vendor_server, messages=messages)

    answers = [body["contents"][place]["parts"] for place in (2, 4)]
    names = [[part["functionResponse"]["name"] for part in parts] for parts in answers]
    assert names == [["f"], ["g", "h"]]


async def test_a_call_without_any_id_gets_one_of_its_own(vendor_server: VendorServer) -> None:
    call_part = {"functionCall": {"name": "f", "args": {}}}
    document = DIALECT.document([call_part, call_part], "STOP")
    del document["responseId"]
    vendor_server.script(answer(document))

    completions = [(await call(vendor_server, tools=TOOLS)).completion for _ in range(2)]

    ids = [made["id"] for c in completions for made in orjson.loads(c.tool_calls or "[]")]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    "reason",
    [
        "SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "BLOCKLIST",
    ],
)
async def test_a_stopped_answer_is_a_refusal(vendor_server: VendorServer, reason: str) -> None:
    vendor_server.script(answer(DIALECT.document([{"text": "Well"}], reason)))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.refused
    assert (completion.text, completion.finish_reason) == ("Well", "content_filter")


async def test_a_blocked_prompt_is_a_refusal_and_its_tokens_are_billed(
    vendor_server: VendorServer,
) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }
    vendor_server.script(answer(blocked))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.refused
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (9, 0)


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", None])
async def test_a_failed_answer_may_be_tried_again(
    vendor_server: VendorServer, reason: str | None
) -> None:
    error = await failed(vendor_server, answer(DIALECT.document([{"text": "Paris"}], reason)))

    assert isinstance(error, TransientError)
    assert error.maybe_billed


async def test_fields_that_the_sdk_does_not_know_are_no_failure(
    vendor_server: VendorServer,
) -> None:
    document = DIALECT.document([{"text": "Paris", "hologram": 1}], "STOP")
    document["candidates"][0]["mood"] = {"good": True}
    vendor_server.script(answer({**document, "weather": "fine"}))

    completion: Completion = (await call(vendor_server)).completion

    assert completion.text == "Paris"


@pytest.mark.parametrize("document", [[], "Paris", {}, {"candidates": "Paris"}, {"candidates": []}])
async def test_garbage_is_no_completion(vendor_server: VendorServer, document: object) -> None:
    error = await failed(vendor_server, answer(document))

    assert isinstance(error, TransientError)
    assert error.maybe_billed
    assert "Paris" not in str(error)


def an_error(code: int, status: str, *details: dict[str, Any]) -> Scripted:
    error = {"code": code, "message": "No.", "status": status, "details": list(details)}
    return answer({"error": error}, status=code)


def quota(quota_id: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    return {"@type": kind, "violations": [{"quotaId": quota_id, "quotaMetric": "m"}]}


def retry_in(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def reason(text: str, **metadata: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": text, "metadata": metadata}


MINUTE = quota("GenerateRequestsPerMinutePerProjectPerModel")
DAY = quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier")


@pytest.mark.parametrize(
    ("scripted", "kind"),
    [
        (an_error(429, "RESOURCE_EXHAUSTED", MINUTE, retry_in("36.5s")), RateLimited),
        (an_error(429, "RESOURCE_EXHAUSTED", DAY, retry_in("2s")), QuotaSpent),
        (an_error(429, "RESOURCE_EXHAUSTED", MINUTE, DAY), QuotaSpent),
        (
            an_error(
                429,
                "RESOURCE_EXHAUSTED",
                reason("RATE_LIMIT_EXCEEDED", quota_limit="RequestsPerDayPerProject"),
            ),
            QuotaSpent,
        ),
        (an_error(429, "RESOURCE_EXHAUSTED"), RateLimited),
        (an_error(402, "RESOURCE_EXHAUSTED"), AccountRefused),
        (an_error(400, "INVALID_ARGUMENT", reason("API_KEY_INVALID")), KeyRefused),
        (an_error(400, "FAILED_PRECONDITION"), AccountRefused),
        (an_error(400, "INVALID_ARGUMENT"), InvalidRequest),
        (an_error(403, "PERMISSION_DENIED"), KeyRefused),
        (an_error(403, "PERMISSION_DENIED", reason("BILLING_DISABLED")), AccountRefused),
        (an_error(503, "UNAVAILABLE"), TransientError),
        (answer({"error": {"code": 429, "details": "soon"}}, status=429), RateLimited),
        (answer({"error": {"details": [{"violations": ["x"]}]}}, status=429), RateLimited),
        (answer({"error": {"details": [{"violations": {"a": 1}}]}}, status=429), RateLimited),
        (answer([{"error": {"code": 500, "message": "No."}}], status=500), TransientError),
    ],
)
async def test_codes_decide_what_an_error_means(
    vendor_server: VendorServer, scripted: Scripted, kind: type[ProviderError]
) -> None:
    error = await failed(vendor_server, scripted)

    assert type(error) is kind


async def test_the_wait_is_read_from_the_body(vendor_server: VendorServer) -> None:
    scripted = an_error(429, "RESOURCE_EXHAUSTED", MINUTE, retry_in("36.5s"))

    error = await failed(vendor_server, scripted)

    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 36.5


async def test_flex_without_capacity_is_told_from_an_overload(vendor_server: VendorServer) -> None:
    full = an_error(503, "UNAVAILABLE", retry_in("2s"))

    in_flex, live = await failed(vendor_server, full, "flex"), await failed(vendor_server, full)

    assert type(in_flex) is LaneUnavailable
    assert (in_flex.status, in_flex.retry_after_s) == (503, 2)
    assert not in_flex.maybe_billed
    assert type(live) is TransientError


async def test_a_rate_that_flex_meets_is_a_rate(vendor_server: VendorServer) -> None:
    error = await failed(vendor_server, an_error(429, "RESOURCE_EXHAUSTED", MINUTE), "flex")

    assert type(error) is RateLimited


async def test_nothing_is_said_of_limits(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECT.ok("Paris"))

    assert (await call(vendor_server)).limits() == VendorLimits()


async def test_a_spent_day_does_not_pass_in_seconds(vendor_server: VendorServer) -> None:
    error = await failed(vendor_server, an_error(429, "RESOURCE_EXHAUSTED", DAY, retry_in("2s")))

    assert isinstance(error, QuotaSpent)
    assert error.retry_after_s is None


async def test_log_probabilities_come_in_openai_form(vendor_server: VendorServer) -> None:
    document = DIALECT.document([{"text": "Paris"}], "STOP")
    chosen = {"token": "Paris", "logProbability": -0.1}
    document["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [chosen],
        "topCandidates": [{"candidates": [chosen, {"token": "Rome", "logProbability": -2.5}]}],
    }
    vendor_server.script(answer(document))

    completion: Completion = (await call(vendor_server, logprobs=True, top_logprobs=2)).completion

    (token,) = orjson.loads(completion.logprobs or "{}")["content"]
    assert (token["token"], token["logprob"]) == ("Paris", -0.1)
    assert [top["token"] for top in token["top_logprobs"]] == ["Paris", "Rome"]


def words(assembly: GeminiAssembly, part: dict[str, Any]) -> str:
    piece = assembly.add(orjson.dumps(DIALECT.document([part], None)))
    assert isinstance(piece, CompletionDelta)
    return piece.text


def test_a_streams_thoughts_and_words_are_kept_apart() -> None:
    assembly = GeminiAssembly()
    parts = [{"text": "Hm", "thought": True}, {"text": "m", "thought": True}]
    parts += [{"text": "Par"}, {"text": "is"}]

    texts = [words(assembly, part) for part in parts]

    assert texts == ["", "", "Par", "is"]
    whole = orjson.loads(assembly.body())["candidates"][0]["content"]["parts"]
    assert whole == [{"text": "Hmm", "thought": True}, {"text": "Paris"}]
    assert not assembly.finished


def test_streamed_log_probabilities_are_put_together() -> None:
    assembly, pieces = GeminiAssembly(), []
    for text in ("Par", "is"):
        document = DIALECT.document([{"text": text}], None)
        chosen = {"token": text, "logProbability": -0.1}
        document["candidates"][0]["logprobsResult"] = {
            "chosenCandidates": [chosen],
            "topCandidates": [{"candidates": [chosen]}],
        }
        pieces.append(assembly.add(orjson.dumps(document)))
    assembly.add(orjson.dumps(DIALECT.document([{"text": ""}], "STOP")))

    wire = GeminiWire("gemini", URL("http://localhost"), "", None, vertex=False)
    whole = wire.read(assembly.body())

    assert isinstance(whole, Completion)
    tokens = orjson.loads(whole.logprobs or "{}")["content"]
    assert [token["token"] for token in tokens] == ["Par", "is"]
    assert [token["top_logprobs"][0]["logprob"] for token in tokens] == [-0.1, -0.1]
    assert [token for one in pieces for token in logprobs_of(one)] == tokens


def logprobs_of(piece: CompletionDelta | Fault) -> list[Any]:
    assert isinstance(piece, CompletionDelta)
    found: list[Any] = orjson.loads(piece.logprobs or "{}")["content"]
    return found


@pytest.mark.parametrize("empty", [{}, {"thought": True}])
def test_an_empty_part_of_a_stream_is_nothing(empty: dict[str, Any]) -> None:
    assembly = GeminiAssembly()
    parts = [empty, empty, {"text": "Paris"}]

    texts = [words(assembly, part) for part in parts]

    assert texts == ["", "", "Paris"]


@pytest.mark.parametrize(
    ("api_name", "path"),
    [
        ("gemini-3-flash", "publishers/google/models/gemini-3-flash"),
        ("google/gemini-3-flash", "publishers/google/models/gemini-3-flash"),
        ("meta/llama-5", "publishers/meta/models/llama-5"),
        ("publishers/google/models/g", "publishers/google/models/g"),
        ("projects/p/locations/l/endpoints/7", "projects/p/locations/l/endpoints/7"),
        ("models/g", "models/g"),
    ],
)
def test_a_models_path_on_vertex_is_the_sdks(api_name: str, path: str) -> None:
    client = genai.Client(
        vertexai=True,
        project="p",
        location="l",
        credentials=Credentials(token="x"),  # type: ignore[no-untyped-call]
    )

    assert vertex_path(api_name) == path == t_model(client._api_client, api_name)


def test_express_mode_names_no_project() -> None:
    account = Account("vertex", "gemini", api_key_env="KEY", location="global")

    root = models_root(account, {"KEY": "k"}, None)

    assert (root.host, root.path) == ("aiplatform.googleapis.com", "/v1beta1")


@pytest.mark.parametrize(
    ("location", "host"),
    [
        (None, "aiplatform.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_vertex_is_called_where_its_region_is(location: str | None, host: str) -> None:
    account = Account("vertex", "gemini", location=location)

    root = models_root(account, {"GOOGLE_CLOUD_PROJECT": "p1"}, None)

    path = f"/v1beta1/projects/p1/locations/{location or 'global'}"
    assert (root.host, root.path) == (host, path)
