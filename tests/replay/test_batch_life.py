"""What holds of every batch, whatever its script, whenever it is looked at or cancelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.replay.batch_call import Call
from moa.replay.batch_life import Batch, Clock, Failure, Row
from moa.replay.batches import BatchBook
from moa.replay.google_storage import Objects
from moa.replay.ledger import Ledger
from moa.replay.script import Batches, BatchFate, Script
from moa.replay.vertex_batch import VertexBatches
from moa.replay.wire import Answer, Reply, Trouble
from tests.conftest import FakeClock

ORDER = ("waiting", "running", "finalizing", "cancelling", "ended")
seconds = st.floats(0, 1000)
shares = st.floats(0, 1)
scripts = st.builds(
    Batches,
    waits_s=seconds,
    takes_s=seconds,
    per_request_s=st.floats(0, 10),
    finalizes_s=seconds,
    cancel_takes_s=seconds,
    expires_after_s=st.floats(1, 3000),
    unfinished_when_expired=shares,
    finished_when_stuck=shares,
    time_scale=st.floats(1, 100),
)
outcomes = st.lists(st.booleans(), max_size=30)
fates: st.SearchStrategy[BatchFate] = st.sampled_from(["ok", "expires", "stuck", "invalid"])
waits = st.lists(st.floats(0, 500), min_size=1, max_size=8)


def row(number: int, answered: bool) -> Row:
    outcome = Answer("text", "served", 3, 4) if answered else Trouble(500)
    return Row(number, f"row-{number}", None, "model", number + 1, outcome)


def book_of(script: Batches) -> tuple[BatchBook, Ledger, FakeClock]:
    clock, ledger = FakeClock(), Ledger(lambda prompt: str(prompt))
    return BatchBook(ledger, Script(batch=script), machine=clock), ledger, clock


def submit(book: BatchBook, answered: list[bool], fate: BatchFate = "ok", name: str = "b") -> Batch:
    rows = [row(number, one) for number, one in enumerate(answered)]
    failure = Failure("code", "none") if fate == "invalid" else None
    kind: BatchFate = "ok" if fate == "invalid" else fate
    return book.submit("openai", "us", "key", rows, batch_id=name, fate=kind, failure=failure)


@given(scripts, outcomes, fates, waits, st.integers(0, 8))
def test_a_batch_goes_forward_only_and_bills_each_answer_once(
    script: Batches, answered: list[bool], fate: BatchFate, waits: list[float], cancel_at: int
) -> None:
    book, ledger, clock = book_of(script)
    batch = submit(book, answered, fate)

    seen: list[tuple[int, int, tuple[int, int]]] = []
    for number, wait_s in enumerate([*waits, 1e9]):
        if number == cancel_at:
            book.cancel(batch)
        now_s = book.now("openai")
        seen.append((ORDER.index(batch.state(now_s)), batch.done(now_s), batch.tally(now_s)))
        book.settle()
        assert len(ledger) == batch.tally(book.now("openai"))[0]
        clock.advance(wait_s)
    book.settle()

    assert seen == sorted(seen)
    billed = [int(entry.query_id or 0) for entry in ledger.entries()]
    assert len(set(billed)) == len(billed)
    if fate == "stuck" and batch.cancel_s is None:
        assert batch.state(book.now("openai")) == "running"
        return
    assert batch.state(book.now("openai")) == "ended"
    finished, left = batch.finished(), batch.unfinished()
    assert sorted(row.number for row in (*finished, *left)) == list(range(len(answered)))
    assert set(billed) == {row.prompt for row in finished if isinstance(row.outcome, Answer)}


@given(scripts, outcomes, waits)
def test_a_batch_that_ends_by_itself_ends_by_its_expiry(
    script: Batches, answered: list[bool], waits: list[float]
) -> None:
    book, ledger, clock = book_of(script)
    batch = submit(book, answered)

    clock.advance(1e9)
    book.settle()

    assert batch.ends_s <= batch.expires_s
    assert batch.expires_s == pytest.approx(batch.created_s + script.expires_after_s)
    if batch.end == "completed":
        assert batch.unfinished() == []
        assert len(ledger) == sum(answered)
    else:
        assert batch.end == "expired"
        assert batch.ends_s == batch.expires_s


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1e5)), min_size=1, max_size=10))
def test_a_vendors_clock_goes_forward_through_every_change_of_speed(
    legs: list[tuple[float, float]],
) -> None:
    machine = FakeClock()
    clock = Clock(machine)

    for wait_s, scale in legs:
        clock.go(scale)
        before = clock.now()
        machine.advance(wait_s)
        assert clock.now() - before == pytest.approx(wait_s * scale, abs=1e-3)
        assert clock.monotonic(clock.now()) == pytest.approx(machine(), abs=1e-3)


@given(st.lists(st.integers(1, 8), max_size=8), st.integers(3, 60))
def test_a_queue_never_holds_more_than_its_limit(sizes: list[int], limit: int) -> None:
    book, _, clock = book_of(Batches(queue_tokens={"model": limit}, takes_s=10, waits_s=0))
    for number, size in enumerate(sizes):
        rows = [row(at, True) for at in range(size)]
        if book.is_full("openai", "us", rows) is None:
            submit(book, [True] * size, name=str(number))
        now_s = book.now("openai")
        held = [batch for batch in book.of("openai", "us") if batch.state(now_s) != "ended"]
        assert sum(3 * len(batch.rows) for batch in held) <= limit
        clock.advance(4)


def test_requests_end_evenly_over_the_time_that_a_batch_takes() -> None:
    book, _, clock = book_of(Batches(waits_s=10, takes_s=10, per_request_s=1))
    batch = submit(book, [True] * 10)

    done = []
    for _ in range(4):
        done.append(batch.done(book.now("openai")))
        clock.advance(10)

    assert done == [0, 0, 5, 10]


LINE = b'{"request": {}}'


class Hurried(FakeClock):
    """Time passes whenever somebody looks."""

    def __call__(self) -> float:
        self.now += 0.3
        return self.now


@pytest.mark.parametrize("takes_s", [2 + n / 10 for n in range(30)])
def test_what_is_told_of_a_job_on_vertex_is_of_one_moment(takes_s: float) -> None:
    clock = Hurried()
    script = Script(batch=Batches(waits_s=1, takes_s=takes_s))
    book = BatchBook(Ledger(str), script, machine=clock)
    objects = Objects(clock)
    objects.put("bucket", "in.jsonl", LINE, "application/jsonl")
    desk = VertexBatches(book, lambda number, *_: replace(row(number, False), line=LINE), objects)
    asked = {
        "displayName": "night",
        "model": "gemini",
        "inputConfig": {
            "instancesFormat": "jsonl",
            "gcsSource": {"uris": ["gs://bucket/in.jsonl"]},
        },
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": "gs://bucket/out"},
        },
    }

    def ask(operation: str, **names: str) -> dict[str, Any]:
        call = Call(
            operation, {"parent": "projects/p", **names}, {}, {}, orjson.dumps(asked), "", "key"
        )
        reply = desk.answer(call)
        assert isinstance(reply, Reply)
        document: dict[str, Any] = orjson.loads(reply.body)
        return document

    job = ask("submit")["name"].rpartition("/")[2]
    told = [ask("look", id=job) for _ in range(40)]

    assert told[-1]["state"] == "JOB_STATE_SUCCEEDED"
    for one in told:
        assert (one["state"] == "JOB_STATE_SUCCEEDED") == ("outputInfo" in one)
