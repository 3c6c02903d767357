from __future__ import annotations

import email
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from moa.catalog import Account
from moa.errors import (
    AccountRefused,
    InvalidRequest,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchStatus
from moa.providers.provider import Completion, Request
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import KEY, BatchContract, Buyer
from tests.providers.batch_vendor import BatchVendor
from tests.providers.dialects import OpenAIDialect, a_chat
from tests.replay.asking import CATALOG

ACCOUNT = Account("openai", "openai", api_key_env="OPENAI_KEY")
MODEL = OpenAIDialect().model
SINCE = datetime(2026, 11, 25, 12, tzinfo=UTC)
BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-in",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-out",
    "error_file_id": "file-err",
    "created_at": int(SINCE.timestamp()),
    "completed_at": int(SINCE.timestamp()) + 60,
    "expires_at": int(SINCE.timestamp()) + 86400,
    "request_counts": {"total": 3, "completed": 1, "failed": 2},
    "metadata": {"moa": "ours"},
}


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["openai/gpt-4o"], provider_server)


class TestOpenAIKeepsTheContract(BatchContract):
    pass


@pytest.fixture
async def batches(vendor: BatchVendor) -> AsyncIterator[BatchProvider]:
    batches = open_batches(ACCOUNT, environ={"OPENAI_KEY": KEY}, base_url=vendor.url + "/v1")
    yield batches
    await batches.close()


def a_line(batches: BatchProvider, custom_id: str = "a", **fields: object) -> bytes:
    return batches.line(custom_id, Request("q", a_chat(**fields), MODEL, "batch"))


async def test_a_file_goes_up_as_a_form_and_a_batch_is_made_of_it(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("POST /v1/files", {"id": "file-in"})
    vendor.say("POST /v1/batches", BATCH)
    lines = [a_line(batches, f"row-{n}") for n in range(3)]

    assert await batches.submit(MODEL, lines, reference="run-7") == "batch_1"

    upload = vendor.sent[0]
    head = f"Content-Type: {upload.headers['content-type']}\r\n\r\n".encode()
    form = email.message_from_bytes(head + upload.body)
    parts = {p.get_param("name", header="content-disposition"): p for p in form.get_payload()}  # type: ignore[union-attr]
    assert set(parts) == {"purpose", "file"}
    assert parts["purpose"].get_payload(decode=True) == b"batch"  # type: ignore[union-attr]
    assert parts["file"].get_payload(decode=True) == b"".join(lines).removesuffix(b"\n") + b"\n"  # type: ignore[union-attr]
    assert int(upload.headers["content-length"]) == len(upload.body)
    assert upload.headers["authorization"] == f"Bearer {KEY}"
    assert vendor.bodies("POST /v1/batches") == [
        {
            "input_file_id": "file-in",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"moa": "run-7"},
        }
    ]


async def test_what_a_line_asks_is_what_a_live_call_asks(batches: BatchProvider) -> None:
    document = orjson.loads(a_line(batches, "a", temperature=0.5, max_output_tokens=9))

    assert document == {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": MODEL.api_name,
            "messages": [{"role": "user", "content": "Capital of France?"}],
            "temperature": 0.5,
            "max_completion_tokens": 9,
        },
    }


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("validating", ("waiting", None)),
        ("in_progress", ("running", None)),
        ("finalizing", ("running", None)),
        ("cancelling", ("cancelling", None)),
        ("completed", ("ended", "completed")),
        ("expired", ("ended", "expired")),
        ("cancelled", ("ended", "cancelled")),
        ("failed", ("ended", "failed")),
        ("a state of tomorrow", ("running", None)),
    ],
)
async def test_every_state_has_its_meaning(
    vendor: BatchVendor, batches: BatchProvider, status: str, expected: tuple[str, str | None]
) -> None:
    vendor.say("GET /v1/batches/batch_1", {**BATCH, "status": status})

    found = await batches.look("batch_1")

    assert (found.state, found.end) == expected
    assert (found.results is not None) == (found.state == "ended")
    assert (found.requests, found.answered, found.failed) == (3, 1, 2)
    assert found.created_at == SINCE


@pytest.mark.parametrize(
    ("code", "line", "kind"),
    [
        ("token_limit_exceeded", None, QuotaSpent),
        ("invalid_json_line", 4, InvalidRequest),
        ("mismatched_model", 2, InvalidRequest),
        ("server_error", None, TransientError),
        (None, None, InvalidRequest),
    ],
)
async def test_why_all_of_a_batch_failed_says_what_to_do(
    vendor: BatchVendor,
    batches: BatchProvider,
    code: str | None,
    line: int | None,
    kind: type[ProviderError],
) -> None:
    prompt = "Capital of France?"
    message = f"{prompt} is not what was expected" if line else "Enqueued token limit reached"
    error = {"code": code, "message": message, "line": line, "param": None}
    failed = {**BATCH, "status": "failed", "errors": {"object": "list", "data": [error]}}
    vendor.say("GET /v1/batches/batch_1", failed)

    status = await batches.look("batch_1")

    assert type(status.error) is kind
    assert prompt not in str(status.error)
    assert (code or "") in str(status.error)


