"""One run from its first look at the backlog to its last outcome: what happens, in order."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import structlog

from moa.decisions.decided import Decided
from moa.dispatch.journal import recover
from moa.dispatch.piece import finished_piece
from moa.dispatch.settings import LineProgress
from moa.dispatch.settings import Progress as Standing
from moa.dispatch.used import summed
from moa.errors import Interrupted
from moa.pipeline.at_work import AtWork
from moa.pipeline.details import Details, Progress
from moa.pipeline.facts import Facts, Money
from moa.pipeline.graph import decide_backlog, scan_backlog
from moa.pipeline.job import Job
from moa.pipeline.planned import Planned
from moa.pipeline.replicas import Counts, Dispatch, PieceRows
from moa.pipeline.stop import Stop
from moa.storage.run_folder import NOBODY, PartName, PieceName, RunFolder

TURN_S = 0.2
"""How long the driver waits for a piece to end before it looks at everything else again."""
MOST_FRUITLESS = 50
"""Errors while it drains that end no piece: then the cluster itself is gone."""
DECIDED_WITHIN_S = 10.0
"""How long the end of a run waits for the part that is being decided."""
READS_AT_ONCE = 16
"""Of the run folder, when a run goes on."""

log = structlog.get_logger()


def route_backlog(
    job: Job,
    tell: Callable[[Progress], None],
    stop: Stop,
    *,
    approved_usd: Decimal | None = None,
) -> None:
    """Give every query of the backlog its outcome. Started again, it goes on where it was.

    Args:
        job: what to do, checked.
        tell: given the progress, several times a second.
        stop: by whom it can be asked to.
        approved_usd: what may be spent on calls, and a plan may be expected to cost; `None`:
            whatever the budget allows.

    Raises:
        KeyRefused: a key was refused at its first call.
        RunError: there is no plan, or none that is approved.
        Interrupted: it was asked to stop.
    """
    with AtWork(RunFolder(job.run_folder)) as work:
        with stop.at_once():
            scan_backlog(job)
            earlier = _Earlier.of(RunFolder(job.run_folder))
            nightly = _Nightly(job, tell, stop, earlier, approved_usd=approved_usd)
            if job.config.plan is None:
                nightly.decides(_Decider(job, earlier.decided, work))
            else:
                nightly.decides(nightly.planned(work))
        nightly.see_through()


def plan_backlog(job: Job, stop: Stop) -> dict[str, Any]:
    """Score the backlog and plan it; nobody is called. The plan, as its document.

    Raises:
        RunError: there is no plan within budget, limits and deadline.
    """
    with AtWork(RunFolder(job.run_folder)) as work, stop.at_once():
        scan_backlog(job)
        earlier = _Earlier.of(RunFolder(job.run_folder))
        pieces, used = earlier.open_pieces, earlier.counts.used
        return Planned(job, work, earlier.money(job), pieces, lambda _: False, used=used).make()


def dispatch_decided(
    job: Job, tell: Callable[[Progress], None], stop: Stop, *, spent_usd: Decimal
) -> None:
    """Give every query that its run folder has decided on its outcome; nothing else is decided.

    Args:
        job: what to do, checked.
        tell: given the progress, several times a second.
        stop: by whom it can be asked to.
        spent_usd: of the budget, outside this run folder.

    Raises:
        KeyRefused, Interrupted: as `route_backlog`.
    """
    with AtWork(RunFolder(job.run_folder)):
        with stop.at_once():
            earlier = _Earlier.of(RunFolder(job.run_folder))
            nightly = _Nightly(job, tell, stop, earlier, spent_usd=spent_usd)
        nightly.see_through()


class _Decider:
    """Decides what no earlier start has, in a thread of its own: Ray Data's iterator blocks."""

    def __init__(self, job: Job, decided: frozenset[PartName], work: AtWork) -> None:
        self._job = job
        self._decided = decided
        self._work = work
        self._news: queue.Queue[PieceRows | BaseException | None] = queue.Queue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._decide, name="decide", daemon=True)
        self.at_work = True
        """More may come."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def take(self) -> Iterator[PieceRows]:
        """What has been decided since the last time; raises what the thread has raised."""
        while True:
            try:
                decided = self._news.get_nowait()
            except queue.Empty:
                return
            match decided:
                case None:
                    self.at_work = False
                case BaseException():
                    raise decided
                case PieceRows():
                    yield decided

    def close(self) -> None:
        """Decide no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(DECIDED_WITHIN_S)

    def _decide(self) -> None:
        self._work.router_begins(self._job.config.router.replicas)
        try:
            with closing(decide_backlog(self._job, self._decided)) as tables:
                for table in tables:
                    for row in table.to_pylist():
                        piece = PieceName.parse(f"{row['part']}.{row['provider']}")
                        decided = {
                            Decided(one["rule"], one["model"], one["reason"]): one["rows"]
                            for one in row["decided"]
                        }
                        self._news.put(PieceRows(piece, row["rows"], decided))
                    if self._ended.is_set():
                        break
        except BaseException as error:  # carried over to the driver's thread, which raises it
            self._news.put(error)
        else:
            self._news.put(None)
        finally:
            self._work.router_ends()


