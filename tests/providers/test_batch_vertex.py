from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Account
from moa.errors import ConfigError, InvalidRequest, ProviderError, RateLimited, TransientError
from moa.providers.accounts import check_batches, open_batches
from moa.providers.batch import BatchProvider
from moa.providers.provider import Completion
from moa.providers.vertex_batch import Senders
from moa.replay.process import ReplayServer
from moa.storage.object_store import Folder
from tests.providers.batch_contract import KEY, BatchContract, Buyer, ended, fetched, lines_of
from tests.providers.batch_vendor import BatchVendor, batch_vendor
from tests.providers.dialects import GeminiDialect
from tests.replay.asking import CATALOG

ACCOUNT = Account(
    "vertex",
    "gemini",
    api_key_env="VERTEX_KEY",
    project_env="PROJECT",
    location="europe-west4",
    batch_folder="gs://ours/batches",
)
ENVIRON = {"VERTEX_KEY": KEY, "PROJECT": "p1"}
JOBS = "/v1beta1/projects/p1/locations/europe-west4/batchPredictionJobs"
NAME = "projects/p1/locations/europe-west4/batchPredictionJobs/17"
PROMPT = "Tell me a story about a dog"


@pytest.fixture
def buyer(provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> Buyer:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    return Buyer(ACCOUNT, CATALOG.models["google/gemini-1.5-pro"], provider_server)


class TestVertexKeepsTheContract(BatchContract):
    pass


@pytest.fixture
async def vendor(buyer: Buyer) -> AsyncIterator[BatchVendor]:
    """The jobs' side; storage is the replay server's."""
    async with batch_vendor() as vendor:
        yield vendor


@pytest.fixture
async def batches(vendor: BatchVendor) -> AsyncIterator[BatchProvider]:
    batches = open_batches(ACCOUNT, environ=ENVIRON, base_url=vendor.url)
    yield batches
    await batches.close()


def job(state: str = "JOB_STATE_SUCCEEDED", **more: object) -> dict[str, Any]:
    return {
        "name": NAME,
        "displayName": "ours",
        "state": state,
        "inputConfig": {"gcsSource": {"uris": ["gs://ours/batches/ours/requests.jsonl"]}},
        "createTime": "2026-11-25T12:00:00.123456Z",
        "endTime": "2026-11-25T12:05:00Z",
        "completionStats": {"successfulCount": "5", "incompleteCount": "2"},
        "outputInfo": {"gcsOutputDirectory": "gs://ours/batches/ours/answers/prediction-1"},
        **more,
    }


async def test_a_job_reads_what_was_written_and_writes_beside_it(
    vendor: BatchVendor, batches: BatchProvider, buyer: Buyer
) -> None:
    vendor.say(f"POST {JOBS}", job("JOB_STATE_PENDING"))
    lines = lines_of(buyer, batches, 3)

    assert await batches.submit(buyer.model, lines, reference="Run-7") == NAME

    assert Folder("gs://ours/batches/Run-7").read("requests-000.jsonl") == b"".join(lines)
    assert vendor.bodies(f"POST {JOBS}") == [
        {
            "displayName": "Run-7",
            "model": f"publishers/google/models/{buyer.model.api_name}",
            "inputConfig": {
                "instancesFormat": "jsonl",
                "gcsSource": {"uris": ["gs://ours/batches/Run-7/requests-000.jsonl"]},
            },
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": "gs://ours/batches/Run-7/answers"},
            },
            "labels": {"moa": "run-7"},
        }
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("JOB_STATE_QUEUED", ("waiting", None)),
        ("JOB_STATE_PAUSED", ("waiting", None)),
        ("JOB_STATE_UPDATING", ("running", None)),
        ("JOB_STATE_CANCELLING", ("cancelling", None)),
        ("JOB_STATE_SUCCEEDED", ("ended", "completed")),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", ("ended", "completed")),
        ("JOB_STATE_EXPIRED", ("ended", "expired")),
        ("JOB_STATE_CANCELLED", ("ended", "cancelled")),
    ],
)
async def test_every_state_has_its_meaning(
    vendor: BatchVendor, batches: BatchProvider, state: str, expected: tuple[str, str | None]
) -> None:
    vendor.say(f"GET {JOBS}/17", job(state))

    found = await batches.look(NAME)

    assert (found.state, found.end) == expected
    assert (found.results is not None) == (found.state == "ended")
    assert (found.requests, found.answered, found.failed) == (7, 5, 0)