async def test_a_batch_that_failed_without_a_word_may_be_tried_again(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("GET /v1/batches/batch_1", {**BATCH, "status": "failed", "errors": None})

    assert type((await batches.look("batch_1")).error) is TransientError


def results_of(*rows: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def answered(custom_id: str, status: int, body: object) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def never_ran(custom_id: str, code: str) -> dict[str, Any]:
    error = {"code": code, "message": "Capital of France?"}
    return {"id": "batch_req_2", "custom_id": custom_id, "response": None, "error": error}


async def test_both_files_are_results_in_any_order(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    body = orjson.loads(OpenAIDialect().ok("Paris").body)
    refused = {"error": {"message": "Capital of France? No.", "code": "invalid_value"}}
    too_long = {"error": {"message": "x", "code": "context_length_exceeded"}}
    vendor.say("GET /v1/batches/batch_1", BATCH)
    vendor.say("GET /v1/files/file-out/content", results_of(answered("b", 200, body)))
    vendor.say(
        "GET /v1/files/file-err/content",
        results_of(
            never_ran("a", "batch_expired"),
            answered("c", 400, refused),
            answered("d", 500, {"error": {"message": "oh"}}),
            answered("e", 400, too_long),
            answered("f", 401, {"error": {"code": "invalid_api_key"}}),
            answered("g", 504, {}),
            never_ran("h", "batch_cancelled"),
            never_ran("i", "something_new"),
            answered("j", 200, {**body, "choices": []}),
        ),
    )

    status = await batches.look("batch_1")
    found = dict([result async for result in batches.results(status)])

    assert isinstance(found["b"], Completion)
    assert found["b"].text == "Paris"
    kinds = {key: type(value).__name__ for key, value in found.items() if key != "b"}
    assert kinds == {
        "a": "TransientError",
        "c": "InvalidRequest",
        "d": "TransientError",
        "e": "ContextExceeded",
        "f": "TransientError",  # what a row says of the key is said for the row alone
        "g": "TransientError",
        "h": "TransientError",
        "i": "TransientError",
        "j": "TransientError",
    }
    errors = {key: one for key, one in found.items() if isinstance(one, ProviderError)}
    assert {key for key, error in errors.items() if error.maybe_billed} == {"j"}
    assert not any("France" in str(error) for error in errors.values())


@pytest.mark.parametrize("cut", [b'{"custom_id":"a","resp', b"[]\n", b"\xff\n", b'{"x":1}\n'])
async def test_results_that_cannot_be_read_are_read_again_later(
    vendor: BatchVendor, batches: BatchProvider, cut: bytes
) -> None:
    vendor.say("GET /v1/files/file-out/content", results_of(never_ran("a", "batch_expired")) + cut)

    with pytest.raises(TransientError) as caught:
        async for _ in batches.results(BatchStatus("batch_1", "ended", results="file-out")):
            pass

    assert not caught.value.maybe_billed


async def test_an_upload_for_a_batch_that_was_refused_is_taken_back(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("POST /v1/files", {"id": "file-in"})
    vendor.say("POST /v1/batches", {"error": {"message": "no", "code": "invalid"}}, 400)
    vendor.say("DELETE /v1/files/file-in", {"deleted": True})

    with pytest.raises(InvalidRequest):
        await batches.submit(MODEL, [a_line(batches)], reference="r")

    assert vendor.calls()[-1] == "DELETE /v1/files/file-in"


@pytest.mark.parametrize(
    ("code", "wait", "kind"),
    [
        ("token_limit_exceeded", "1", QuotaSpent),
        ("rate_limit_exceeded", "1", RateLimited),
        ("rate_limit_exceeded", "", QuotaSpent),
        ("insufficient_quota", "1", AccountRefused),
    ],
)
async def test_a_submission_that_is_one_too_many_says_of_what(
    vendor: BatchVendor, batches: BatchProvider, code: str, wait: str, kind: type[ProviderError]
) -> None:
    vendor.say("POST /v1/files", {"id": "file-in"})
    refused = {"error": {"message": "no", "code": code}}
    vendor.say("POST /v1/batches", refused, 429, retry_after=wait)

    with pytest.raises(ProviderError) as caught:
        await batches.submit(MODEL, [a_line(batches)], reference="r")

    assert type(caught.value) is kind
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_batch_that_may_have_begun_keeps_its_file(
    vendor: BatchVendor, batches: BatchProvider, status: int
) -> None:
    vendor.say("POST /v1/files", {"id": "file-in"})
    vendor.say("POST /v1/batches", {"error": {"message": "oh"}}, status)

    with pytest.raises(TransientError) as caught:
        await batches.submit(MODEL, [a_line(batches)], reference="r")

    assert caught.value.maybe_billed
    assert len(vendor.sent) == 2


async def test_the_list_is_read_until_it_is_older_than_the_batch(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    def page(first: int, age_s: int) -> dict[str, Any]:
        made = int(SINCE.timestamp()) - age_s
        data = [
            {**BATCH, "id": f"batch_{first + n}", "created_at": made, "metadata": None}
            for n in range(2)
        ]
        return {"object": "list", "data": data, "has_more": True}

    for first, age_s in ((1, -60), (3, 60), (5, 600), (7, 6000)):
        vendor.say("GET /v1/batches", page(first, age_s))

    assert await batches.find("ours", since=SINCE, requests=3) == []

    assert vendor.calls() == [
        "GET /v1/batches?limit=100",
        "GET /v1/batches?limit=100&after=batch_2",
        "GET /v1/batches?limit=100&after=batch_4",
    ]


async def test_all_three_files_are_forgotten(vendor: BatchVendor, batches: BatchProvider) -> None:
    vendor.say("GET /v1/batches/batch_1", BATCH)

    await batches.forget(BatchStatus("batch_1", "ended"))

    assert vendor.calls()[1:] == [f"DELETE /v1/files/file-{n}" for n in ("out", "err", "in")]


async def test_an_upload_of_many_megabytes_arrives_whole(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("POST /v1/files", {"id": "file-in"})
    vendor.say("POST /v1/batches", BATCH)
    lines = [a_line(batches, "a", messages=[{"role": "user", "content": "x" * 100_000}])] * 200

    await batches.submit(MODEL, lines, reference="r")

    assert b"".join(lines) in vendor.sent[0].body
