"""A planned backlog handed out: batches at once, live pieces in turn, the rest planned again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from moa.dispatch.used import Used
from moa.errors import RunError
from moa.pipeline.at_work import AtWork
from moa.pipeline.committed import amounts_of
from moa.pipeline.facts import Facts, Money
from moa.pipeline.planned import Planned
from moa.pipeline.replicas import PieceRows
from moa.storage.run_folder import NOBODY, PieceName, RunFolder
from tests.pipeline.scored_run import BOTH, QUERIES, ScoredRun, scored_run

AT_ONCE = "plan.replan_every_s=0.001"
NO_FACTS = Facts(None, Decimal(0), 1.0, {}, {})


@dataclass
class Queues:
    """What waits to be handed out to vendors, as the driver knows it."""

    waiting: Counter[str] = field(default_factory=Counter)

    def is_hungry(self, queue: str) -> bool:
        return not self.waiting[queue]

    def turn(self, planned: Planned) -> list[PieceRows]:
        """What is handed out in one turn of the driver, and waits then."""
        pieces = []
        for one in planned.take():
            self.waiting[one.piece.queue] += 1
            pieces.append(one)
        return pieces

    def run_dry(self, *queues: str) -> None:
        for queue in queues or list(self.waiting):
            self.waiting[queue] = 0


@contextmanager
def begun(
    scored: ScoredRun,
    hungry: Callable[[str], bool],
    *,
    left_usd: Decimal | None = None,
    approved_usd: Decimal | None = None,
) -> Iterator[Planned]:
    """A start of the run, as far as planning goes."""
    planned = Planned(
        scored.job, AtWork(scored.run), Money(left_usd, {}), open_pieces(scored.run), hungry,
        approved_usd=approved_usd,
    )  # fmt: skip
    try:
        yield planned
    finally:
        planned.close()


def open_pieces(run: RunFolder) -> list[PieceRows]:
    finished = set(run.finished_pieces())
    pieces = [one for part in run.decided_parts() for one in run.pieces_of(part)]
    return [PieceRows(*one) for one in pieces if one[0] not in finished]


def first_of(planned: Planned, queues: Queues | None = None) -> list[PieceRows]:
    """What is handed out as soon as there is a plan."""
    planned.start()
    return until(planned, lambda: planned._ready, queues)


def until(
    planned: Planned, condition: Callable[[], bool], queues: Queues | None = None
) -> list[PieceRows]:
    """What is handed out until a turn after which a condition holds."""
    queues = queues or Queues()
    give_up_at = time.monotonic() + 30
    pieces = queues.turn(planned)
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
        pieces += queues.turn(planned)
    return pieces


def all_pieces(run: RunFolder) -> list[PieceRows]:
    parts = run.scored_parts()
    return sorted_pieces(PieceRows(*one) for part in parts for one in run.pieces_of(part))


def sorted_pieces(pieces: Iterator[PieceRows] | list[PieceRows]) -> list[PieceRows]:
    return sorted(pieces, key=lambda one: str(one.piece))


@pytest.fixture
def both(tmp_path: Path) -> ScoredRun:
    return scored_run(tmp_path, BOTH, AT_ONCE, wishes=True)


@pytest.fixture
def live(tmp_path: Path) -> ScoredRun:
    return scored_run(tmp_path, "plan.lanes=['live']", AT_ONCE)


def test_batches_and_graves_come_at_once_and_live_pieces_when_a_queue_runs_dry(
    both: ScoredRun,
) -> None:
    queues = Queues(Counter({"openai": 1, "google": 1, "anthropic": 1}))
    with begun(both, queues.is_hungry) as planned:
        assert planned.at_work

        first = first_of(planned, queues)

        assert {one.piece.in_batches or one.piece.provider == NOBODY for one in first} == {True}
        assert planned.at_work
        assert list(planned.take()) == []
        live: list[PieceRows] = []
        parts = []
        while planned.at_work:
            queues.run_dry()
            turn = queues.turn(planned)
            assert turn
            live += turn
            parts.append(turn[-1].piece.part)
        assert {one.piece.in_batches for one in live} == {False}
        assert parts == sorted(parts)
        assert len(set(parts)) > 1
        assert sorted_pieces(first + live) == all_pieces(both.run)
        assert list(planned.take()) == []


def test_a_part_waits_as_long_as_each_of_its_queues_has_something_waiting(live: ScoredRun) -> None:
    queues = Queues()
    with begun(live, queues.is_hungry) as planned:
        turn = first_of(planned, queues)
        parts = {one.piece.part for one in turn}
        assert parts == {*live.parts[: len(parts)]} != {*live.parts}

        assert list(planned.take()) == []
        queues.run_dry("a provider that nobody asks")
        assert list(planned.take()) == []
        queues.run_dry(turn[0].piece.queue)
        assert {one.piece.part for one in queues.turn(planned)} >= {live.parts[len(parts)]}


def test_a_part_that_is_all_in_batches_holds_nobody_up(tmp_path: Path) -> None:
    batches = scored_run(tmp_path, "plan.lanes=['batch']")
    with begun(batches, lambda _: False) as planned:
        pieces = first_of(planned)

        assert sorted_pieces(pieces) == all_pieces(batches.run)
        assert all(one.piece.in_batches for one in pieces)
        assert not planned.at_work


def decisions_on(run: RunFolder, parts: list[str]) -> pa.Table:
    return pa.concat_tables(
        run.read_decisions(part) for part in run.decided_parts() if str(part) in parts
    )


def test_what_is_held_is_planned_again_and_what_is_out_stays(live: ScoredRun) -> None:
    queues = Queues()
    with begun(live, queues.is_hungry) as planned:
        out = first_of(planned, queues)
        first = planned.plan
        assert first is not None
        sent = sorted({str(one.piece.part) for one in out})
        held = [str(part) for part in live.parts if str(part) not in sent]
        before, old = decisions_on(live.run, sent), decisions_on(live.run, held)
        dear = max(set(old["model"].to_pylist()), key=old["model"].to_pylist().count)
        used = {dear: Used(200, 1e4, 1e4, 1e4, 50e4)}

        time.sleep(0.01)
        planned.look(lambda: NO_FACTS._replace(used=used))
        rest = until(planned, lambda: planned.plan is not first, queues)
        second = planned.plan
        assert second is not None
        queues.run_dry()
        while planned.at_work:
            rest += queues.turn(planned)
            queues.run_dry()

        assert second.number == 1
        assert second.document["queries"] == QUERIES - sum(one.rows for one in out)
        assert 40 < second.document["learnt"][dear]["output_tokens"] < 50
        assert decisions_on(live.run, sent).equals(before)
        new = decisions_on(live.run, held)
        assert new["model"].to_pylist().count(dear) < old["model"].to_pylist().count(dear) / 2
        assert sorted_pieces(out + rest) == all_pieces(live.run)


def test_money_that_is_out_or_spent_is_not_planned_again(live: ScoredRun) -> None:
    queues, left_usd = Queues(), Decimal("1.5")
    with begun(live, queues.is_hungry, left_usd=left_usd) as planned:
        out = first_of(planned, queues)
        first = planned.plan
        assert first is not None
        out_usd = sum(float(amounts_of(one.piece, live.run, live.job).usd) for one in out)

        time.sleep(0.01)
        planned.look(lambda: NO_FACTS._replace(left_usd=left_usd))
        until(planned, lambda: planned.plan is not first, queues)

        assert planned.plan is not None
        assert first.document["usd"] == pytest.approx(1.5, abs=1e-4)
        assert planned.plan.document["usd"] == pytest.approx(1.5 - out_usd, abs=1e-3)


def not_asked() -> Facts:
    raise AssertionError("nothing is to be planned again")


def test_nothing_is_planned_again_before_its_time_or_when_nothing_is_held(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    slow = scored_run(tmp_path / "slow", "plan.lanes=['live']")  # every five minutes
    quick = scored_run(tmp_path, "plan.lanes=['live']", AT_ONCE)
    with begun(slow, lambda _: False) as planned:
        planned.look(not_asked)
        first_of(planned)
        planned.look(not_asked)
        assert planned.at_work
    with begun(quick, lambda _: True) as planned:
        planned.look(not_asked)
        first_of(planned)
        time.sleep(0.01)
        planned.look(not_asked)
        assert not planned.at_work


def test_one_plan_is_made_at_a_time(live: ScoredRun) -> None:
    with begun(live, lambda _: False) as planned:
        first_of(planned)
        first = planned.plan

        time.sleep(0.01)
        planned.look(lambda: NO_FACTS)
        time.sleep(0.01)
        planned.look(not_asked)
        until(planned, lambda: planned.plan is not first)

        assert len(live.run.plans()) == 2


def test_what_goes_wrong_while_planning_is_raised_in_the_drivers_turn(live: ScoredRun) -> None:
    with begun(live, lambda _: True, left_usd=Decimal("0.001")) as planned:
        planned.start()

        with pytest.raises(RunError, match="no plan keeps budget"):
            until(planned, lambda: False)

    assert live.run.decided_parts() == []


def test_a_plan_that_is_dearer_than_approved_is_shown_and_not_begun(live: ScoredRun) -> None:
    with begun(live, lambda _: True, approved_usd=Decimal("0.05")) as planned:
        planned.start()

        with pytest.raises(RunError, match=r"\$0.0500 are approved.*--approve-up-to") as caught:
            until(planned, lambda: False)

    (plan,) = live.run.plans()
    enough = Decimal(str(caught.value).split("--approve-up-to ")[1].split()[0])
    assert enough >= Decimal(str(plan["forecast"]["cost_usd"]["expected"]))
    assert live.run.decided_parts() == []
    with begun(live, lambda _: True, approved_usd=enough) as planned:
        assert sorted_pieces(first_of(planned)) == all_pieces(live.run)


async def begin(run: RunFolder, piece: PieceName) -> None:
    sink = run.open_journal(piece)
    sink.append(b'{"event":"none"}\n')
    await sink.commit()
    await sink.close()


def test_a_start_goes_on_with_parts_that_were_begun_and_plans_the_others_anew(
    both: ScoredRun,
) -> None:
    with begun(both, lambda _: True) as planned:
        first = first_of(planned)
    live = [one for one in first if not one.piece.in_batches and one.piece.provider != NOBODY]
    for one in [*live[:2], *(one for one in first if one.piece.in_batches)]:
        asyncio.run(begin(both.run, one.piece))
    parts = {one.piece.part for one in live[:2]}
    before = both.decisions()

    with begun(both, lambda _: False) as planned:
        opened = open_pieces(both.run)
        goes_on = [one for one in opened if not planned.holds(one.piece)]
        again = first_of(planned)
        plan = planned.plan
        held: list[PieceRows] = []
        planned._hungry = lambda _: True
        while planned.at_work:
            held += planned.take()

    assert plan is not None
    assert again == []  # batches that are out are not handed out once more
    assert all(one.piece.in_batches or one.piece.part in parts for one in goes_on)
    assert {one.piece.part for one in held}.isdisjoint(parts)
    graves = [one for one in first if one.piece.provider == NOBODY]
    assert sorted_pieces(goes_on + held + graves) == all_pieces(both.run)
    assert plan.document["queries"] == sum(one.rows for one in held)
    after = both.decisions()
    assert after.num_rows == before.num_rows
    assert after["lane"].to_pylist().count("batch") == before["lane"].to_pylist().count("batch")


def test_a_start_that_has_decided_half_goes_on_with_the_other_half(both: ScoredRun) -> None:
    with begun(both, lambda _: True) as planned:
        first_of(planned)
    for part in both.parts[4:]:  # as if it was killed before
        (Path(both.run.url) / "decisions" / f"{part}.parquet").unlink()

    with begun(both, lambda _: True) as planned:
        goes_on = [one for one in open_pieces(both.run) if not planned.holds(one.piece)]
        pieces = first_of(planned)

    graves = [one for one in all_pieces(both.run) if one.piece.provider == NOBODY]
    buried = [one for one in graves if one.piece.part in both.parts[:4]]
    assert sorted_pieces(goes_on + pieces + buried) == all_pieces(both.run)


def test_when_everything_was_sent_there_is_nothing_to_plan(live: ScoredRun) -> None:
    with begun(live, lambda _: True) as planned:
        pieces = first_of(planned)
    for one in pieces:
        asyncio.run(begin(live.run, one.piece))

    with begun(live, lambda _: True) as planned:
        with pytest.raises(RunError, match="there is nothing to plan"):
            planned.make()
        planned.start()
        until(planned, lambda: not planned.at_work)

    assert len(live.run.plans()) == 1


def test_a_start_that_is_closed_at_once_decides_nothing_more(live: ScoredRun) -> None:
    with begun(live, lambda _: True) as planned:
        planned.start()
        planned.close()
        decided = len(live.run.decided_parts())
        time.sleep(0.3)

    assert len(live.run.decided_parts()) == decided


def test_under_a_budget_batches_go_out_one_after_another_until_some_have_told(
    tmp_path: Path,
) -> None:
    scored = scored_run(tmp_path, "plan.lanes=['batch','live']", "dispatch.budget_usd=1")
    with begun(scored, lambda _: False) as free:
        assert len(first_of(free)) > 2
        assert free.plan is not None
        expected_usd = Decimal(str(free.plan.document["forecast"]["cost_usd"]["expected"]))
    for decisions in (Path(scored.run.url) / "decisions").iterdir():
        decisions.unlink()
    left_usd = expected_usd * Decimal("1.2")
    with begun(scored, lambda _: False, left_usd=left_usd) as planned:
        first = [one.piece for one in first_of(planned) if one.piece.in_batches]
        every = [one.piece for one in all_pieces(scored.run) if one.piece.in_batches]
        usd = {piece: amounts_of(piece, scored.run, scored.job).usd for piece in every}
        told = {"a": Used(1e4, 1e6, 1e6, 1e6, 1e6)}

        still = NO_FACTS._replace(left_usd=left_usd)
        planned.look(lambda: still)
        assert list(planned.take()) == []
        planned.look(lambda: still._replace(used=told))
        rest = [one.piece for one in planned.take()]

        assert 1 <= len(first) < len(every)
        assert 3 * sum(usd[piece] for piece in first) <= left_usd or len(first) == 1
        assert sorted(map(str, first + rest)) == sorted(map(str, every))
