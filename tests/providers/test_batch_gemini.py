from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from moa.catalog import Account
from moa.errors import InvalidRequest, ProviderError, QuotaSpent, RateLimited, TransientError
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchStatus
from moa.providers.provider import Completion, Request
from moa.replay.process import ReplayServer
from tests.providers.batch_contract import KEY, BatchContract, Buyer
from tests.providers.batch_vendor import BatchVendor
from tests.providers.dialects import GeminiDialect, a_chat
from tests.replay.asking import CATALOG

ACCOUNT = Account("google", "gemini", api_key_env="GEMINI_KEY")
DIALECT = GeminiDialect()
MODEL = DIALECT.model
PROMPT = "Tell me a story about a dog"


def operation(state: str = "BATCH_STATE_SUCCEEDED", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    metadata = {
        "displayName": "ours",
        "state": state,
        "createTime": "2026-11-25T12:00:00.123456789Z",
        "endTime": "2026-11-25T12:05:00Z",
        "inputConfig": {"fileName": "files/in"},
        "batchStats": {"requestCount": "3", "successfulRequestCount": "2"},
        "output": {"responsesFile": "files/batch-1"},
    }
    return {"name": "batches/1", "metadata": {**metadata, **more.pop("metadata", {})}, **more}


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["google/gemini-1.5-pro"], provider_server)


class TestGeminiKeepsTheContract(BatchContract):
    keeps_when_expired = False


@pytest.fixture
async def batches(vendor: BatchVendor) -> AsyncIterator[BatchProvider]:
    batches = open_batches(ACCOUNT, environ={"GEMINI_KEY": KEY}, base_url=vendor.url)
    yield batches
    await batches.close()


def a_line(batches: BatchProvider, custom_id: str = "a", **fields: object) -> bytes:
    fields.setdefault("messages", [{"role": "user", "content": PROMPT}])
    return batches.line(custom_id, Request("q", a_chat(**fields), MODEL, "batch"))


CREATE = f"POST /v1beta/models/{MODEL.api_name}:batchGenerateContent"


def takes_files(vendor: BatchVendor, where: str) -> None:
    vendor.say("POST /upload/v1beta/files", b"", x_goog_upload_url=where)
    vendor.say("POST /upload/here", {"file": {"name": "files/in"}})


@pytest.mark.parametrize("host", ["https://elsewhere.example:444", ""])
async def test_a_file_goes_up_in_two_steps_to_the_accounts_own_address(
    vendor: BatchVendor, batches: BatchProvider, host: str
) -> None:
    takes_files(vendor, f"{host}/upload/here?upload_id=7")
    vendor.say(CREATE, operation("BATCH_STATE_PENDING"))
    lines = [a_line(batches, f"row-{n}") for n in range(3)]

    assert await batches.submit(MODEL, lines, reference="run-7") == "batches/1"

    start, upload, create = vendor.sent
    assert orjson.loads(start.body)["file"]["displayName"] == "run-7"
    assert start.headers["x-goog-upload-command"] == "start"
    assert int(start.headers["x-goog-upload-header-content-length"]) == len(b"".join(lines))
    assert upload.path == "/upload/here?upload_id=7"
    assert upload.headers["x-goog-upload-command"] == "upload, finalize"
    assert upload.body == b"".join(lines)
    assert orjson.loads(create.body) == {
        "batch": {"displayName": "run-7", "inputConfig": {"fileName": "files/in"}}
    }
    assert all(sent.headers["x-goog-api-key"] == KEY for sent in vendor.sent)
    assert orjson.loads(lines[0])["key"] == "row-0"
    assert PROMPT in str(orjson.loads(lines[0])["request"]["contents"])


async def test_an_upload_that_has_no_address_is_tried_again(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("POST /upload/v1beta/files", {})

    with pytest.raises(TransientError) as caught:
        await batches.submit(MODEL, [a_line(batches)], reference="r")

    assert not caught.value.maybe_billed


async def test_an_upload_for_a_batch_that_was_refused_is_taken_back(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    takes_files(vendor, "/upload/here")
    vendor.say(CREATE, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, 400)

    with pytest.raises(InvalidRequest):
        await batches.submit(MODEL, [a_line(batches)], reference="r")

    assert vendor.calls()[-1] == "DELETE /v1beta/files/in"


@pytest.mark.parametrize("prefix", ["BATCH_STATE", "JOB_STATE"])
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("UNSPECIFIED", ("running", None)),
        ("PENDING", ("waiting", None)),
        ("RUNNING", ("running", None)),
        ("CANCELLING", ("cancelling", None)),
        ("SUCCEEDED", ("ended", "completed")),
        ("PARTIALLY_SUCCEEDED", ("ended", "completed")),
        ("FAILED", ("ended", "failed")),
        ("CANCELLED", ("ended", "cancelled")),
        ("EXPIRED", ("ended", "expired")),
    ],
)
async def test_every_state_has_its_meaning(
    vendor: BatchVendor,
    batches: BatchProvider,
    prefix: str,
    state: str,
    expected: tuple[str, str | None],
) -> None:
    vendor.say("GET /v1beta/batches/1", operation(f"{prefix}_{state}"))

    found = await batches.look("batches/1")

    assert (found.state, found.end) == expected
    assert (found.results is not None) == (found.state == "ended")
    assert (found.requests, found.answered, found.failed) == (3, 2, 0)
    assert found.created_at == datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, InvalidRequest), (5, InvalidRequest), (7, InvalidRequest), (9, InvalidRequest),
        (400, InvalidRequest), (8, QuotaSpent), (429, QuotaSpent), (13, TransientError),
        (14, TransientError), (None, TransientError), ("x", TransientError),
    ],
)  # fmt: skip
async def test_why_all_of_a_batch_failed_says_what_to_do(
    vendor: BatchVendor, batches: BatchProvider, code: object, kind: type[ProviderError]
) -> None:
    failed = operation("BATCH_STATE_FAILED", error={"code": code, "message": PROMPT})
    vendor.say("GET /v1beta/batches/1", failed)

    error = (await batches.look("batches/1")).error

    assert type(error) is kind
    assert "story" not in str(error)


