"""The same batches through the vendors' own clients and through ours: what the vendor sees."""

from __future__ import annotations

import email
import io
from typing import Any

import anthropic
import openai
import orjson
import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from moa.catalog import Account
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchStatus
from moa.providers.provider import Request
from moa.replay.process import ReplayServer
from tests.providers.batch_vendor import BatchVendor, Sent
from tests.providers.dialects import DIALECTS, KEY, a_chat
from tests.providers.test_batch_anthropic import batch
from tests.providers.test_batch_gemini import operation
from tests.providers.test_batch_openai import BATCH
from tests.providers.test_batch_vertex import job

# google-genai makes a class of its own from aiohttp's, which aiohttp discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

ENVIRON = {"KEY": KEY, "PROJECT": "p1"}


async def ours(account: Account, url: str, act: Any) -> Any:  # noqa: ANN401 - whatever `act` gives
    batches = open_batches(account, environ=ENVIRON, base_url=url)
    try:
        return await act(batches)
    finally:
        await batches.close()


async def results(batches: BatchProvider, batch_id: str) -> None:
    async for _ in batches.results(await batches.look(batch_id)):
        pass


def form(sent: Sent) -> dict[str, bytes]:
    """Fields of a multipart form, without the files' names."""
    head = f"Content-Type: {sent.headers['content-type']}\r\n\r\n".encode()
    parts: Any = email.message_from_bytes(head + sent.body).get_payload()
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in parts
    }


async def test_openai_sees_the_same_calls(vendor: BatchVendor) -> None:
    vendor.say("POST /v1/files", {"id": "file-in", "object": "file"})
    vendor.say("POST /v1/batches", BATCH)
    vendor.say("GET /v1/batches/batch_1", BATCH)
    vendor.say("POST /v1/batches/batch_1/cancel", BATCH)
    for name in ("out", "err"):
        vendor.say(f"GET /v1/files/file-{name}/content", b"")
        vendor.say(f"DELETE /v1/files/file-{name}", {"id": f"file-{name}", "deleted": True})
    vendor.say("DELETE /v1/files/file-in", {"id": "file-in", "deleted": True})
    account = Account("openai", "openai", api_key_env="KEY")
    model, url = DIALECTS["openai"].model, vendor.url + "/v1"
    lines: list[bytes] = []

    async def act(batches: BatchProvider) -> None:
        lines.append(batches.line("a", Request("q", a_chat(), model, "batch")))
        await batches.submit(model, lines, reference="r")
        await batches.cancel("batch_1")
        await results(batches, "batch_1")
        await batches.forget(BatchStatus("batch_1", "ended"))

    await ours(account, url, act)
    mine, vendor.sent = vendor.sent, []
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
        file = await client.files.create(
            file=("r.jsonl", io.BytesIO(b"".join(lines))), purpose="batch"
        )
        await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"moa": "r"},
        )
        await client.batches.cancel("batch_1")
        await client.batches.retrieve("batch_1")
        await client.files.content("file-out")
        await client.files.content("file-err")
        await client.batches.retrieve("batch_1")
        for name in ("out", "err", "in"):
            await client.files.delete(f"file-{name}")

    assert [(s.method, s.path) for s in mine] == [(s.method, s.path) for s in vendor.sent]
    assert form(mine[0]) == form(vendor.sent[0])
    assert orjson.loads(mine[1].body) == orjson.loads(vendor.sent[1].body)
    assert {s.headers["authorization"] for s in mine + vendor.sent} == {f"Bearer {KEY}"}


async def test_anthropic_sees_the_same_calls(vendor: BatchVendor) -> None:
    path = "/v1/messages/batches"
    vendor.say(f"POST {path}", batch())
    vendor.say(f"GET {path}/msgbatch_1", batch())
    vendor.say(f"POST {path}/msgbatch_1/cancel", batch())
    vendor.say(f"GET {path}/msgbatch_1/results", b"")
    vendor.say(f"DELETE {path}/msgbatch_1", {"id": "msgbatch_1", "type": "message_batch_deleted"})
    account = Account("anthropic", "anthropic", api_key_env="KEY")
    model = DIALECTS["anthropic"].model

    async def act(batches: BatchProvider) -> None:
        lines = [batches.line(name, Request("q", a_chat(), model, "batch")) for name in "ab"]
        await batches.submit(model, lines, reference="r")
        await batches.cancel("msgbatch_1")
        await results(batches, "msgbatch_1")
        await batches.forget(BatchStatus("msgbatch_1", "ended"))

    await ours(account, vendor.url, act)
    mine, vendor.sent = vendor.sent, []
    params: Any = {
        "model": model.api_name,
        "max_tokens": model.max_output_tokens,
        "messages": [{"role": "user", "content": "Capital of France?"}],
    }
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=vendor.url, max_retries=0) as client:
        await client.messages.batches.create(
            requests=[{"custom_id": name, "params": params} for name in "ab"]
        )
        await client.messages.batches.cancel("msgbatch_1")
        await client.messages.batches.retrieve("msgbatch_1")
        await client.get(f"{path}/msgbatch_1/results", cast_to=str)  # its own goes to the vendor
        await client.messages.batches.delete("msgbatch_1")

    assert [(s.method, s.path) for s in mine] == [(s.method, s.path) for s in vendor.sent]
    assert orjson.loads(mine[0].body) == orjson.loads(vendor.sent[0].body)
    for name in ("authorization", "anthropic-version"):
        assert {s.headers[name] for s in mine} == {s.headers[name] for s in vendor.sent}


