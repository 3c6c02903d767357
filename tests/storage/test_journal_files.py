from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from moa.errors import RunError
from moa.storage.journal_files import FileSink, JournalFiles, SegmentSink, read_when_closed
from moa.storage.object_store import Folder


@pytest.fixture(params=["disk", "s3"])
def journals(request: pytest.FixtureRequest, tmp_path: Path) -> JournalFiles:
    if request.param == "disk":
        return JournalFiles(Folder(str(tmp_path / "run")))
    return JournalFiles(Folder(f"{request.getfixturevalue('object_store')}/run"))


async def write(journals: JournalFiles, piece: str, *lines: bytes) -> None:
    sink = journals.open(piece)
    for line in lines:
        sink.append(line)
        await sink.commit()
    await sink.close()


async def test_the_tries_at_a_piece_are_read_oldest_first(journals: JournalFiles) -> None:
    await write(journals, "p.openai", b"1\n", b"2\n")
    await write(journals, "p.openai", b"3\n")
    await write(journals, "p.openai2", b"another's\n")

    assert list(journals.read("p.openai")) == [b"1\n2\n", b"3\n"]
    assert list(journals.read("p.openai")) == [b"1\n2\n", b"3\n"]
    assert list(journals.read("p.google")) == []


async def test_removed_journals_say_nothing(journals: JournalFiles) -> None:
    await write(journals, "p.openai", b"1\n")
    await write(journals, "q.openai", b"2\n")

    journals.remove("p.openai")

    assert list(journals.read("p.openai")) == []
    assert list(journals.read("q.openai")) == [b"2\n"]


async def test_a_writer_in_a_bucket_is_out_once_its_journal_was_read(object_store: str) -> None:
    journals = JournalFiles(Folder(f"{object_store}/run"))
    stale = journals.open("p.openai")
    stale.append(b"1\n")
    await stale.commit()

    assert list(journals.read("p.openai")) == [b"1\n"]
    stale.append(b"2\n")

    with pytest.raises(RunError, match="taken over"):
        await stale.commit()
    assert list(journals.read("p.openai")) == [b"1\n"]


def hold(path: str, written: Event) -> None:
    async def write() -> None:
        sink = FileSink(Path(path))
        sink.append(b"sent\n")
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
    journal = read_when_closed(path)
    writer.join()

    assert journal == b"sent\n"


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


async def test_of_two_writers_of_one_try_each_has_a_journal_of_its_own(object_store: str) -> None:
    journals = JournalFiles(Folder(f"{object_store}/run"))
    first, second = (journals.open("p.openai") for _ in range(2))

    for sink in (first, second):
        sink.append(b"the same line\n")
        await sink.commit()

    assert list(journals.read("p.openai")) == [b"the same line\n"] * 2


async def test_a_writer_that_has_written_nothing_yet_is_out_too(object_store: str) -> None:
    journals = JournalFiles(Folder(f"{object_store}/run"))
    stale = journals.open("p.openai")

    assert list(journals.read("p.openai")) == [b""]
    stale.append(b"1\n")

    with pytest.raises(RunError, match="taken over"):
        await stale.commit()


@pytest.mark.timeout(30)
async def test_a_put_that_fails_is_told_to_all_who_wait() -> None:
    gate = threading.Event()

    def put(number: int, data: bytes) -> None:
        gate.wait()
        raise OSError("throttled")

    sink = SegmentSink(put)
    sink.append(b"1\n")
    first = asyncio.create_task(sink.commit())
    await asyncio.sleep(0)
    sink.append(b"2\n")  # goes into the group after the one under way
    second = asyncio.create_task(sink.commit())
    await asyncio.sleep(0)
    gate.set()

    for waiting in (first, second, sink.close()):
        with pytest.raises(OSError, match="throttled"):
            await waiting


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "001.jsonl"
    sink = FileSink(path)
    sink.append(b"whole\n")

    with limited_file_size(10), pytest.raises(OSError, match="no space"):
        sink.append(b"too long a line\n")

    with pytest.raises(OSError, match="no space"):
        sink.append(b"1\n")
    await sink.close()
    assert path.read_bytes() == b"whole\n"


@contextmanager
def limited_file_size(most_bytes: int) -> Iterator[None]:
    """What is written beyond is cut off, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_store_that_fails_stops_those_who_write_to_it() -> None:
    def put(number: int, data: bytes) -> None:
        raise OSError("no such bucket")

    sink = SegmentSink(put)
    sink.append(b"sent\n")

    with pytest.raises(OSError, match="no such bucket"):
        await sink.commit()
    with pytest.raises(OSError, match="no such bucket"):
        sink.append(b"more\n")


@pytest.mark.parametrize("place", ["disk", "s3"])
async def test_who_peeks_lets_the_writer_go_on(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path) if place == "disk" else f"{request.getfixturevalue('object_store')}/run"
    journals = JournalFiles(Folder(url))
    sink = journals.open("p.openai")

    sink.append(b"1\n")
    await sink.commit()
    seen = list(journals.peek("p.openai"))
    sink.append(b"2\n")
    await sink.close()

    assert seen == [b"1\n"]
    assert list(journals.read("p.openai")) == [b"1\n2\n"]
    assert list(journals.peek("nobody")) == []
