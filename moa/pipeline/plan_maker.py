"""Scored parts → a plan for all of them, and by it each part's decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from moa.catalog import Lane
from moa.decisions.decided import decided_in
from moa.decisions.deciding import letters
from moa.decisions.planned import Preferences, decisions_of, models_of, objective
from moa.dispatch.outcome import DeadLetter
from moa.errors import RunError
from moa.pipeline.job import Job
from moa.pipeline.part_block import Block, Given, given_in, is_out, read_block, together
from moa.pipeline.replicas import PieceRows
from moa.plan_config import PlanConfig
from moa.planning.capacities import BUDGET, Committed, Learnt, Situation, capacities, lanes_in_time
from moa.planning.capacity import Backlog, Capacity, Choice, Objective, with_limits
from moa.planning.prices import Prices, find_prices
from moa.planning.remedies import Infeasible
from moa.planning.rounding import Pass
from moa.reports.plan_document import plan_document
from moa.stages import bury
from moa.storage.run_folder import PartName, RunFolder, pieces_in

MOST_ROWS = 5_000_000
"""Queries that prices are found from; of more, whole parts at even distances stand for all."""
MOST_ROWS_AGAIN = 500_000
"""Likewise, when what is left is planned again in the middle of a run."""
AGAIN_HEADROOM = 4.0
"""See `Pass`: in the middle of a run the limits are tight, and what is left is few."""
SURPLUS = 1.02
"""A sample may have fewer queries a part than the rest."""
MORE = 1.1
"""So many more are reckoned with when it had."""
LATER = 1.01
"""To the time that would be just enough: plans keep away from where nothing can be chosen."""
TOLD_USD = Decimal("0.0001")
"""Step of the amounts that a refusal names."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands when it is planned."""

    usd: Decimal | None
    """For what is planned; `None` is without a limit."""
    router_usd: Decimal = Decimal(0)
    """What the router's machines have cost."""
    learnt: Mapping[str, Learnt] = field(default_factory=dict)
    committed: Mapping[str, Committed] = field(default_factory=dict)
    under_way: bool = False
    """Something was bought already: what cannot be kept is no reason to stop any more."""
    again: bool = False
    """In the middle of this start."""


