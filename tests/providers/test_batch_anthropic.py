from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
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
from tests.providers.dialects import AnthropicDialect, a_chat
from tests.replay.asking import CATALOG

ACCOUNT = Account("anthropic", "anthropic", api_key_env="ANTHROPIC_KEY")
DIALECT = AnthropicDialect()
PATH = "/v1/messages/batches"
SINCE = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROMPT = "Tell me a story about a dog"


def batch(number: int = 1, *, age_s: float = 0, **more: object) -> dict[str, Any]:
    made = SINCE - timedelta(seconds=age_s)
    counts = {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0}
    return {
        "id": f"msgbatch_{number}",
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts,
        "created_at": made.isoformat().replace("+00:00", "Z"),
        "ended_at": (made + timedelta(minutes=5)).isoformat(),
        "expires_at": (made + timedelta(hours=24)).isoformat(),
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"https://api.anthropic.com{PATH}/msgbatch_{number}/results",
        **more,
    }


@pytest.fixture
def buyer(provider_server: ReplayServer) -> Buyer:
    return Buyer(ACCOUNT, CATALOG.models["anthropic/claude-3.5-sonnet"], provider_server)


class TestAnthropicKeepsTheContract(BatchContract):
    pass


@pytest.fixture
async def batches(vendor: BatchVendor) -> AsyncIterator[BatchProvider]:
    batches = open_batches(ACCOUNT, environ={"ANTHROPIC_KEY": KEY}, base_url=vendor.url)
    yield batches
    await batches.close()


def a_line(batches: BatchProvider, custom_id: str = "a", **fields: object) -> bytes:
    fields.setdefault("messages", [{"role": "user", "content": PROMPT}])
    return batches.line(custom_id, Request("q", a_chat(**fields), DIALECT.model, "batch"))


async def submitted(batches: BatchProvider, *lines: bytes) -> str:
    return await batches.submit(DIALECT.model, lines, reference="r")


async def test_one_body_holds_all_lines(vendor: BatchVendor, batches: BatchProvider) -> None:
    vendor.say(f"POST {PATH}", batch())
    lines = [a_line(batches, f"row-{n}") for n in range(3)]

    assert await submitted(batches, *lines) == "msgbatch_1"

    (body,) = vendor.bodies(f"POST {PATH}")
    assert body == {"requests": [orjson.loads(line) for line in lines]}
    assert [request["custom_id"] for request in body["requests"]] == ["row-0", "row-1", "row-2"]
    assert set(body["requests"][0]["params"]) == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({}, "2026-10-21"),
        ({"temperature": 0.5}, "2023-06-01"),
        ({"top_p": 0.5}, "2023-06-01"),
        ({"messages": [{"role": "user", "content": 'Is "temperature": 1 JSON?'}]}, "2026-10-21"),
    ],
)
async def test_a_batch_follows_temperatures_if_one_of_its_requests_has_one(
    vendor: BatchVendor, batches: BatchProvider, fields: dict[str, Any], version: str
) -> None:
    vendor.say(f"POST {PATH}", batch())

    await submitted(batches, a_line(batches, "a"), a_line(batches, "b", **fields))

    assert vendor.sent[0].headers["anthropic-version"] == version


@pytest.mark.parametrize(
    ("status", "counts", "expected"),
    [
        ("in_progress", {"processing": 4}, ("running", None)),
        ("canceling", {"processing": 4}, ("cancelling", None)),
        ("ended", {"succeeded": 4}, ("ended", "completed")),
        ("ended", {"succeeded": 1, "expired": 3}, ("ended", "expired")),
        ("ended", {"succeeded": 1, "canceled": 3}, ("ended", "cancelled")),
        ("a state of tomorrow", {"processing": 4}, ("running", None)),
    ],
)
async def test_every_state_has_its_meaning(
    vendor: BatchVendor,
    batches: BatchProvider,
    status: str,
    counts: dict[str, int],
    expected: tuple[str, str | None],
) -> None:
    none = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    document = batch(processing_status=status, request_counts={**none, **counts})
    vendor.say(f"GET {PATH}/msgbatch_1", document)

    found = await batches.look("msgbatch_1")

    assert (found.state, found.end) == expected
    assert (found.results is not None) == (found.state == "ended")
    assert found.requests == 4
    assert found.created_at == SINCE
    assert found.expires_at == SINCE + timedelta(hours=24)