async def test_a_job_that_may_not_read_its_file_would_not_the_next_time(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    vendor.say(f"GET {JOBS}/17", job("JOB_STATE_FAILED", error={"code": 7, "message": PROMPT}))

    status = await batches.look(NAME)

    assert type(status.error) is InvalidRequest
    assert "story" not in str(status.error)


def write(name: str, *rows: dict[str, Any]) -> None:
    folder = Folder("gs://ours/batches/ours")
    folder.put(name, b"".join(orjson.dumps(row) + b"\n" for row in rows))


async def test_every_kind_of_row_of_every_file_has_its_meaning(
    vendor: BatchVendor, batches: BatchProvider
) -> None:
    paris = orjson.loads(GeminiDialect().ok("Paris").body)
    words = 'Bad Request: {"error": {"code": 400, "message": "a story", "status": "S"}}'
    rows: dict[str, dict[str, Any]] = {
        "b": {"status": "", "response": paris},
        "a": {"status": words, "response": {}},
        "c": {"status": {"code": 8, "message": PROMPT}},
        "d": {"status": 3},
        "e": {"status": "13: " + PROMPT},
        "f": {"status": f"INVALID_ARGUMENT {PROMPT}"},
        "g": {"status": PROMPT},
        "h": {},
        "i": {"status": "Bad Request: {", "response": {}},
    }
    sent = [{"custom_id": key, "request": {}, **row} for key, row in rows.items()]
    write("answers/prediction-1/predictions.jsonl", *sent[:4])
    write("answers/prediction-1/more/predictions_2.jsonl", *sent[4:])
    write("answers/prediction-1/notes.txt", {"none": "of ours"})
    vendor.say(f"GET {JOBS}/17", job())

    found = await fetched(batches, await batches.look(NAME))

    assert isinstance(found["b"], Completion)
    assert found["b"].text == "Paris"
    errors = {key: one for key, one in found.items() if isinstance(one, ProviderError)}
    assert {key: type(value) for key, value in errors.items()} == {
        "a": InvalidRequest,
        "c": RateLimited,
        "d": InvalidRequest,
        "e": TransientError,
        "f": InvalidRequest,
        "g": TransientError,
        "h": TransientError,
        "i": TransientError,
    }
    assert not any(error.maybe_billed or "story" in str(error) for error in errors.values())


@pytest.mark.parametrize("part_bytes", [1, 2_000, 1_000_000])
async def test_rows_that_come_back_without_their_id_are_known_by_their_request(
    buyer: Buyer, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.providers.vertex_batch._PART_BYTES", part_bytes)
    buyer.script()
    batches = buyer.open()
    try:
        lines = lines_of(buyer, batches)
        twice = batches.line("row-twice", buyer.request("The same?"))
        again = batches.line("row-again", buyer.request("The same?"))
        batch_id = await batches.submit(buyer.model, [*lines, twice, again], reference="ours")
        status = await ended(batches, batch_id)
        whole = await fetched(batches, status)
        folder = Folder(status.results or "")
        rows = [orjson.loads(line) for line in _lines(folder)]
        random.Random(7).shuffle(rows)
        stripped = [{k: v for k, v in row.items() if k != "custom_id"} for row in rows]
        stranger = {**stripped[0], "request": {"contents": "of another"}}
        lines = [orjson.dumps(row) + b"\n" for row in (*stripped, stranger)]
        folder.put("predictions.jsonl", b"".join(lines))

        found = await fetched(batches, status)
    finally:
        await batches.close()

    assert set(found) == set(whole)
    for key, answer in found.items():
        if isinstance(answer, Completion):
            assert answer.text == whole[key].text  # type: ignore[union-attr]


def _lines(folder: Folder) -> list[bytes]:
    return (folder.read("predictions.jsonl") or b"").splitlines()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def _as_a_struct(value: object) -> object:
    """As google.protobuf.Struct gives it back: keys in another order, all numbers floats."""
    if isinstance(value, dict):
        return {key: _as_a_struct(one) for key, one in reversed(value.items())}
    if isinstance(value, list):
        return [_as_a_struct(one) for one in value]
    return float(value) if type(value) is int else value


@settings(max_examples=50)
@given(
    requests=st.lists(st.dictionaries(st.text(max_size=9), JSON), max_size=9), order=st.randoms()
)
def test_a_request_is_known_again_however_it_is_written(
    requests: list[dict[str, Any]], order: random.Random
) -> None:
    senders = Senders()
    for number, request in enumerate(requests):
        senders.add({"custom_id": str(number), "request": request})
    back = [(n, json.loads(json.dumps(_as_a_struct(r)))) for n, r in enumerate(requests)]
    order.shuffle(back)

    known = [(number, senders.of({"request": request})) for number, request in back]

    assert sorted(str(one) for _, one in known) == sorted(map(str, range(len(requests))))
    assert all(requests[int(one or -1)] == requests[number] for number, one in known)
    assert senders.of({"request": "none of them"}) is None


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (Account("v", "gemini", project_env="PROJECT"), "batch_folder"),
        (
            Account("v", "gemini", api_key_env="VERTEX_KEY", location="eu", batch_folder="gs://b"),
            "belong to a project",
        ),
    ],
)
def test_what_batches_need_besides_is_told_before_the_first_call(
    account: Account, said: str
) -> None:
    environ = {"VERTEX_KEY": "k", "PROJECT": "p"}
    with pytest.raises(ConfigError, match=said):
        check_batches(account, environ)
    with pytest.raises(ConfigError, match=said):
        open_batches(account, environ=environ)


async def test_storage_that_is_out_is_asked_again_later(
    vendor: BatchVendor, batches: BatchProvider, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.say(f"GET {JOBS}/17", job(outputInfo={"gcsOutputDirectory": "gs://ours/nothing/here"}))
    status = await batches.look(NAME)

    assert await fetched(batches, status) == {}

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", vendor.url)
    vendor.say("GET /storage/v1/b/ours/o", {"error": {"code": 401}}, 401)
    with pytest.raises(TransientError) as caught:
        await fetched(batches, status)
    assert not caught.value.maybe_billed
