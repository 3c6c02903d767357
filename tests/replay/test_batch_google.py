"""Gemini's batches and Google's storage, asked for by Google's own clients."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import time
from typing import Any

import orjson
import pytest
from google import genai
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage
from google.genai import errors, types
from pyarrow import fs

from moa.replay.process import ReplayServer
from tests.replay.batch_asking import IDS, QUERIES, usage

GEMINI = "gemini-1.5-pro"
REAL = usage("google/gemini-1.5-pro")


def request(query: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": QUERIES[query]}]}]}


def ended(client: genai.Client, job: types.BatchJob, within_s: float = 5) -> types.BatchJob:
    give_up_at = time.monotonic() + within_s
    while True:
        found = client.batches.get(name=job.name or "")
        if found.done:
            return found
        assert time.monotonic() < give_up_at, found
        time.sleep(0.02)  # the vendor tells nobody when a job has ended


def submit_file(client: genai.Client) -> types.BatchJob:
    lines = [{"key": number, "request": request(query)} for number, query in IDS.items()]
    content = b"\n".join(map(orjson.dumps, lines))
    file = client.files.upload(
        file=io.BytesIO(content), config={"mime_type": "jsonl", "display_name": "ours"}
    )
    assert file.size_bytes == len(content)
    return client.batches.create(
        model=GEMINI, src=file.name or "", config={"display_name": "reference"}
    )


def results(client: genai.Client, job: types.BatchJob) -> dict[str, Any]:
    assert job.dest is not None
    assert job.dest.file_name is not None
    content = client.files.download(file=job.dest.file_name)
    return {line["key"]: line for line in map(orjson.loads, content.splitlines())}


def tokens(response: dict[str, Any]) -> tuple[int, int]:
    told = response["usageMetadata"]
    return told["promptTokenCount"], told["candidatesTokenCount"]


def test_a_batch_of_a_file_gives_every_recorded_answer(
    provider_server: ReplayServer, gemini: genai.Client
) -> None:
    job = submit_file(gemini)
    end = ended(gemini, job)
    lines = results(gemini, end)

    assert job.state == types.JobState.JOB_STATE_PENDING
    assert end.state == types.JobState.JOB_STATE_SUCCEEDED
    assert end.display_name == "reference"
    assert {number: tokens(line["response"]) for number, line in lines.items()} == {
        number: REAL[query] for number, query in IDS.items()
    }
    assert provider_server.summary()["by_lane"] == {"batch": 12}


def test_inline_requests_are_answered_in_their_order(gemini: genai.Client) -> None:
    requests = [
        types.InlinedRequest(contents=QUERIES[query], metadata={"key": number})
        for number, query in IDS.items()
    ]

    end = ended(gemini, gemini.batches.create(model=GEMINI, src=requests))

    assert end.dest is not None
    answers = end.dest.inlined_responses or []
    assert [(answer.metadata or {})["key"] for answer in answers] == list(IDS)
    for answer, query in zip(answers, IDS.values(), strict=True):
        assert answer.response is not None
        told = answer.response.usage_metadata
        assert told is not None
        assert (told.prompt_token_count, told.candidates_token_count) == REAL[query]


def submit_vertex(
    client: genai.Client, gcs: storage.Client, name: str = "reference"
) -> types.BatchJob:
    lines = [{"request": request(query), "custom_id": number} for number, query in IDS.items()]
    blob = gcs.bucket("ours").blob("in/requests 1.jsonl")
    blob.upload_from_string(b"\n".join(map(orjson.dumps, lines)), content_type="application/jsonl")
    return client.batches.create(
        model=GEMINI,
        src="gs://ours/in/requests 1.jsonl",
        config={"display_name": name, "dest": "gs://ours/out"},
    )


def predictions(gcs: storage.Client, job: types.BatchJob) -> dict[str, Any]:
    assert job.output_info is not None
    folder = (job.output_info.gcs_output_directory or "").removeprefix("gs://ours/")
    assert folder.startswith("out/prediction-model-")
    (blob,) = gcs.list_blobs("ours", prefix=folder)
    assert blob.name == f"{folder}/predictions.jsonl"
    lines = map(orjson.loads, blob.download_as_bytes().splitlines())
    return {line["custom_id"]: line for line in lines}


def test_a_job_on_vertex_reads_from_and_writes_to_storage(
    provider_server: ReplayServer, vertex: genai.Client, gcs: storage.Client
) -> None:
    job = submit_vertex(vertex, gcs)
    end = ended(vertex, job)
    lines = predictions(gcs, end)

    assert job.state == types.JobState.JOB_STATE_PENDING
    assert end.state == types.JobState.JOB_STATE_SUCCEEDED
    assert end.completion_stats is not None
    assert end.completion_stats.successful_count == 12
    assert {number: tokens(line["response"]) for number, line in lines.items()} == {
        number: REAL[query] for number, query in IDS.items()
    }
    assert all(line["request"] == request(IDS[number]) for number, line in lines.items())
    assert provider_server.summary()["by_lane"] == {"batch": 12}


def test_jobs_on_vertex_are_found_by_their_name_and_deleted(
    vertex: genai.Client, gcs: storage.Client
) -> None:
    jobs = [submit_vertex(vertex, gcs, name) for name in ("a", "b", "a")]
    found = list(vertex.batches.list(config={"filter": 'displayName="a"', "page_size": 1}))

    assert [job.name for job in found] == [jobs[2].name, jobs[0].name]

    ended(vertex, jobs[2])
    vertex.batches.delete(name=jobs[2].name or "")

    left = list(vertex.batches.list(config={"filter": 'displayName="a"'}))
    assert [job.name for job in left] == [jobs[0].name]


def test_objects_are_written_read_listed_and_deleted(gcs: storage.Client) -> None:
    bucket = gcs.bucket("ours")
    for name in ("a/one", "a/two words", "a/b/three", "four"):
        bucket.blob(name).upload_from_string(name.encode())

    assert [blob.name for blob in gcs.list_blobs("ours", prefix="a/")] == [
        "a/b/three", "a/one", "a/two words",
    ]  # fmt: skip
    assert bucket.blob("a/two words").download_as_bytes() == b"a/two words"
    assert bucket.blob("a/one").download_as_bytes(start=2, end=3) == b"on"

    bucket.blob("a/one").delete()

    assert not bucket.blob("a/one").exists()
    with pytest.raises(NotFound):
        bucket.blob("a/one").download_as_bytes()


def test_of_two_that_create_an_object_one_is_told_that_it_did(gcs: storage.Client) -> None:
    blob = gcs.bucket("ours").blob("lock")
    blob.upload_from_string(b"one", if_generation_match=0)

    with pytest.raises(PreconditionFailed):
        gcs.bucket("ours").blob("lock").upload_from_string(b"two", if_generation_match=0)

    assert blob.download_as_bytes() == b"one"
    blob.upload_from_string(b"three", if_generation_match=blob.generation)
    assert blob.download_as_bytes() == b"three"


def test_a_large_object_is_written_in_pieces(gcs: storage.Client) -> None:
    content = bytes(range(256)) * 4096
    blob = gcs.bucket("ours").blob("large", chunk_size=256 * 1024)

    blob.upload_from_file(io.BytesIO(content))

    assert blob.size == len(content)
    assert blob.download_as_bytes() == content


def test_pyarrow_reads_what_googles_client_wrote(
    provider_server: ReplayServer, gcs: storage.Client
) -> None:
    gcs.bucket("ours").blob("run/part 1.txt").upload_from_string(b"0123456789")
    system = fs.GcsFileSystem(
        anonymous=True, scheme="http", endpoint_override=provider_server.url.removeprefix("http://")
    )

    found = system.get_file_info(fs.FileSelector("ours/run", recursive=True))

    assert [(info.path, info.size) for info in found] == [("ours/run/part 1.txt", 10)]
    with system.open_input_file("ours/run/part 1.txt") as file:
        assert file.read_at(4, 3) == b"3456"
        assert file.read_at(100, 0) == b"0123456789"
    assert system.get_file_info("ours/run/none").type == fs.FileType.NotFound


USE_OF_A_FOLDER = """
import pyarrow as pa
from moa.storage.object_store import Folder
folder = Folder("gs://ours/run")
folder.check()
folder.put("a/x", b"1")
made = [folder.create("a/x", b"2"), folder.create("lock", b"2"), folder.swap("lock", b"2", b"3")]
folder.put_table("t/part 1.parquet", pa.table({"x": [1, 2]}))
rows = folder.read_table("t/part 1.parquet")["x"].to_pylist()
before = folder.names("")
folder.remove_all("t")
print([made, folder.read("lock") == b"3", folder.read("none"), rows, before, folder.names("")])
"""


def test_a_run_folder_can_be_in_this_storage(
    provider_server: ReplayServer, gcs: storage.Client
) -> None:
    emulated = {
        "STORAGE_EMULATOR_HOST": provider_server.url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": provider_server.url,
    }
    command = [sys.executable, "-c", USE_OF_A_FOLDER]

    # In a process of its own: clients of storage are kept for as long as one lasts.
    ran = subprocess.run(
        command, env={**os.environ, **emulated}, capture_output=True, text=True, check=True
    )

    made, is_new, none, rows, before, after = ast.literal_eval(ran.stdout)
    assert (made, is_new, none, rows) == ([False, True, True], True, None, [1, 2])
    assert (before, after) == (["a/x", "lock", "t/part 1.parquet"], ["a/x", "lock"])
    assert [blob.name for blob in gcs.list_blobs("ours")] == ["run/a/x", "run/lock"]


def test_a_long_list_of_objects_comes_page_by_page(gcs: storage.Client) -> None:
    names = sorted(f"a/{number % 3}/{number}" for number in range(9))
    for name in names:
        gcs.bucket("ours").blob(name).upload_from_string(b"")

    for size in (1, 2, 9):
        assert [blob.name for blob in gcs.list_blobs("ours", page_size=size)] == names
    folders = gcs.list_blobs("ours", prefix="a/", delimiter="/")
    assert list(folders) == []
    assert folders.prefixes == {"a/0/", "a/1/", "a/2/"}
    assert list(gcs.list_blobs("others")) == []


def test_batches_of_the_developer_api_are_listed_and_deleted(gemini: genai.Client) -> None:
    jobs = [submit_file(gemini) for _ in range(3)]
    names = [job.name for job in reversed(jobs)]

    assert [job.name for job in gemini.batches.list(config={"page_size": 2})] == names

    gemini.batches.delete(name=names[0] or "")

    assert [job.name for job in gemini.batches.list()] == names[1:]


def test_a_large_file_is_uploaded_in_pieces(gemini: genai.Client) -> None:
    content = b'{"key": "one", "request": {"contents": []}}\n' * 250_000

    file = gemini.files.upload(file=io.BytesIO(content), config={"mime_type": "jsonl"})

    assert file.size_bytes == len(content) > 8 * 2**20  # the client's pieces
    assert gemini.files.get(name=file.name or "").size_bytes == len(content)
    gemini.files.delete(name=file.name or "")
    with pytest.raises(errors.ClientError):
        gemini.files.get(name=file.name or "")
