from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.journal import Journal, recover
from moa.dispatch.journal_sinks import FileSink, SegmentSink, read_when_closed
from moa.dispatch.outcome import ANSWERED, Attempt, DeadLetter, Outcome

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def answer(row: int, text: str = "Paris") -> Outcome:
    return Outcome(
        f"q{row}", 0, row, ANSWERED, ["t"], completion=text, cost_usd=Decimal("0.00012"),
        latency_s=0.5, finished_at=NOON,
    )  # fmt: skip


def letter(row: int) -> DeadLetter:
    attempt = Attempt("openai/gpt-4o", NOON, "TransientError", 503, "overloaded")
    return DeadLetter(f"q{row}", 0, row, "vendor_failed", "503", (attempt,), "{}", None, [])


async def test_what_was_written_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "piece.001.jsonl"
    journal = Journal(FileSink(path))
    dead = letter(3)

    for row in range(4):
        await journal.sent(row, "openai/gpt-4o")
    journal.answered(answer(0))
    journal.failed(1, Attempt("openai/gpt-4o", NOON, "RateLimited", 429, "later"))
    journal.failed(3, dead.attempts[0])
    journal.dead(dead.outcome(first_model=None, attempts=1, unknown_calls=0), dead)
    await journal.close()
    history = recover([read_when_closed(path)])

    assert history.outcomes[0] == answer(0)
    assert history.letters == {3: dead}
    assert +history.unknown == {2: 1}
    assert history.failed == {1: 1, 3: 1}


@given(cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_loses_only_its_last_line(cut: int) -> None:
    lines: list[bytes] = []

    class Kept:
        def append(self, data: bytes) -> None:
            lines.append(data)

        async def commit(self) -> None: ...

        async def close(self) -> None: ...

    async def write() -> None:
        journal = Journal(Kept())
        for row in range(3):
            await journal.sent(row, "m")
            journal.answered(answer(row))

    asyncio.run(write())
    whole = b"".join(lines)
    kept = whole[:cut]
    history = recover([kept])

    complete = kept.count(b"\n")
    assert len(history.outcomes) == complete // 2
    assert sum((+history.unknown).values()) == complete % 2


def hold(path: str, written: Event) -> None:
    async def write() -> None:
        journal = Journal(FileSink(Path(path)))
        await journal.sent(7, "openai/gpt-4o")
        written.set()
        await asyncio.sleep(60)

    asyncio.run(write())


@pytest.mark.timeout(60)
def test_a_killed_writer_loses_nothing_and_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "piece.001.jsonl"
    context = multiprocessing.get_context("spawn")
    written = context.Event()
    writer = context.Process(target=hold, args=(str(path), written))
    writer.start()
    assert written.wait(30)
    assert writer.pid is not None

    os.kill(writer.pid, signal.SIGKILL)
    history = recover([read_when_closed(path)])
    writer.join()

    assert +history.unknown == {7: 1}


async def test_segments_carry_everything_in_order_and_share_puts() -> None:
    segments: dict[int, bytes] = {}
    sink = SegmentSink(segments.__setitem__)

    async def write(n: int) -> None:
        sink.append(b"%03d\n" % n)
        await sink.commit()
        assert b"%03d\n" % n in b"".join(segments.values())

    await asyncio.gather(*[write(n) for n in range(200)])
    await sink.close()

    whole = b"".join(segments[n] for n in sorted(segments))
    assert whole.split() == [b"%03d" % n for n in range(200)]
    assert len(segments) < 20


async def test_a_store_that_fails_stops_those_who_write_to_it() -> None:
    def put(number: int, data: bytes) -> None:
        raise OSError("no such bucket")

    sink = SegmentSink(put)
    sink.append(b"sent\n")

    with pytest.raises(OSError, match="no such bucket"):
        await sink.commit()
    with pytest.raises(OSError, match="no such bucket"):
        sink.append(b"more\n")