async def test_the_gemini_developer_api_sees_the_same_calls(vendor: BatchVendor) -> None:
    model = DIALECTS["gemini"].model
    where = f"{vendor.url}/upload/here?upload_id=7"
    vendor.say("POST /upload/v1beta/files", {}, x_goog_upload_url=where)
    uploaded = {"file": {"name": "files/in"}}
    vendor.say("POST /upload/here", uploaded, x_goog_upload_status="final")
    vendor.say(f"POST /v1beta/models/{model.api_name}:batchGenerateContent", operation())
    vendor.say("GET /v1beta/batches/1", operation())
    vendor.say("GET /v1beta/batches", {"operations": [operation()]})
    vendor.say("POST /v1beta/batches/1:cancel", {})
    vendor.say("GET /v1beta/files/batch-1:download", b"")
    for name in ("files/in", "files/batch-1", "batches/1"):
        vendor.say(f"DELETE /v1beta/{name}", {})
    lines: list[bytes] = []

    async def act(batches: BatchProvider) -> None:
        lines.append(batches.line("a", Request("q", a_chat(), model, "batch")))
        await batches.submit(model, lines, reference="r")
        await batches.cancel("batches/1")
        await results(batches, "batches/1")
        await batches.forget(BatchStatus("batches/1", "ended"))

    await ours(Account("google", "gemini", api_key_env="KEY"), vendor.url, act)
    mine, vendor.sent = vendor.sent, []
    options = types.HttpOptions(base_url=vendor.url)
    client = genai.Client(api_key=KEY, http_options=options).aio
    config = types.UploadFileConfig(display_name="r", mime_type="application/jsonl")
    file = await client.files.upload(file=io.BytesIO(lines[0]), config=config)
    await client.batches.create(
        model=model.api_name, src=str(file.name), config={"display_name": "r"}
    )
    await client.batches.cancel(name="batches/1")
    await client.batches.get(name="batches/1")
    await client.files.download(file="files/batch-1")
    await client.batches.get(name="batches/1")
    for name in ("in", "batch-1"):
        await client.files.delete(name=f"files/{name}")
    await client.batches.delete(name="batches/1")
    await client.aclose()

    assert [(s.method, s.path) for s in mine] == [(s.method, s.path) for s in vendor.sent]
    start, theirs = orjson.loads(mine[0].body)["file"], orjson.loads(vendor.sent[0].body)["file"]
    names = {"displayName": "display_name", "mimeType": "mime_type", "sizeBytes": "size_bytes"}
    assert {names[name]: value for name, value in start.items()} == theirs
    assert mine[1].body == vendor.sent[1].body
    assert _upload_headers(mine[0]) == _upload_headers(vendor.sent[0])
    assert _upload_headers(mine[1]).items() <= _upload_headers(vendor.sent[1]).items()
    assert orjson.loads(mine[2].body) == orjson.loads(vendor.sent[2].body)


def _upload_headers(sent: Sent) -> dict[str, str]:
    return {k: v for k, v in sent.headers.items() if k.startswith("x-goog-upload-")}


async def test_vertex_sees_the_same_calls(
    vendor: BatchVendor, provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    model = DIALECTS["gemini"].model
    jobs = "/v1beta1/projects/p1/locations/europe-west4/batchPredictionJobs"
    vendor.say(f"POST {jobs}", job())
    vendor.say(f"GET {jobs}/17", job())
    vendor.say(f"GET {jobs}", {"batchPredictionJobs": [job()]})
    vendor.say(f"POST {jobs}/17:cancel", {})
    account = Account(
        "v", "gemini", project_env="PROJECT", location="europe-west4", batch_folder="gs://b/f"
    )

    async def act(batches: BatchProvider) -> None:
        lines = [batches.line("a", Request("q", a_chat(), model, "batch"))]
        await batches.submit(model, lines, reference="r")
        await batches.look("17")
        await batches.cancel("17")

    await ours(account, vendor.url, act)
    mine, vendor.sent = vendor.sent, []
    client = genai.Client(
        vertexai=True,
        project="p1",
        location="europe-west4",
        credentials=Credentials(token="x"),  # type: ignore[no-untyped-call]
        http_options=types.HttpOptions(base_url=vendor.url),
    ).aio
    await client.batches.create(
        model=model.api_name,
        src="gs://b/f/r/requests-000.jsonl",
        config={"display_name": "r", "dest": "gs://b/f/r/answers"},
    )
    await client.batches.get(name="17")
    await client.batches.cancel(name="17")
    await client.aclose()

    assert [(s.method, s.path) for s in mine] == [(s.method, s.path) for s in vendor.sent]
    sent = orjson.loads(mine[0].body)
    assert sent.pop("labels") == {"moa": "r"}
    assert sent == orjson.loads(vendor.sent[0].body)
