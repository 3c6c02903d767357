"""Where journals live: files on a disk, or segments in an object store.

A try at a piece has one journal, `journal/PIECE/TRY.jsonl` on a disk. A store that cannot append
gets numbered segments, `journal/PIECE/TRY/SEGMENT`; the first only says whose the journal is.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from moa.errors import RunError
from moa.storage.object_store import Folder

FSYNC_EVERY_S = 1.0
WAIT_FOR_WRITER_S = 60.0
_FOLDER = "journal"
_OWNER = 0
_FENCE = b""
"""A segment that a reader puts behind the last one: its number is taken, so the writer is out."""


class Sink(Protocol):
    """Where a journal's bytes go."""

    def append(self, data: bytes) -> None:
        """Take whole lines; they are durable after the next `commit`."""
        ...

    async def commit(self) -> None:
        """Wait until all that was appended survives the death of this process."""
        ...

    async def close(self) -> None:
        """Commit, and let readers in."""
        ...


class JournalFiles:
    """The journals of a run's pieces."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def open(self, piece: str) -> Sink:
        """The journal of the next try at a piece."""
        number = max(self._tries(piece), default=0) + 1
        if self._folder.local is not None:
            return FileSink(self._folder.local / f"{_journal(piece, number)}.jsonl")
        # Whoever takes the first segment has the journal, before it has written a line.
        while not self._folder.create(
            _segment(_journal(piece, number), _OWNER), secrets.token_bytes(16)
        ):
            number += 1
        name = _journal(piece, number)
        return SegmentSink(lambda n, data: self._put_segment(name, n, data))

    def read(self, piece: str) -> Iterator[bytes]:
        """The journals of earlier tries, oldest first. Their writers can write no more.

        Raises:
            RunError: a writer on this machine is still alive.
        """
        for number in self._tries(piece):
            name = _journal(piece, number)
            if self._folder.local is not None:
                yield read_when_closed(self._folder.local / f"{name}.jsonl")
            else:
                yield b"".join(self._fenced_segments(name))

    def peek(self, piece: str) -> Iterator[bytes]:
        """As `read`, as far as it is written by now; their writers go on."""
        for number in self._tries(piece):
            name = _journal(piece, number)
            if self._folder.local is not None:
                yield self._folder.read(f"{name}.jsonl") or b""
            else:
                segments = [one for one in self._folder.names(name) if int(one) != _OWNER]
                yield b"".join(self._folder.read(f"{name}/{one}") or b"" for one in segments)

    def pieces(self) -> set[str]:
        """The pieces that have one."""
        return {name.partition("/")[0] for name in self._folder.names(_FOLDER)}

    def remove(self, piece: str) -> None:
        """Delete all journals of a piece."""
        self._folder.remove_all(f"{_FOLDER}/{piece}")

    def remove_all(self) -> None:
        """Delete all journals."""
        self._folder.remove_all(_FOLDER)

    def _tries(self, piece: str) -> list[int]:
        """Their numbers, oldest first."""
        names = self._folder.names(f"{_FOLDER}/{piece}")
        return sorted({int(name.partition("/")[0].removesuffix(".jsonl")) for name in names})

    def _put_segment(self, name: str, number: int, data: bytes) -> None:
        if not self._folder.create(_segment(name, number), data):
            raise RunError(
                f"{self._folder.url}/{name} has been closed: another process has taken over this "
                "part of the run"
            )

    def _fenced_segments(self, name: str) -> Iterable[bytes]:
        number = _OWNER + 1
        while not self._folder.create(_segment(name, number), _FENCE):
            segment = self._folder.read(_segment(name, number))
            if segment is None:  # its piece was finished meanwhile
                return
            yield segment
            number += 1


def _journal(piece: str, number: int) -> str:
    return f"{_FOLDER}/{piece}/{number:03d}"


def _segment(name: str, number: int) -> str:
    return f"{name}/{number:08d}"


class FileSink:
    """A file. A killed process loses nothing, since the operating system has the bytes at once.

    `fsync` runs in the background, so a machine that loses its power loses at most the last
    `FSYNC_EVERY_S`. The writer holds the kernel's lock on the file and a reader waits for it: a
    restart cannot read the journal of a process that still writes. After a failure every later
    call fails: a journal with a hole in it is none.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        self._dirty = False
        self._broken: OSError | None = None
        self._syncing: asyncio.Task[None] | None = None

    def append(self, data: bytes) -> None:
        """Hand the bytes to the operating system: all of them, or none."""
        if self._broken is not None:
            raise self._broken
        try:
            if os.write(self._file, data) < len(data):  # the disk is full: no line may stay cut
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, "no space is left for the journal")
        except OSError as error:
            self._broken = error
            raise
        self._size += len(data)
        self._dirty = True
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def commit(self) -> None:
        """Nothing to wait for: `append` has done it."""

    async def close(self) -> None:
        """Bring all of it to the disk and release the lock."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.wait([self._syncing])
        # A late line must fail, not end up in whatever file gets this number next.
        closed, self._file = self._file, -1
        try:
            await asyncio.to_thread(os.fsync, closed)
        finally:
            os.close(closed)

    async def _sync(self) -> None:
        while self._dirty:
            self._dirty = False
            await asyncio.sleep(FSYNC_EVERY_S)
            try:
                await asyncio.to_thread(os.fsync, self._file)
            except OSError as error:
                self._broken = error
                return
        self._syncing = None


class SegmentSink:
    """Objects with ascending numbers: a store that cannot append gets one put a group of lines.

    All that is appended while a put is under way goes into the next one, so any number of calls
    shares the time of a put. A put that fails for good is raised to all who wait, and to every
    later call.
    """

    def __init__(self, put: Callable[[int, bytes], None]) -> None:
        self._put = put
        self._group = bytearray()
        self._writer: asyncio.Task[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._broken: Exception | None = None
        self._segments = _OWNER + 1

    def append(self, data: bytes) -> None:
        """Add the lines to the next group; its put starts as soon as none is under way."""
        if self._broken is not None:
            raise self._broken
        loop = asyncio.get_running_loop()
        if self._writer is None:
            self._writer = loop.create_task(self._write_groups())
        if not self._group:
            self._written = loop.create_future()
        self._group += data

    async def commit(self) -> None:
        """Wait for the put that carries what was appended last."""
        if self._broken is not None:
            raise self._broken
        if self._written is not None:
            await asyncio.shield(self._written)

    async def close(self) -> None:
        """Wait until everything is in the store."""
        await self.commit()

    async def _write_groups(self) -> None:
        while self._group:
            assert self._written is not None
            data, written = bytes(self._group), self._written
            self._group.clear()
            try:
                await asyncio.to_thread(self._put, self._segments, data)
            except Exception as error:  # whatever the store raised, the waiters must know
                self._broken = error
                assert self._written is not None
                for waited_for in {written, self._written}:  # the next group will never be put
                    waited_for.set_exception(error)
                    waited_for.exception()  # perhaps nobody waits
                return
            self._segments += 1
            written.set_result(None)
        self._writer = None


def read_when_closed(path: Path) -> bytes:
    """The bytes of a journal file, once its writer is gone.

    Raises:
        RunError: the writer is still alive after `WAIT_FOR_WRITER_S`.
    """
    give_up_at = time.monotonic() + WAIT_FOR_WRITER_S
    try:
        opened = path.open("rb")
    except FileNotFoundError:  # its piece was finished meanwhile
        return b""
    with opened as file:
        while True:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise RunError(
                        f"{path} is still written to after {WAIT_FOR_WRITER_S:.0f} s: another "
                        "process works on this run; end it, then start this one again"
                    ) from None
                time.sleep(0.1)
            else:
                return file.read()