class _Nightly:
    """The driver's loop: decisions come in from one side, pieces go out on the other."""

    def __init__(
        self,
        job: Job,
        tell: Callable[[Progress], None],
        stop: Stop,
        earlier: _Earlier,
        *,
        spent_usd: Decimal = Decimal(0),
        approved_usd: Decimal | None = None,
    ) -> None:
        self._job = job
        self._tell = tell
        self._stop = stop
        self._run = RunFolder(job.run_folder)
        self._queries = self._run.scanned_queries()
        self._earlier = earlier
        self._decider: _Decider | Planned | None = None
        self._approved_usd = approved_usd
        self._budget = earlier.money(job, spent_usd, read=approved_usd is not None)
        self._money = self._budget.at_most(approved_usd)
        self._dispatch = Dispatch(job, left_usd=self._money.free_usd)
        self._decisions: Counter[Decided] = Counter()
        self._buried = 0

    def decides(self, decider: _Decider | Planned) -> None:
        """What is dispatched comes from there, besides what earlier starts have left open."""
        self._decider = decider

    def planned(self, work: AtWork) -> Planned:
        """A decider that plans the whole backlog."""
        return Planned(
            self._job,
            work,
            self._budget,
            self._earlier.open_pieces,
            self._dispatch.is_hungry,
            used=self._earlier.counts.used,
            set_aside=self._dispatch.set_aside,
            approved_usd=self._approved_usd,
        )

    def see_through(self) -> None:
        """Until nothing is left to be decided or answered; then the connections are closed."""
        try:
            self._route()
        finally:
            if self._decider is not None:
                self._decider.close()
            self._dispatch.close()

    @property
    def _deciding(self) -> bool:
        return self._decider is not None and self._decider.at_work

    def _route(self) -> None:
        self._stop.check()
        planned = self._decider if isinstance(self._decider, Planned) else None
        for open_piece in self._earlier.open_pieces:
            if planned is None or not planned.holds(open_piece.piece):
                self._dispatch.put(open_piece)
        if self._decider is not None:
            self._decider.start()
        try:
            while self._deciding or not self._dispatch.idle:
                self._take_decided()
                for result in self._dispatch.turn(TURN_S):
                    if planned is not None:
                        planned.finished(PieceName.parse(result.piece))
                if planned is not None:
                    planned.look(self._facts)
                self._tell(self._progress())
                if self._stop.asked.is_set():
                    raise Interrupted(
                        "stopped on request: every call that was out has come back and is kept"
                    )
        except BaseException:  # whatever it is: what is out is paid for, and shall be kept
            self._drain()
            raise
        self._tell(self._progress())

    def _facts(self) -> Facts:
        """What a plan for the rest is made by."""
        replicas = self._dispatch.progress()
        open_usd = sum((replica.spent_usd for replica in replicas), Decimal(0))
        out = sum(sum(replica.unsettled.values()) for replica in replicas)
        done = sum(replica.done for replica in replicas)
        return Facts(
            left_usd=None
            if self._money.left_usd is None
            else self._money.left_usd - self._dispatch.finished.cost_usd,
            open_usd=open_usd,
            open_share=out / (out + done) if out + done else 1.0,
            used=summed(self._earlier.counts.used, self._dispatch.finished.used),
            lines=_lines(replicas),
        )

    def _drain(self) -> None:
        """Send nothing new, and keep what comes back; a second Ctrl-C ends it."""
        self._dispatch.begin_to_drain()
        fruitless = 0
        while not self._dispatch.idle and fruitless < MOST_FRUITLESS:
            left = self._dispatch.pieces_out
            try:
                self._dispatch.turn(TURN_S)
            except Interrupted:
                raise
            except Exception as error:  # the first one is on its way up
                log.warning("run.drained_with_error", error=type(error).__name__)
                if self._dispatch.pieces_out == left:
                    fruitless += 1
                    time.sleep(TURN_S)
            self._tell(self._progress())

    def _take_decided(self) -> None:
        for decided in self._decider.take() if self._decider is not None else ():
            self._decisions.update(decided.decided)
            if decided.piece.provider == NOBODY:
                self._buried += decided.rows
            else:
                self._dispatch.put(decided)

    def _progress(self) -> Progress:
        replicas = self._dispatch.progress()
        finished, earlier = self._dispatch.finished, self._earlier.counts
        spent_usd = sum((r.spent_usd for r in replicas), finished.cost_usd)
        return Progress(
            queries=self._queries,
            done=min(
                self._queries,
                earlier.queries + self._buried + finished.queries + sum(r.done for r in replicas),
            ),
            dead=earlier.dead + self._buried + finished.dead + sum(r.dead for r in replicas),
            in_flight=sum(r.in_flight for r in replicas),
            waiting=sum(r.waiting for r in replicas),
            retried=sum(r.retried for r in replicas),
            spent_usd=earlier.cost_usd + spent_usd,
            deciding=self._deciding,
            earlier=earlier.queries,
            draining=self._dispatch.draining,
            in_batches=sum(r.in_batches for r in replicas),
            details=self._details(replicas),
        )

    def _details(self, replicas: Sequence[Standing]) -> Details:
        planned = self._decider if isinstance(self._decider, Planned) else None
        dispatch, left_usd = self._dispatch, self._money.left_usd
        own_usd = self._earlier.counts.cost_usd  # of a redrive without the run's, as its bill is
        return Details(
            scored=self._decisions.total() if planned is None else planned.scored,
            decided=self._decisions,
            happened={replica.of: replica.happened for replica in replicas},
            lines=_lines(replicas),
            oldest_s=dispatch.oldest_s(in_batches=False),
            oldest_batch_s=dispatch.oldest_s(in_batches=True),
            budget_usd=None if left_usd is None else left_usd + own_usd,
            expects=None if planned is None else planned.expects,
        )


