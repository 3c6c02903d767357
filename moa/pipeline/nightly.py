"""One run from its first look at the backlog to its last outcome: what happens, in order."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import FrameType
from typing import NamedTuple

import pyarrow.compute as pc
import structlog

from moa.errors import Interrupted
from moa.pipeline.graph import decide_backlog, scan_backlog
from moa.pipeline.job import Job
from moa.pipeline.replicas import Dispatch
from moa.storage.run_folder import NOBODY, PartName, PieceName, RunFolder

TURN_S = 0.2
"""How long the driver waits for a piece to end before it looks at everything else again."""
READS_AT_ONCE = 16
"""Of the run folder, when a run goes on."""
NOTE_EVERY_S = 30.0
"""How often the run folder is told that the run is at work."""

log = structlog.get_logger()


class Progress(NamedTuple):
    """Where a run stands."""

    queries: int
    """That are asked; those that share an equal one's answer are not counted."""
    done: int
    """Of those, with what earlier starts of the run have done."""
    dead: int
    in_flight: int
    waiting: int
    retried: int
    spent_usd: Decimal
    """With what earlier starts have spent, as far as it is known."""
    deciding: bool
    """Whether the router is still at work."""
    earlier: int
    """Done by earlier starts."""


def route_backlog(job: Job, tell: Callable[[Progress], None]) -> None:
    """Give every query of the backlog its outcome. Started again, it goes on where it was.

    Args:
        job: what to do, checked.
        tell: given the progress, several times a second.

    Raises:
        AccountRefused: a key was refused at its first call.
        Interrupted: SIGINT or SIGTERM came.
    """
    stop = threading.Event()
    with _stopped_by_signals(stop), _at_work(RunFolder(job.run_folder)):
        scan_backlog(job)
        _Nightly(job, tell, stop).route()


class _Nightly:
    """The driver's loop: decisions come in from one side, pieces go out on the other."""

    def __init__(self, job: Job, tell: Callable[[Progress], None], stop: threading.Event) -> None:
        self._job = job
        self._tell = tell
        self._stop = stop
        self._run = RunFolder(job.run_folder)
        self._queries = self._run.scanned_queries()
        self._decided: queue.Queue[PieceRows | BaseException | None] = queue.Queue()
        self._deciding = True
        self._earlier = _Earlier.of(self._run)
        self._dispatch = Dispatch(job, spent_usd=self._earlier.spent_usd)
        self._buried = 0

    def route(self) -> None:
        """Until nothing is left to be decided or answered."""
        for piece, rows in self._earlier.open_pieces:
            self._dispatch.put(piece, rows)
        threading.Thread(target=self._decide, name="decide", daemon=True).start()
        while self._deciding or not self._dispatch.idle:
            self._take_decided()
            self._dispatch.turn(TURN_S)
            self._tell(self._progress())
            if self._stop.is_set():
                log.info("run.draining")
                self._dispatch.drain()
                raise Interrupted(
                    "stopped on request: every call that was out has come back and is kept"
                )
        self._tell(self._progress())

    def _decide(self) -> None:
        """In a thread of its own: Ray Data's iterator blocks."""
        try:
            for table in decide_backlog(self._job, self._earlier.decided):
                for row in table.to_pylist():
                    piece = PieceName.parse(f"{row['part']}.{row['provider']}")
                    self._decided.put(PieceRows(piece, row["rows"]))
        except BaseException as error:  # carried over to the driver's thread, which raises it
            self._decided.put(error)
        else:
            self._decided.put(None)

    def _take_decided(self) -> None:
        while True:
            try:
                decided = self._decided.get_nowait()
            except queue.Empty:
                return
            match decided:
                case None:
                    self._deciding = False
                case BaseException():
                    raise decided
                case PieceRows(piece, rows) if piece.provider == NOBODY:
                    self._buried += rows
                case PieceRows(piece, rows):
                    self._dispatch.put(piece, rows)

    def _progress(self) -> Progress:
        replicas = self._dispatch.progress()
        return Progress(
            queries=self._queries,
            done=self._earlier.queries + self._buried + sum(r.done for r in replicas),
            dead=self._earlier.dead + self._buried + sum(r.dead for r in replicas),
            in_flight=sum(r.in_flight for r in replicas),
            waiting=sum(r.waiting for r in replicas),
            retried=sum(r.retried for r in replicas),
            spent_usd=self._earlier.spent_usd + sum((r.spent_usd for r in replicas), Decimal(0)),
            deciding=self._deciding,
            earlier=self._earlier.queries,
        )


@dataclass(frozen=True, slots=True)
class PieceRows:
    """A piece, and how many queries it has."""

    piece: PieceName
    rows: int


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What earlier starts of the run have done."""

    decided: frozenset[PartName]
    open_pieces: list[tuple[PieceName, int]]
    """Decided and not finished."""
    queries: int
    """Of the finished pieces."""
    dead: int
    spent_usd: Decimal

    @classmethod
    def of(cls, run: RunFolder) -> _Earlier:
        decided = run.decided_parts()
        finished = set(run.finished_pieces())
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            pieces = [one for found in pool.map(run.pieces_of, decided) for one in found]
            bills = list(pool.map(lambda piece: _bill(run, piece), finished))
        return cls(
            decided=frozenset(decided),
            open_pieces=[(piece, rows) for piece, rows in pieces if piece not in finished],
            queries=sum(rows for piece, rows in pieces if piece in finished),
            dead=sum(dead for dead, _ in bills),
            spent_usd=sum((spent_usd for _, spent_usd in bills), Decimal(0)),
        )


def _bill(run: RunFolder, piece: PieceName) -> tuple[int, Decimal]:
    """Dead letters of a finished piece, and what it has cost."""
    outcomes = run.read_outcomes(piece, columns=["status", "cost_usd", "same_as"])
    letters = pc.equal(outcomes.column("status"), "dead_letter")
    dead = pc.sum(pc.and_(letters, pc.is_null(outcomes.column("same_as")))).as_py() or 0
    return dead, pc.sum(outcomes.column("cost_usd")).as_py() or Decimal(0)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to drain; a second SIGINT ends it at once."""

    def asked(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _at_work(run: RunFolder) -> Iterator[None]:
    """Keep in the run folder when this start was at work, so that pauses between starts are known.

    A killed start is known to the last `NOTE_EVERY_S`.
    """
    number = len(run.starts())
    started_at = datetime.now(UTC)
    ended = threading.Event()

    def note() -> None:
        facts = {"from": started_at.isoformat(), "to": datetime.now(UTC).isoformat()}
        run.note_start(number, facts)

    def keep_noting() -> None:
        note()
        while not ended.wait(NOTE_EVERY_S):
            note()

    noter = threading.Thread(target=keep_noting, name="at work", daemon=True)
    noter.start()
    try:
        yield
    finally:
        ended.set()
        noter.join()
        note()