@dataclass(slots=True)
class MadePlan:
    """A plan in force."""

    number: int
    document: dict[str, Any]
    lanes: tuple[Lane, ...]
    learnt: Mapping[str, Learnt]
    begin: Callable[..., Pass]
    """For so many `rows`; or for more, as one has `begun`."""
    rows: int
    """Queries that are expected to come."""
    queries: Pass

    def take(self, block: Backlog) -> Choice:
        """The option of each query of the next part. More may come than a sample has told of."""
        least = self.queries.rows + block.rows
        if least > self.rows:
            self.rows = round(least * MORE)
            self.queries = self.begin(rows=self.rows, begun=self.queries.begun)
        return self.queries.take(block)


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is planned: a sample of the queries, or all, with the limits and aims of all."""

    sample: Backlog
    share: float
    """Of all queries, that the sample is."""
    limits: list[Capacity]
    wanted: Objective

    def prices(self, seed: int) -> Prices | Infeasible:
        return find_prices(self.sample, self.limits_of_sample, self.wanted, seed=seed)

    @property
    def limits_of_sample(self) -> list[Capacity]:
        return with_limits(self.limits, self.share)


class PlanMaker:
    """Plans, and decides by plans."""

    def __init__(self, job: Job) -> None:
        assert job.config.plan is not None
        self._job = job
        self._plan: PlanConfig = job.config.plan
        self._run = RunFolder(job.run_folder)
        self._deciding = job.deciding
        self._decided = set(self._run.decided_parts())
        self._free: dict[PartName, int] = {}
        """Queries of a part that may be decided on, of those that were looked at."""
        self._given: dict[PartName, Given] = {}
        """Of decided parts, where there are shares to be kept."""

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline; `None` where there is none."""
        if self._job.deadline is None:
            return None
        return max(0.0, (self._job.deadline - datetime.now(UTC)).total_seconds())

    def make(self, parts: Sequence[PartName], now: Standing) -> MadePlan:
        """Plan what of these parts is not out already, and keep the plan in the run folder.

        Raises:
            RunError: there is no plan within budget, limits and deadline; with what would be
                enough. A run that is under way then buys what is cheapest.
        """
        lanes = self._lanes(under_way=now.under_way)
        every = max(1, -(-_rows(parts) // (MOST_ROWS_AGAIN if now.again else MOST_ROWS)))
        blocks = (self._block(part, lanes, now.learnt) for part in parts[::every])
        read = [(block.backlog, block.most_output_tokens) for block in blocks]  # and no more of it
        sample = together([backlog for backlog, _ in read])
        rows = self._queries_of(parts, sample.rows / max(1, _rows(parts[::every])))
        situation = self._situation(rows, sample, now, self._given_besides(parts))
        limits = capacities(self._job.models, lanes, self._plan, situation)
        wanted = objective(self._job.config.policy, self._plan)
        problem = _Problem(sample, sample.rows / max(1, rows), limits, wanted)
        most = np.concatenate([tokens for _, tokens in read])
        del read
        problem, prices = self._solved(problem, situation, under_way=now.under_way)
        document = plan_document(
            job_models=self._job.models, lanes=lanes, config=self._plan, situation=situation,
            sample=sample, share=problem.share, most_output_tokens=most, capacities=problem.limits,
            objective=problem.wanted, prices=prices, table=self._job.prices,
            finish_by=self._job.deadline, router_usd=now.router_usd, again=now.again,
        )  # fmt: skip
        number = self._run.write_plan(document)
        headroom = AGAIN_HEADROOM if now.again else 1.0
        begin = partial(Pass, prices, problem.limits, problem.wanted, headroom=headroom)
        return MadePlan(number, document, lanes, now.learnt, begin, rows, begin(rows=rows))

    def decide(self, part: PartName, plan: MadePlan, router_s: float = 0.0) -> list[PieceRows]:
        """Decide on a part by a plan, and keep the decisions; all its pieces, those that are out
        with a vendor already, too.
        """
        block = self._block(part, plan.lanes, plan.learnt, whole=True)
        rows = block.queries.num_rows
        if block.before is not None:
            router_s = sum(block.before.column("router_s").to_pylist())
        choice = np.full(block.expected.queries.num_rows, -1, np.int16)
        preferred = models_of(plan.queries.preferred(block.unbound), len(plan.lanes))
        choice[block.free] = plan.take(block.backlog)
        decisions, lanes, chances = decisions_of(
            choice, block.expected, self._deciding, Preferences(block.explored, preferred)
        )
        table = self._deciding.table(
            block.queries, block.expected, decisions, lanes, router_s, chances
        )
        buried: list[DeadLetter] = []
        if block.before is None:
            buried = letters(block.queries, block.expected, decisions)
            bury(self._run, part, block.queries, buried)
        else:  # what is out stays as it is, and so does what has no option any more
            anew = np.zeros(rows, np.bool_)
            anew[block.expected.good[block.free]] = True
            anew &= table.column("model").is_valid().to_numpy()
            both = pa.concat_tables([block.before, table])
            table = both.take(pa.array(np.arange(rows) + np.where(anew, rows, 0)))
        self._run.write_decisions(part, table)
        self._decided.add(part)
        self._free[part] = rows - int(is_out(table).sum())
        if self._plan.shares:
            self._given[part] = given_in(table)
        found = decided_in(part, table, buried)
        pieces = pieces_in(part, table)
        return [PieceRows(piece, rows, found.get(piece, {})) for piece, rows in pieces]

    def _block(
        self,
        part: PartName,
        lanes: Sequence[Lane],
        learnt: Mapping[str, Learnt],
        *,
        whole: bool = False,
    ) -> Block:
        decided = part in self._decided
        block = read_block(
            part, self._run, self._deciding, lanes, learnt, decided=decided, whole=whole
        )
        self._free[part] = block.backlog.rows
        return block

    def _queries_of(self, parts: Sequence[PartName], per_row: float) -> int:
        """How many are to be decided on; of parts that were not looked at, so many a row, and a
        few more.
        """
        seen = [part for part in parts if part in self._free]
        unseen = _rows(parts) - _rows(seen)
        return sum(self._free[part] for part in seen) + ceil(unseen * per_row * SURPLUS)

    def _lanes(self, *, under_way: bool) -> tuple[Lane, ...]:
        lanes = lanes_in_time(self._plan, self.seconds_left)
        if not lanes and under_way:
            return tuple(self._plan.lanes)
        if not lanes:
            raise RunError(
                f"plan.lanes is {self._plan.lanes}, and none of them ends before plan.finish_by: "
                f"batches are counted on to end within {self._plan.batch_hours:g} h "
                f"(plan.batch_hours), flex calls within {self._plan.flex_minutes:g} minutes: add "
                "'live', or finish later"
            )
        return lanes

    def _given_besides(self, parts: Sequence[PartName]) -> Mapping[str, float]:
        """What each model keeps, whatever is planned for these parts; nothing without shares."""
        planned, given = set(parts), Counter[str]()
        for part in list(self._decided) if self._plan.shares else ():
            if part not in self._given:
                names = ["model", "lane"]
                self._given[part] = given_in(self._run.read_decisions(part, columns=names))
            one = self._given[part]
            given.update(one.for_good if part in planned else one.all)
        return given

    def _situation(
        self, rows: int, sample: Backlog, now: Standing, given: Mapping[str, float]
    ) -> Situation:
        dispatch = self._job.config.dispatch
        tokens = sample.output_tokens
        assert tokens is not None
        return Situation(
            queries=rows,
            usd=None if now.usd is None else float(now.usd),
            seconds=self.seconds_left,
            in_flight=dispatch.max_in_flight * dispatch.replicas,
            output_tokens=tuple(tokens.mean(axis=0).tolist()) if sample.rows else (),
            learnt=now.learnt,
            committed=now.committed,
            given=given,
        )

    def _solved(
        self, problem: _Problem, situation: Situation, *, under_way: bool
    ) -> tuple[_Problem, Prices]:
        """With its prices: of a run that is under way and cannot keep its limits any more, those of
        the cheapest options within what can be kept of them.
        """
        seed = self._job.config.run.seed
        found = problem.prices(seed)
        while isinstance(found, Infeasible):
            if not under_way:
                raise RunError(_why_not(found, problem.share, situation))
            log.warning("plan.limits_cannot_be_kept", limits=found.names)
            limits = _loosened(problem.limits, found)
            problem = _Problem(problem.sample, problem.share, limits, Objective(0.0))
            found = problem.prices(seed)
        return problem, found


def _rows(parts: Sequence[PartName]) -> int:
    return sum(part.end_row - part.first_row for part in parts)


def _loosened(limits: Sequence[Capacity], found: Infeasible) -> list[Capacity]:
    """What can be kept of limits that exclude each other. Where more time is enough, with that: one
    account's rate alone may be short, and without it everything would go there.
    """
    if found.time_factor is not None:
        factor = max(1.0, found.time_factor) * LATER
        return [replace(one, limit=factor * one.limit) if one.per_time else one for one in limits]
    names = set(found.names)
    if any(one.per_time for one in limits if one.name in names):  # there is none left
        names |= {one.name for one in limits if one.per_time and not one.limit}
    kept = [one for one in limits if one.name not in names]
    return kept if len(kept) < len(limits) else []  # else it is the target grade


def _why_not(found: Infeasible, share: float, situation: Situation) -> str:
    """What cannot be kept, and what would be enough."""
    told = [f"no plan keeps {' and '.join(found.names)}"]
    if found.least_usd is not None and situation.usd is not None and BUDGET in found.names:
        least_usd = found.least_usd / share
        told.append(
            f"{situation.queries:,} queries cost ${_enough(least_usd):,} at least, and "
            f"${situation.usd:,.4f} of dispatch.budget_usd are left for them, without the router: "
            f"raise it by ${_enough(least_usd - situation.usd):,} or more, or allow cheaper models "
            "or lanes"
        )
    if found.time_factor is not None and situation.seconds is not None:
        end = datetime.now(UTC) + timedelta(seconds=situation.seconds * found.time_factor)
        told.append(
            f"at these limits they are answered by {end:%Y-%m-%d %H:%M:%S} UTC at the earliest: "
            "set plan.finish_by to that or later, or raise the limits of the catalog"
        )
    if situation.seconds == 0:
        told.append("plan.finish_by has passed: name a later moment")
    if len(told) == 1:
        told.append("loosen plan.shares, plan.target_grade or the limits of the catalog")
    return "; ".join(told)


def _enough(usd: float) -> Decimal:
    """Rounded up: a budget of what is told is enough."""
    return Decimal(str(usd)).quantize(TOLD_USD, ROUND_UP)