async def test_results_that_are_archived_are_none(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say(f"GET {PATH}/msgbatch_1", batch(archived_at="2026-12-25T00:00:00Z"))

    status = await batches.look("msgbatch_1")

    assert status.results is None
    assert [result async for result in batches.results(status)] == []


def error(kind: str, message: str = PROMPT) -> dict[str, Any]:
    inner = {"type": kind, "message": message}
    return {"type": "errored", "error": {"type": "error", "error": inner, "request_id": "r"}}


async def test_every_kind_of_result_has_its_meaning(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    message = orjson.loads(DIALECT.ok("Paris").body)
    rows = {
        "b": {"type": "succeeded", "message": message},
        "a": error("invalid_request_error"),
        "c": error("overloaded_error"),
        "d": error("api_error"),
        "e": {"type": "expired"},
        "f": {"type": "canceled"},
        "g": error("billing_error"),
        "h": error("not_found_error"),
        "i": {"type": "succeeded", "message": {**message, "content": []}},
        "j": {"type": "a kind of tomorrow"},
    }
    lines = (orjson.dumps({"custom_id": key, "result": row}) for key, row in rows.items())
    vendor.say(f"GET {PATH}/msgbatch_1", batch())
    vendor.say(f"GET {PATH}/msgbatch_1/results", b"\r\n".join(lines))

    status = await batches.look("msgbatch_1")
    found = dict([result async for result in batches.results(status)])

    assert isinstance(found["b"], Completion)
    assert found["b"].text == "Paris"
    assert {key: type(value).__name__ for key, value in found.items() if key != "b"} == {
        "a": "InvalidRequest",
        "c": "TransientError",
        "d": "TransientError",
        "e": "TransientError",
        "f": "TransientError",
        "g": "TransientError",  # what a row says of the account is said for the row alone
        "h": "InvalidRequest",
        "i": "TransientError",
        "j": "InvalidRequest",
    }
    errors = {key: one for key, one in found.items() if isinstance(one, ProviderError)}
    assert {key for key, one in errors.items() if one.maybe_billed} == {"i"}
    assert not any("story" in str(one) for one in errors.values())


async def test_the_key_goes_to_the_accounts_own_address_only(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    elsewhere = batch(results_url="https://evil.example/v1/messages/batches/msgbatch_1/results")
    vendor.say(f"GET {PATH}/msgbatch_1", elsewhere)
    vendor.say(f"GET {PATH}/msgbatch_1/results", b"")

    assert [r async for r in batches.results(await batches.look("msgbatch_1"))] == []

    assert vendor.calls()[-1] == f"GET {PATH}/msgbatch_1/results"


async def test_batches_of_as_many_requests_since_then_may_be_it(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    other = {"processing": 9, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    first = [batch(1, age_s=-50), batch(2, age_s=-40, request_counts=other)]
    second = [batch(3, age_s=60), batch(4, age_s=300)]
    vendor.say(f"GET {PATH}", {"data": first, "has_more": True})
    vendor.say(f"GET {PATH}", {"data": second, "has_more": True})

    found = await batches.find("r", since=SINCE, requests=3)

    assert [status.id for status in found] == ["msgbatch_1", "msgbatch_3"]
    assert vendor.calls() == [f"GET {PATH}?limit=100", f"GET {PATH}?limit=100&after_id=msgbatch_2"]


async def refused(
    vendor: BatchVendor, batches: BatchProvider, status: int, words: str, **headers: str
) -> ProviderError:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    document = {"type": "error", "error": {"type": kind, "message": words}}
    vendor.say(f"POST {PATH}", document, status, **headers)
    with pytest.raises(ProviderError) as caught:
        await submitted(batches, a_line(batches, "a"), a_line(batches, "b"))
    assert not caught.value.maybe_billed
    return caught.value


async def test_words_about_one_request_are_told_without_what_they_quote_of_it(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    words = f"requests.1.params.messages.0: '{PROMPT}' is no way to ask"

    told = str(await refused(vendor, batches, 400, words))

    assert "requests.1.params.messages.0" in told
    assert "no way to ask" in told
    assert PROMPT not in told


@pytest.mark.parametrize("words", [PROMPT, f"requests.7.params: {PROMPT}"])
async def test_words_that_may_be_about_any_request_are_left_out(
    vendor: BatchVendor, batches: BatchProvider, words: str
) -> None:
    error = await refused(vendor, batches, 400, words)

    assert isinstance(error, InvalidRequest)
    assert "story" not in str(error)


async def test_a_refusal_without_a_wait_is_of_what_may_be_queued(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    assert type(await refused(vendor, batches, 429, "queue")) is QuotaSpent


async def test_a_refusal_with_a_wait_is_of_the_minute(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    error = await refused(vendor, batches, 429, "rate", retry_after="7")

    assert type(error) is RateLimited
    assert error.retry_after_s == 7


async def test_an_answer_to_a_submission_that_is_none_may_have_begun_it(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say(f"POST {PATH}", b"<html>")

    with pytest.raises(TransientError) as caught:
        await submitted(batches, a_line(batches))

    assert caught.value.maybe_billed


async def test_a_batch_goes_with_all_that_it_holds(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say(f"DELETE {PATH}/msgbatch_1", {"id": "msgbatch_1", "type": "message_batch_deleted"})

    await batches.forget(BatchStatus("msgbatch_1", "ended"))

    assert vendor.calls() == [f"DELETE {PATH}/msgbatch_1"]