async def fetched(batches: BatchProvider) -> dict[str, Completion | ProviderError]:
    status = await batches.look("batches/1")
    return dict([result async for result in batches.results(status)])


async def test_every_kind_of_row_has_its_meaning(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    paris = orjson.loads(DIALECT.ok("Paris").body)
    rows: dict[str, dict[str, Any]] = {
        "b": {"response": paris},
        "a": {"error": {"code": 3, "message": PROMPT}},
        "c": {"error": {"code": 13, "message": PROMPT}},
        "d": {"error": {"code": 429, "message": PROMPT, "status": "RESOURCE_EXHAUSTED"}},
        "e": {"error": {"code": 1, "message": PROMPT}},
        "f": {},
        "g": {"response": {**paris, "candidates": []}},
        "h": {"error": {"code": 9, "status": "FAILED_PRECONDITION"}},
        "i": {"response": orjson.loads(DIALECT.refusal().body)},
    }
    lines = b"\n".join(orjson.dumps({"key": key, **row}) for key, row in rows.items())
    vendor.say("GET /v1beta/batches/1", operation())
    vendor.say("GET /v1beta/files/batch-1:download", lines)

    found = await fetched(batches)

    assert isinstance(found["b"], Completion)
    assert found["b"].text == "Paris"
    assert isinstance(found["i"], Completion)
    assert found["i"].refused
    errors = {key: one for key, one in found.items() if isinstance(one, ProviderError)}
    assert {key: type(value) for key, value in errors.items()} == {
        "a": InvalidRequest,
        "c": TransientError,
        "d": RateLimited,
        "e": TransientError,
        "f": TransientError,
        "g": TransientError,
        "h": TransientError,
    }
    assert {key for key, error in errors.items() if error.maybe_billed} == {"g"}
    assert not any("story" in str(error) for error in errors.values())
    assert vendor.calls()[-1] == "GET /v1beta/files/batch-1:download?alt=media"


async def test_results_may_stand_in_the_answer_about_the_batch(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    paris = orjson.loads(DIALECT.ok("Paris").body)
    rows = [
        {"metadata": {"key": "b"}, "response": paris},
        {"metadata": {"key": "a"}, "error": {"code": 3}},
    ]
    inline = {"inlinedResponses": {"inlinedResponses": rows}}
    vendor.say("GET /v1beta/batches/1", operation(metadata={"output": inline}))

    found = await fetched(batches)

    assert {key: type(answer) for key, answer in found.items()} == {
        "a": InvalidRequest,
        "b": Completion,
    }


async def test_results_may_be_named_in_the_operations_response_only(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    document = operation(metadata={"output": None}, response={"responsesFile": "files/batch-9"})
    vendor.say("GET /v1beta/batches/1", document)

    assert (await batches.look("batches/1")).results == "files/batch-9"


async def test_a_list_is_read_to_its_end_or_until_it_is_found(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    other = {**operation(), "metadata": {**operation()["metadata"], "displayName": "other"}}
    vendor.say("GET /v1beta/batches", {"operations": [other], "nextPageToken": "p2"})
    vendor.say("GET /v1beta/batches", {"nextPageToken": "p3"})
    vendor.say("GET /v1beta/batches", {"operations": [other, operation()], "nextPageToken": "p4"})

    (found,) = await batches.find("ours", since=datetime.now(UTC), requests=3)

    assert found.id == "batches/1"
    assert [call.partition("?")[2] for call in vendor.calls()] == [
        "pageSize=100",
        "pageSize=100&pageToken=p2",
        "pageSize=100&pageToken=p3",
    ]


async def test_both_files_and_the_batch_are_forgotten(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say("GET /v1beta/batches/1", operation())

    await batches.forget(BatchStatus("batches/1", "ended"))

    assert vendor.calls()[1:] == [
        f"DELETE /v1beta/{name}" for name in ("files/in", "files/batch-1", "batches/1")
    ]
