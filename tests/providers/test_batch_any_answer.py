"""Whatever a vendor says of a batch: a status, results, or an error that says what to do."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Account
from moa.errors import ProviderError
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchResult, BatchStatus
from moa.providers.provider import Completion, Request
from tests.providers.batch_vendor import BatchVendor, batch_vendor
from tests.providers.dialects import DIALECTS, a_chat
from tests.providers.test_any_answer import JSON, changed, places
from tests.providers.test_batch_anthropic import batch
from tests.providers.test_batch_gemini import operation
from tests.providers.test_batch_openai import BATCH
from tests.providers.test_batch_vertex import ACCOUNT as VERTEX
from tests.providers.test_batch_vertex import ENVIRON, NAME, job

# An unknown finish reason makes google-genai warn, in words that no test can choose.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid:UserWarning")

ACCOUNTS = {
    "openai": Account("openai", "openai", api_key_env="VERTEX_KEY"),
    "anthropic": Account("anthropic", "anthropic", api_key_env="VERTEX_KEY"),
    "gemini": Account("google", "gemini", api_key_env="VERTEX_KEY"),
    "vertex": VERTEX,
}
LOOKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "openai": ("batch_1", "/batches/batch_1", {**BATCH, "errors": {"data": [{"code": "c"}]}}),
    "anthropic": ("msgbatch_1", "/v1/messages/batches/msgbatch_1", batch()),
    "gemini": ("batches/1", "/v1beta/batches/1", operation(error={"code": 3})),
    "vertex": (NAME, f"/v1beta1/{NAME}", job("JOB_STATE_FAILED", error={"code": 3})),
}
LISTS = {"openai": "data", "anthropic": "data", "gemini": "operations"}
LISTS["vertex"] = "batchPredictionJobs"
ERROR = {"type": "error", "error": {"type": "api_error", "code": 3, "message": "m"}}


def _rows(kind: str) -> tuple[str, list[dict[str, Any]]]:
    """Where results are, and rows of them."""
    said = json.loads(DIALECTS["gemini" if kind == "vertex" else kind].ok("Paris").body)  # type: ignore[index]
    if kind == "openai":
        answered = {"custom_id": "a", "response": {"status_code": 200, "body": said}}
        failed = {"custom_id": "b", "error": {"code": "batch_expired", "message": "m"}}
        return "/files/file-out/content", [answered, failed]
    if kind == "anthropic":
        results = ({"type": "succeeded", "message": said}, {"type": "errored", "error": ERROR})
        where = "/v1/messages/batches/msgbatch_1/results"
        return where, [{"custom_id": "a", "result": result} for result in results]
    rows = [{"key": "a", "response": said}, {"key": "b", **ERROR}]
    return "/v1beta/files/batch-1:download", rows


@st.composite
def almost(draw: st.DrawFn, document: dict[str, Any]) -> object:
    """A document with one of its values, or all of it, in another form."""
    path = draw(st.sampled_from(places(document)))
    return changed(document, path, draw(JSON))


def meet(kind: str, method_path: str, said: object, act: Any) -> object:  # noqa: ANN401
    """What comes of it when a vendor says that; any error but ours fails the test."""

    async def run(vendor: BatchVendor) -> object:
        vendor.say(method_path, said if isinstance(said, bytes) else json.dumps(said).encode())
        batches = open_batches(ACCOUNTS[kind], environ=ENVIRON, base_url=vendor.url)
        try:
            return await act(batches)
        except ProviderError as error:
            return error
        finally:
            await batches.close()

    async def alone() -> object:
        async with batch_vendor() as vendor:
            return await run(vendor)

    return asyncio.run(alone())


def is_sound(status: object) -> bool:
    return (
        isinstance(status, BatchStatus)
        and isinstance(status.id, str)
        and status.state in ("waiting", "running", "cancelling", "ended")
        and (status.end is not None) == (status.state == "ended")
        and all(type(n) is int for n in (status.requests, status.answered, status.failed))
        and all(
            moment is None or (isinstance(moment, datetime) and moment.tzinfo is not None)
            for moment in (status.created_at, status.ended_at, status.expires_at)
        )
        and (status.results is None or isinstance(status.results, str))
    )


@pytest.mark.parametrize("kind", LOOKS)
@settings(max_examples=60)
@given(data=st.data())
def test_any_status_is_one_or_an_error(kind: str, data: st.DataObject) -> None:
    batch_id, path, document = LOOKS[kind]
    said = data.draw(almost(document))

    found = meet(kind, f"GET {path}", said, lambda batches: batches.look(batch_id))

    assert isinstance(found, ProviderError) or is_sound(found)


@pytest.mark.parametrize("kind", LOOKS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_list_has_some_or_is_an_error(kind: str, data: st.DataObject) -> None:
    _, path, document = LOOKS[kind]
    said = data.draw(almost({LISTS[kind]: [document], "has_more": False}))

    found = meet(
        kind,
        f"GET {path.rpartition('/')[0]}",
        said,
        lambda batches: batches.find("ours", since=datetime(2026, 11, 25, tzinfo=UTC), requests=3),
    )

    assert isinstance(found, ProviderError) or all(map(is_sound, found))  # type: ignore[call-overload]


async def _fetched(batches: BatchProvider, status: BatchStatus) -> list[BatchResult]:
    return [result async for result in batches.results(status)]


@pytest.mark.parametrize("kind", ["openai", "anthropic", "gemini"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_row_is_an_answer_or_an_error(kind: str, data: st.DataObject) -> None:
    where, rows = _rows(kind)
    said = data.draw(almost(data.draw(st.sampled_from(rows))))
    results = {"openai": "file-out", "anthropic": where, "gemini": "files/batch-1"}[kind]
    batch_id = LOOKS[kind][0]

    found = meet(
        kind,
        f"GET {where}",
        json.dumps(said).encode(),
        lambda batches: _fetched(batches, BatchStatus(batch_id, "ended", results=results)),
    )

    if not isinstance(found, ProviderError):
        for result in found:  # type: ignore[attr-defined]
            assert isinstance(result.custom_id, str)
            assert isinstance(result.answer, Completion | ProviderError)


@pytest.mark.parametrize("kind", LOOKS)
@settings(max_examples=60)
@given(text=st.text(min_size=1).filter(str.strip))
def test_any_prompt_is_one_line_that_can_be_read_again(kind: str, text: str) -> None:
    batches = open_batches(ACCOUNTS[kind], environ=ENVIRON, base_url="http://127.0.0.1:1/v1")
    model = DIALECTS["gemini" if kind == "vertex" else kind].model  # type: ignore[index]
    chat = a_chat(messages=[{"role": "user", "content": text}])

    line = batches.line("id-1", Request("q", chat, model, "batch"))

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.dumps(text) in json.dumps(json.loads(line))
