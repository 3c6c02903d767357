"""The whole backlog planned: scored, decided on together, sent part by part, planned again.

Batches go out at once, as they take longest; under a budget only as many as it would cover if they
came out three times as dear as expected, until some have ended and tell. Live pieces follow in the
backlog's order, only as fast as they are needed: what has not been sent can be planned again, by
what was really used.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from decimal import ROUND_UP, Decimal
from types import MappingProxyType
from typing import Any

import structlog

from moa.dispatch.settings import LineProgress
from moa.dispatch.used import Used
from moa.errors import RunError
from moa.pipeline.at_work import AtWork
from moa.pipeline.committed import Amounts, amounts_of
from moa.pipeline.details import Expects
from moa.pipeline.facts import Facts, Money
from moa.pipeline.graph import score_backlog
from moa.pipeline.job import Job
from moa.pipeline.learnt import caution, learnt, output_ratio
from moa.pipeline.plan_maker import MadePlan, PlanMaker, Standing
from moa.pipeline.replicas import PieceRows
from moa.planning.capacities import HOUR_S, Committed
from moa.reports.wording import money
from moa.storage.run_folder import BATCH, NOBODY, PartName, PieceName, RunFolder

CENT = Decimal("0.01")
CLOSE_S = 10.0

log = structlog.get_logger()


class Planned:
    """Decides on a backlog as a whole; in place of a decider that streams.

    Args:
        job: with a plan in its config.
        work: told when the router is at work.
        money: nothing set aside for the router.
        open_pieces: that earlier starts have decided on and not finished.
        hungry: whether a queue has nothing waiting.
        used: by catalog id, of the answers of earlier starts.
        set_aside: told what of the budget calls may not spend.
        approved_usd: what the first plan may be expected to cost; `None`: whatever it does.
    """

    def __init__(
        self,
        job: Job,
        work: AtWork,
        money: Money,
        open_pieces: list[PieceRows],
        hungry: Callable[[str], bool],
        *,
        used: Mapping[str, Used] = MappingProxyType({}),
        set_aside: Callable[[Decimal], None] = lambda _: None,
        approved_usd: Decimal | None = None,
    ) -> None:
        self._job = job
        self._work = work
        self._run = RunFolder(job.run_folder)
        self._money = money
        self._spent_before = dict(money.open_usd)
        self._hungry = hungry
        self._used_before = used
        self._set_aside = set_aside
        self._approved_usd = approved_usd
        self._maker = PlanMaker(job)
        self._news: queue.Queue[list[PieceRows] | BaseException] = queue.Queue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._prepare, name="plan", daemon=True)
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan again")
        begun = self._run.begun_pieces()
        self._under_way = any(piece.provider != NOBODY for piece in begun)
        self._held: deque[PartName] = deque(_unbegun(open_pieces, begun))
        self._open: dict[PieceName, Amounts] = {}
        self._pieces: dict[PartName, tuple[int, list[PieceRows]]] = {}
        """Of a part that is held: the number of the plan that they are by, and its pieces."""
        self._plan: MadePlan | None = None
        self._again: Future[MadePlan] | None = None
        self._planned_at = time.monotonic()
        self._lines_then: Mapping[str, LineProgress] = {}
        self._ready = False
        self.scored = 0
        """Queries, by this start."""
        self.expects: Expects | None = None
        """By the latest plan."""
        self._batches: deque[PieceRows] = deque()
        """Decided, and waiting for money."""
        self._let_out: list[PieceRows] = []
        self._out = {one.piece for one in open_pieces if one.piece.in_batches}
        self._live_share = 0.0
        """USD that live calls of one part are expected to cost."""
        for one in open_pieces:
            if one.piece.part not in self._held or one.piece.in_batches:
                self._commit(one.piece)

    @property
    def at_work(self) -> bool:
        """More may come."""
        return not self._ready or bool(self._held or self._batches or self._let_out)

    @property
    def plan(self) -> MadePlan | None:
        """The plan in force."""
        return self._plan

    def make(self) -> dict[str, Any]:
        """Score and plan, and nothing else; the plan's document.

        Raises:
            RunError: there is no plan within budget, limits and deadline, or nothing to plan.
        """
        self._score()
        parts = self._parts()
        if not parts:
            raise RunError(
                f"{self._run.url}: every query was sent already: there is nothing to plan"
            )
        return self._first_plan(parts).document

    def holds(self, piece: PieceName) -> bool:
        """Whether a piece of an earlier start is decided on anew before it is sent."""
        return not piece.in_batches and piece.part in self._held

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def take(self) -> Iterator[PieceRows]:
        """What is to be sent now; raises what went wrong."""
        while not self._ready:
            try:
                news = self._news.get_nowait()
            except queue.Empty:
                return
            if isinstance(news, BaseException):
                raise news
            self._ready = True
            self._batches = deque(one for one in news if one.piece.in_batches)
            yield from (one for one in news if not one.piece.in_batches)
            self._let_batches_out(self._known_at_first)
        yield from self._let_out
        self._let_out = []
        self._take_plan()
        while self._held:
            pieces = self._pieces_of(self._held[0])
            if pieces and not any(self._hungry(one.piece.queue) for one in pieces):
                return
            del self._pieces[self._held.popleft()]
            for one in pieces:
                self._commit(one.piece)
                yield one

    def finished(self, piece: PieceName) -> None:
        """A piece has ended: nothing more is to be expected of it."""
        self._open.pop(piece, None)
        self._out.discard(piece)
        self._spent_before.pop(piece, None)

    def look(self, facts: Callable[[], Facts]) -> None:
        """Let batches out that can be paid by now; plan what is held again, if it is time to."""
        if self._ready and self._batches:
            self._let_batches_out(facts())
        every_s = self._job.config.plan.replan_every_s if self._job.config.plan else 0.0
        if not self._ready or not self._held or self._again is not None:
            return
        if time.monotonic() - self._planned_at < every_s:
            return
        known = facts()
        standing = Standing(
            usd=self._usd(known),
            router_usd=self._router_usd(),
            learnt=learnt(
                known.used, known.lines, self._lines_then, time.monotonic() - self._planned_at
            ),
            committed=self._committed(known.open_share),
            under_way=True,
            again=True,
        )
        self._planned_at = time.monotonic()
        self._lines_then = known.lines
        self._again = self._planner.submit(self._maker.make, list(self._held), standing)

    def _let_batches_out(self, facts: Facts) -> None:
        while self._batches and self._may_go(self._batches[0].piece, facts):
            one = self._batches.popleft()
            self._out.add(one.piece)
            self._let_out.append(one)

    def _may_go(self, piece: PieceName, facts: Facts) -> bool:
        """Whether money is left for a piece's batches, should what is out come out dearer. One may
        always go, and all of them when there is no time for them to go one after another.
        """
        assert self._job.config.plan is not None
        seconds, takes_s = self._maker.seconds_left, self._job.config.plan.batch_hours * HOUR_S
        in_haste = seconds is not None and seconds < 2 * takes_s
        if facts.left_usd is None or not self._out or in_haste:
            return True
        batches_usd = sum((self._open[one].usd for one in (*self._out, piece)), Decimal(0))
        live_usd = sum(
            (amounts.usd for one, amounts in self._open.items() if not one.in_batches), Decimal(0)
        )
        live_usd += Decimal(self._live_share * len(self._held))
        left_usd = facts.left_usd - self._router_usd() - live_usd
        return batches_usd * Decimal(caution(facts.used)) <= left_usd

    def close(self) -> None:
        """Plan no more; nothing of it is written later."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._planner.shutdown(cancel_futures=True)

    def _prepare(self) -> None:
        """Score what is not scored, plan, and decide on all that nobody was sent of yet."""
        try:
            router_s = self._score()
            self._set_aside(self._router_usd())
            if self._ended.is_set():
                return
            held, parts = set(self._held), self._parts()
            pieces: list[PieceRows] = []
            if parts:
                plan = self._first_plan(parts)
                self._approve(plan)
                for part in parts:
                    if self._ended.is_set():
                        return
                    found = self._maker.decide(part, plan, router_s.get(part, 0.0))
                    self._pieces[part] = plan.number, [one for one in found if _is_live(one.piece)]
                    if part not in held:
                        pieces += [one for one in found if not _is_live(one.piece)]
                self._plan = plan
            self._held = deque(parts)
            for one in pieces:
                if one.piece.provider != NOBODY:
                    self._commit(one.piece)
            self._planned_at = time.monotonic()
            self._news.put(pieces)
        except BaseException as error:  # carried over to the driver's thread, which raises it
            self._news.put(error)

    def _score(self) -> dict[PartName, float]:
        """Part → seconds that the router has worked on it."""
        router_s: dict[PartName, float] = {}
        self._work.router_begins(self._job.config.router.replicas)
        try:
            with closing(score_backlog(self._job, frozenset(self._run.scored_parts()))) as tables:
                for table in tables:
                    for row in table.to_pylist():
                        router_s[PartName.parse(row["part"])] = row["router_s"]
                        self.scored += row["rows"]
                    if self._ended.is_set():
                        break
        finally:
            self._work.router_ends()
        return router_s

    def _parts(self) -> list[PartName]:
        """All that is to be planned: what is scored and not decided, and what is held."""
        decided = set(self._run.decided_parts())
        new = (part for part in self._run.scored_parts() if part not in decided)
        return sorted([*self._held, *new])

    @property
    def _known_at_first(self) -> Facts:
        return Facts(self._money.left_usd, Decimal(0), 1.0, self._used_before, {})

    def _first_plan(self, parts: list[PartName]) -> MadePlan:
        """Raises `RunError` when there is none."""
        known = self._known_at_first
        standing = Standing(
            usd=self._usd(known),
            router_usd=self._router_usd(),
            learnt=learnt(known.used, known.lines, {}, 0.0),
            committed=self._committed(1.0),
            under_way=self._under_way,
        )
        plan = self._maker.make(parts, standing)
        forecast = plan.document["forecast"]
        live = (row["cost_usd"] for row in forecast["rows"] if row["lane"] != BATCH)
        self._live_share = sum(live) / len(parts)
        cost = forecast["cost_usd"]
        usd = self._money.spent_usd + self._out_usd + Decimal(str(cost["expected"]))
        self.expects = Expects(usd, _end(plan))
        log.info("plan.made", number=plan.number, gap=plan.document["gap"], **cost)
        return plan

    def _approve(self, plan: MadePlan) -> None:
        """Raises `RunError` when the plan is dearer than was approved."""
        cost = plan.document["forecast"]["cost_usd"]
        expected_usd, most_usd = (Decimal(str(cost[name])) for name in ("expected", "high"))
        if self._approved_usd is not None and expected_usd > self._approved_usd:
            raise RunError(
                f"the plan is expected to cost {money(expected_usd)}, at most {money(most_usd)} in "
                f"nine of ten cases, and {money(self._approved_usd)} are approved: look at it with "
                "--plan-only, and start it with --approve-up-to "
                f"{most_usd.quantize(CENT, ROUND_UP)}"
            )

    def _take_plan(self) -> None:
        """A plan that was made again, if it is there."""
        if self._again is None or not self._again.done():
            return
        plan, self._again = self._again.result(), None
        log.info("plan.made_again", number=plan.number, queries=plan.document["queries"])
        self._plan = plan
        if self.expects is not None:
            self.expects = self.expects._replace(end_s=_end(plan))

    def _pieces_of(self, part: PartName) -> list[PieceRows]:
        """The live pieces of a part that is held, by the plan in force."""
        number, pieces = self._pieces[part]
        if self._plan is not None and number < self._plan.number:
            found = self._maker.decide(part, self._plan)
            pieces = [one for one in found if _is_live(one.piece)]
            self._pieces[part] = self._plan.number, pieces
        return pieces

    def _commit(self, piece: PieceName) -> None:
        self._open[piece] = amounts_of(piece, self._run, self._job)

    def _committed(self, share: float) -> dict[str, Committed]:
        """What is out live, by model; `share` of it has no outcome yet."""
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for piece, amounts in list(self._open.items()):  # the driver takes out what has ended
            for model, one in amounts.by_model.items() if not piece.in_batches else ():
                sums[model].update(one._asdict())
        return {
            model: Committed(*(share * one[name] for name in Committed._fields))
            for model, one in sums.items()
        }

    @property
    def _out_usd(self) -> Decimal:
        """What all that is out is expected to cost; the driver takes out what has ended."""
        return sum((amounts.usd for amounts in list(self._open.values())), Decimal(0))

    def _usd(self, facts: Facts) -> Decimal | None:
        """What is left for what is held: without the router, and without what is out."""
        if facts.left_usd is None:
            return None
        before_usd = sum(list(self._spent_before.values()), Decimal(0))
        off = Decimal(output_ratio(facts.used))
        left_usd = facts.left_usd - max(self._out_usd * off, facts.open_usd, before_usd)
        return max(Decimal(0), left_usd - self._router_usd())

    def _router_usd(self) -> Decimal:
        hours = Decimal(str(self._work.all_router_s)) / 3600
        return self._job.config.router.usd_per_hour * hours


def _end(plan: MadePlan) -> float:
    """Since 1970: when it is expected to have been carried out."""
    made = datetime.fromisoformat(plan.document["created_at"])
    return made.timestamp() + float(plan.document["forecast"]["ends_in_s"]["expected"])


def _is_live(piece: PieceName) -> bool:
    return piece.provider != NOBODY and not piece.in_batches


def _unbegun(open_pieces: list[PieceRows], begun: set[PieceName]) -> list[PartName]:
    """Parts of which no live piece has been begun."""
    parts = {piece.part for piece in begun if _is_live(piece)}
    return sorted({one.piece.part for one in open_pieces} - parts)
