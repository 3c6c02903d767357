"""A planned run's decisions, as they stand when it is started again; nothing of it needs a Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.config import load_config
from moa.dispatch.journal import Journal, SentBatch
from moa.dispatch.settings import LineProgress
from moa.errors import RunError
from moa.pipeline.at_work import AtWork
from moa.pipeline.committed import amounts_of
from moa.pipeline.facts import Facts, Money
from moa.pipeline.job import Job, check_job
from moa.pipeline.learnt import rate
from moa.pipeline.nightly import _Earlier
from moa.pipeline.planned import Planned
from moa.pipeline.replicas import PieceRows
from moa.stages import Keep, Read, Score
from moa.storage.run_folder import PieceName, RunFolder
from moa.storage.scan import scan

DEMO = "jobs/configs/demo.toml"
QUERIES = 80
LIVE_OR_ANY = [["live"], None] * (QUERIES // 2)
"""Half of the queries may be bought live only, and are held until their turn comes."""


@dataclass
class Night:
    """A scored backlog, whose starts come one after the other."""

    folder: Path
    sets: tuple[str, ...] = ()

    def job(self, *overrides: str) -> Job:
        sets = [
            f"run.folder={self.folder}/runs", f"queries.path={self.folder}/log.parquet",
            "queries.part_rows=10", "plan.lanes=['live','batch']", *self.sets, *overrides,
        ]  # fmt: skip
        return check_job(load_config(DEMO, sets), environ={})

    @property
    def run(self) -> RunFolder:
        return RunFolder(f"{self.folder}/runs/demo")

    def score(self) -> None:
        job = self.job()
        self.run.begin(job.facts(), identity=job.identity())
        self.run.write_scan(job.partitions, scan(job.partitions, job.config.queries))
        read = Read(job.config.queries, job.partitions, job.run_folder)
        score, keep = Score(job.config.router, job.pool), Keep(job.run_folder)
        numbers = pa.table({"partition": [one.number for one in job.partitions]})
        for part in read(numbers):
            for scored in score(part):
                assert len(list(keep(scored))) == 1

    def planned(self, *overrides: str, job: Job | None = None, **told: Any) -> Planned:  # noqa: ANN401
        job, earlier = job or self.job(*overrides), _Earlier.of(self.run)
        money, used = earlier.money(job), earlier.counts.used
        pieces = earlier.open_pieces
        return Planned(job, AtWork(self.run), money, pieces, lambda _: False, used=used, **told)

    def begin(self, piece: PieceName, *, out: bool = False) -> None:
        """As a dispatcher does; `out`: with a batch of all its queries submitted."""

        async def begin() -> None:
            journal = Journal(self.run.open_journal(piece))
            if out:
                usd = amounts_of(piece, self.run, self.job()).usd
                rows = tuple(range(piece.part.first_row, piece.part.end_row))
                at = datetime.now(UTC)
                await journal.submitting(SentBatch("ref", "m", rows, usd, 1.0, 1.0, at))
            await journal.close()

        asyncio.run(begin())


def carried_out(planned: Planned) -> list[PieceRows]:
    """What it hands out at once."""
    pieces = begun(planned)
    planned.close()
    return pieces


def begun(planned: Planned) -> list[PieceRows]:
    planned.start()
    pieces: list[PieceRows] = []
    while not planned._ready:
        pieces += planned.take()
        time.sleep(0.01)
    return pieces


@pytest.fixture
def night(tmp_path: Path) -> Callable[..., Night]:
    def night(*sets: str, **columns: list[Any]) -> Night:
        log = pq.read_table("moa/recordings/demo_backlog.parquet").slice(0, QUERIES)
        for name, values in {"allowed_lanes": LIVE_OR_ANY, **columns}.items():
            log = log.append_column(name, pa.array(values))
        pq.write_table(log, tmp_path / "log.parquet", row_group_size=40)
        found = Night(tmp_path, sets)
        found.score()
        return found

    return night


def test_what_batches_that_are_out_will_cost_is_taken_from_the_budget_once(
    night: Callable[..., Night],
) -> None:
    one = night()
    expected_usd = one.planned().make()["forecast"]["cost_usd"]["expected"]
    budget = f"dispatch.budget_usd={1.05 * expected_usd:.6f}"
    batches = carried_out(one.planned(budget))
    assert all(batch.piece.in_batches for batch in batches)

    before = one.planned(budget).make()
    for batch in batches:
        one.begin(batch.piece, out=True)
    after = one.planned(budget).make()

    assert after["queries"] == QUERIES // 2
    assert after["usd"] == pytest.approx(before["usd"], rel=1e-6)
    assert after["usd"] > after["forecast"]["cost_usd"]["expected"]


def test_a_run_that_is_under_way_goes_on_though_its_limits_cannot_be_kept_any_more(
    night: Callable[..., Night],
) -> None:
    one = night()
    pieces = carried_out(one.planned())
    soon = datetime.now(UTC) + timedelta(milliseconds=10)
    late = [f"plan.finish_by={soon.isoformat()}", "dispatch.budget_usd=0.0001"]
    with pytest.raises(RunError, match="no plan keeps"):
        one.planned(*late).make()

    one.begin(pieces[0].piece)
    plan = one.planned(*late).make()

    assert plan["forecast"]["cost_usd"]["expected"] > 0.0001


def test_a_lane_that_is_too_slow_is_refused_at_first_and_borne_later(
    night: Callable[..., Night],
) -> None:
    one = night("plan.lanes=['batch']", allowed_lanes=[None] * QUERIES)
    soon = f"plan.finish_by={(datetime.now(UTC) + timedelta(hours=1)).isoformat()}"
    with pytest.raises(RunError, match="none of them ends before"):
        one.planned(soon).make()
    pieces = carried_out(one.planned())
    one.begin(pieces[0].piece)
    (one.folder / "runs/demo/decisions" / f"{pieces[-1].piece.part}.parquet").unlink()

    plan = one.planned(soon).make()

    assert plan["queries"] == 10
    assert plan["lanes"] == ["batch"]


def test_what_is_out_is_reckoned_as_it_is_billed(night: Callable[..., Night]) -> None:
    short = night(max_output_tokens=[1] * QUERIES)
    piece = next(one.piece for one in carried_out(short.planned()))

    amounts = amounts_of(piece, short.run, short.job())

    assert all(one.output_tokens == one.calls for one in amounts.by_model.values())


def test_the_router_is_paid_from_the_budget_before_the_calls(
    night: Callable[..., Night],
) -> None:
    one, set_aside = night(), list[Decimal]()
    job = one.job()
    router = job.config.router.model_copy(update={"usd_per_hour": Decimal(1)})
    dear = replace(job, config=job.config.model_copy(update={"router": router}))
    one.run.note_start(0, {"router_s": 36})

    carried_out(one.planned(job=dear, set_aside=set_aside.append))

    (usd,) = set_aside
    assert usd == pytest.approx(Decimal("0.01"), abs=Decimal("0.001"))


def test_a_part_is_decided_again_but_not_what_is_out(night: Callable[..., Night]) -> None:
    one = night()
    batches = carried_out(one.planned())
    for batch in batches:
        one.begin(batch.piece, out=True)
    before = pa.concat_tables(one.run.tables("decisions")())

    again = one.planned("plan.maximise='grade'")
    assert carried_out(again) == []
    after = pa.concat_tables(one.run.tables("decisions")())

    out = pc.equal(before["lane"], "batch")
    assert after.filter(out).equals(before.filter(out))
    live = after.filter(pc.invert(out))
    assert set(live["lane"].to_pylist()) == {"live"}
    assert live["model"] != before.filter(pc.invert(out))["model"]


def test_a_replica_that_died_says_nothing_of_how_fast_its_model_is() -> None:
    then, now = LineProgress(500, 9), LineProgress(100, 9)

    assert rate(now, then, 10.0) is None
    assert rate(LineProgress(600, 9), then, 10.0) == 10.0


def test_a_backlog_of_which_no_row_is_a_request_is_planned(night: Callable[..., Night]) -> None:
    one = night("dispatch.budget_usd=1", min_grade=[2.0] * QUERIES)

    pieces = carried_out(one.planned())

    assert {piece.piece.provider for piece in pieces} == {"none"}
    assert sum(piece.rows for piece in pieces) == QUERIES


def test_an_end_is_told_from_nothing_while_pieces_end(night: Callable[..., Night]) -> None:
    one = night()
    planned = one.planned("dispatch.budget_usd=1")
    pieces = carried_out(planned)
    budget_usd, out_usd = Decimal(1), Decimal(0)
    for piece in pieces:
        out_usd += amounts_of(piece.piece, one.run, one.job()).usd
    at_first = planned._usd(Facts(budget_usd, Decimal(0), 1.0, {}, {}))

    for piece in pieces:
        planned.finished(piece.piece)
    at_last = planned._usd(Facts(budget_usd - out_usd, Decimal(0), 1.0, {}, {}))

    assert at_first is not None
    assert at_last is not None
    assert float(at_first) == pytest.approx(float(at_last), abs=1e-4)


def test_what_is_out_is_summed_while_pieces_end(night: Callable[..., Night]) -> None:
    planned = night().planned()
    first, second = (one.piece for one in carried_out(planned)[:2])

    class EndsAnother:
        @property
        def usd(self) -> Decimal:
            planned.finished(second)  # as the driver does, while the plan is made
            return Decimal(3)

    planned._open = {first: EndsAnother(), second: EndsAnother()}  # type: ignore[dict-item]

    assert planned._out_usd == 6
    assert list(planned._open) == [first]


def test_a_plan_that_is_being_made_is_written_before_the_run_is_over(
    night: Callable[..., Night],
) -> None:
    planned = night().planned("plan.replan_every_s=0.001")
    begun(planned)

    planned.look(lambda: Facts(None, Decimal(0), 1.0, {}, {}))
    planned.close()

    assert [plan["again"] for plan in planned._run.plans()] == [False, True]


@pytest.mark.parametrize(
    ("budget_usd", "approved_usd", "left_usd"), [(None, 5, 3), (9, 5, 3), (3, 5, 1), (9, None, 7)]
)
def test_no_more_is_spent_than_was_approved_whatever_the_budget_is(
    budget_usd: int | None, approved_usd: int | None, left_usd: int
) -> None:
    spent_usd = Decimal(2)
    left = None if budget_usd is None else budget_usd - spent_usd
    money = Money(left, {}, spent_usd)

    found = money.at_most(None if approved_usd is None else Decimal(approved_usd))

    assert found.left_usd == found.free_usd == left_usd
