"""What has come of a redrive that was not finished, and how it is closed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from moa.dispatch.outcome import Attempt, DeadLetter, Outcome
from moa.pipeline.unfinished import come_of, let_go
from moa.schema import FOLLOWERS
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PieceName, RunFolder
from tests.storage.test_merged_run import (
    NOON,
    PARTS,
    POOL,
    begun,
    by_query,
    decide,
    decision,
    outcome,
    write,
)

PIECE = PieceName(PARTS[0], "google")
TWIN = {"query_id": "q1=", "same_as": "q1", "attempts": 0}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Four dead letters, q1 with a twin."""
    run = RunFolder(str(tmp_path))
    decide(run, [decision(n, POOL[0]) for n in range(4)])
    write(run, [*[outcome(n, None) for n in range(4)], outcome(1, None, **TWIN)])
    return run


@pytest.fixture
def redrive(run: RunFolder) -> RunFolder:
    """All of them are to be sent again, to another model."""
    redrive = begun(run, 1)
    decide(redrive, [decision(n, POOL[1], rule="redrive") for n in range(4)])
    twin: list[Line] = [{"query_id": "q1=", "tags": [], "reference": None}]
    queries = {
        "query_id": pa.array([f"q{n}" for n in range(4)]),
        "row": pa.array(range(4), pa.int64()),
        "followers": pa.array([[], twin, [], []], FOLLOWERS),
    }
    redrive.write_queries(PARTS[0], pa.table(queries))
    redrive.write_selection(4, {"sent": {"vendor_failed": 5}, "left": []})
    return redrive


Line = dict[str, Any]


def answered(n: int) -> Line:
    outcome = Outcome(
        query_id=f"q{n}", partition=0, row=n, status="answered", tags=[], model=POOL[1],
        provider="google", cost_usd=Decimal("0.5"), attempts=1, finished_at=NOON,
    )  # fmt: skip
    return {"e": "answered", "outcome": outcome}


def sent(n: int) -> Line:
    return {"e": "sent", "row": n, "model": POOL[1], "usd": "0"}


def failed(n: int, *, maybe_billed: bool) -> Line:
    attempt = Attempt(POOL[1], NOON, "TransientError", 503, maybe_billed, "busy")
    return {"e": "failed", "row": n, "attempt": attempt, "usd": "0"}


async def keep(redrive: RunFolder, *lines: Line) -> None:
    """One more journal of the piece, as `Journal` writes it."""
    sink = redrive.open_journal(PIECE)
    for line in lines:
        sink.append(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    await sink.close()


async def test_what_may_have_been_paid_is_something(redrive: RunFolder) -> None:
    assert come_of(redrive, redrive.read_journals).nothing
    steps = {
        "refused": [sent(0), failed(0, maybe_billed=False)],
        "sent": [sent(0)],
        "came back": [failed(0, maybe_billed=False)],
        "may be billed": [sent(1), failed(1, maybe_billed=True)],
        "answered": [sent(2), answered(2)],
    }
    nothing = {}

    for name, lines in steps.items():
        await keep(redrive, *lines)
        nothing[name] = come_of(redrive, redrive.peek_journals).nothing

    assert nothing == {
        "refused": True, "sent": False, "came back": True, "may be billed": False,
        "answered": False,
    }  # fmt: skip
    found = come_of(redrive, redrive.read_journals)
    assert (found.settled, found.kept, found.doubtful) == (1, 1, 1)
    assert found.spent_usd == Decimal("0.5")


async def test_a_query_that_was_given_up_again_may_be_sent_otherwise(redrive: RunFolder) -> None:
    letter = DeadLetter("q0", 0, 0, "account_refused", "no", (), "{}", None, [])
    await keep(redrive, {"e": "dead", "outcome": letter.outcome(), "letter": letter})

    found = come_of(redrive, redrive.read_journals)

    assert found.nothing
    assert found.settled == 1


async def test_a_closed_redrive_keeps_answers_and_calls_and_nothing_else(
    run: RunFolder, redrive: RunFolder
) -> None:
    await keep(redrive, sent(0), answered(0), sent(1), answered(1))
    await keep(redrive, sent(2), failed(2, maybe_billed=True), sent(2))

    for _ in range(2):  # as after a kill
        let_go(redrive, MergedRun(run))

    merged = MergedRun(run)
    rows, letters = by_query(merged.outcomes()), by_query(merged.dead_letters())
    assert {name: row["status"] for name, row in rows.items()} == {
        "q0": "answered", "q1": "answered", "q1=": "answered", "q2": "dead_letter",
        "q3": "dead_letter",
    }  # fmt: skip
    assert sum(row["cost_usd"] for row in rows.values()) == 1
    assert {letters[name]["reason"] for name in ("q2", "q3")} == {"vendor_failed"}
    q2 = rows["q2"]
    assert (q2["attempts"], q2["unknown_calls"], q2["lost_answers"]) == (3, 1, 1)
    assert [one["detail"] for one in letters["q2"]["attempts"]] == ["vendor_failed 0", "busy"]
    assert rows["q3"]["attempts"] == 1
    rules = {name: row["rule"] for name, row in by_query(merged.decisions()).items()}
    assert rules == {"q0": "redrive", "q1": "redrive", "q2": "redrive", "q3": "best_value"}
    assert redrive.scanned_queries() == 3
    assert redrive.is_abandoned()
    assert redrive.open_pieces() == []


def test_one_that_was_killed_while_it_chose_is_closed_empty(run: RunFolder) -> None:
    redrive = begun(run, 1)
    decide(redrive, [decision(0, POOL[1])])

    let_go(redrive, MergedRun(run))

    assert redrive.scanned_queries() == 0
    assert redrive.decided_parts() == []
    assert len(by_query(MergedRun(run).dead_letters())) == 5