def _lines(replicas: Sequence[Standing]) -> dict[str, LineProgress]:
    """Catalog id → of all replicas."""
    lines: dict[str, LineProgress] = {}
    for replica in replicas:
        for model, line in replica.lines.items():
            lines[model] = lines.get(model, LineProgress()).plus(line)
    return lines


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What earlier starts of the run have done."""

    decided: frozenset[PartName]
    open_pieces: list[PieceRows]
    """Decided and not finished."""
    counts: Counts
    """Of the finished pieces."""

    def money(self, job: Job, elsewhere_usd: Decimal = Decimal(0), *, read: bool = False) -> Money:
        """Of the budget; `elsewhere_usd` was spent outside this run folder. What open pieces have
        spent is only read when there is a budget, or it is asked for.
        """
        budget_usd, run = job.config.dispatch.budget_usd, RunFolder(job.run_folder)
        spent_usd = self.counts.cost_usd + elsewhere_usd
        if budget_usd is None and not read:
            return Money(None, {}, spent_usd)
        pieces = [one.piece for one in self.open_pieces]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            spent = pool.map(lambda one: recover(run.read_journals(one)).spent_usd, pieces)
            open_usd = dict(zip(pieces, spent, strict=True))
        left_usd = None if budget_usd is None else budget_usd - spent_usd
        return Money(left_usd, open_usd, spent_usd)

    @classmethod
    def of(cls, run: RunFolder) -> _Earlier:
        decided = set(run.decided_parts())
        finished = {piece for piece in run.finished_pieces() if piece.part in decided}
        counts = Counts()
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            pieces = [one for found in pool.map(run.pieces_of, sorted(decided)) for one in found]
            for result in pool.map(lambda piece: finished_piece(piece, run), sorted(finished)):
                counts.add(result)
        return cls(
            decided=frozenset(decided),
            open_pieces=[PieceRows(*one) for one in pieces if one[0] not in finished],
            counts=counts,
        )
