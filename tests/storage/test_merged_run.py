"""A run and its redrives, read as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import RunError
from moa.schema import DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, PieceName, RunFolder

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PARTS = [PartName(0, 0, 4), PartName(0, 4, 8), PartName(1, 0, 4)]
POOL = ("openai/gpt-4o", "google/gemini")


def place(n: int) -> tuple[int, int]:
    return (0, n) if n < 8 else (1, n - 8)


def part_of(n: int) -> PartName:
    return PARTS[n // 4]


def outcome(n: int, model: str | None, **fields: object) -> dict[str, Any]:
    """Of query n; dead without a model."""
    partition, row = place(n)
    return {
        "query_id": f"q{n}", "partition": partition, "row": row, "tags": [],
        "status": "answered" if model else "dead_letter", "model": model,
        "provider": model and model.partition("/")[0], "first_model": model or POOL[0],
        "input_tokens": 1, "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 1,
        "reasoning_tokens": 0, "cost_usd": Decimal("0.25") if model else Decimal(0),
        "attempts": 1, "unknown_calls": 0, "lost_answers": 0, "finished_at": NOON,
        "reason": None if model else "vendor_failed", **fields,
    }  # fmt: skip


def letter(row: dict[str, Any]) -> dict[str, Any]:
    names = ["query_id", "partition", "row", "reason", "tags"]
    asked = {"model": POOL[0], "at": NOON, "error": "TransientError", "maybe_billed": False}
    tries = [
        {**asked, "detail": f"{row['reason']} {n}"}
        for n in range(row.get("tries", row["attempts"]))
    ]
    more = {"detail": row["reason"], "attempts": tries, "request": "{}", "request_hash": "0"}
    return {**{name: row[name] for name in names}, **more}


def decision(n: int, model: str | None, **fields: object) -> dict[str, Any]:
    partition, row = place(n)
    return {
        "query_id": f"q{n}", "partition": partition, "row": row, "model": model,
        "provider": model and model.partition("/")[0], "lane": model and "live",
        "rule": "best_value", "fallbacks": [one for one in POOL if model and one != model],
        "expected_grade": [0.9, 0.1 * n], "expected_cost_usd": [0.2, 0.1],
        "expected_input_tokens": 1.0, "expected_output_tokens": 1.0, "novelty": 0.5,
        "propensity": 1.0, "router_s": 0.0, "router_version": "r", "price_version": "p", **fields,
    }  # fmt: skip


def write(run: RunFolder, rows: Iterable[dict[str, Any]], *, finished: bool = True) -> None:
    """Outcomes and dead letters by piece; a query that is dead is in the piece of its model."""
    pieces: dict[PieceName, list[dict[str, Any]]] = {}
    for row in rows:
        number = int(row["query_id"].strip("q").partition("=")[0])
        provider = row["first_model"].partition("/")[0]
        pieces.setdefault(PieceName(part_of(number), provider), []).append(row)
    for piece, mine in pieces.items():
        dead = [letter(row) for row in mine if row["model"] is None]
        if dead:
            run.write_dead_letters(piece, pa.Table.from_pylist(dead, schema=DEAD_LETTERS))
        if finished:
            run.write_outcomes(piece, pa.Table.from_pylist(mine, schema=OUTCOMES))


def decide(run: RunFolder, rows: Iterable[dict[str, Any]]) -> None:
    parts: dict[PartName, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(part_of(int(row["query_id"][1:])), []).append(row)
    for part, mine in parts.items():
        run.write_decisions(part, pa.Table.from_pylist(mine, schema=ROUTING_DECISIONS))


def begun(run: RunFolder, number: int) -> RunFolder:
    """One of its redrives."""
    redrive = run.redrive(number)
    redrive.begin({}, identity={})
    return redrive


def by_query(tables: Iterable[pa.Table]) -> dict[str, dict[str, Any]]:
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["query_id"] for row in rows}) == len(rows)
    return {row["query_id"]: row for row in rows}


def test_of_each_query_the_latest_row_counts_and_all_calls(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    write(run, [outcome(n, None if n in (1, 2, 9) else POOL[0]) for n in range(12)])
    write(begun(run, 1), [outcome(1, POOL[1], first_model=POOL[1], attempts=2), outcome(2, None)])
    write(begun(run, 2), [outcome(2, POOL[0], attempts=3, lost_answers=1, unknown_calls=1)])

    merged = MergedRun(run)
    rows, dead = by_query(merged.outcomes()), by_query(merged.dead_letters())

    assert rows.keys() == {f"q{n}" for n in range(12)}
    assert dead.keys() == {"q9"}
    assert [rows[q]["status"] for q in ("q1", "q2", "q9")] == [
        "answered",
        "answered",
        "dead_letter",
    ]
    assert [rows[q]["attempts"] for q in ("q0", "q1", "q2", "q9")] == [1, 3, 5, 1]
    assert (rows["q1"]["first_model"], rows["q1"]["model"]) == POOL
    assert (rows["q2"]["lost_answers"], rows["q2"]["unknown_calls"]) == (1, 1)
    assert sum(row["cost_usd"] for row in rows.values()) == Decimal("0.25") * 11
    assert all(table.schema.equals(OUTCOMES) for table in merged.outcomes())


def test_a_query_that_shares_an_answer_shares_the_redrives(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    twin = {"query_id": "q0=", "same_as": "q0", "attempts": 0}
    write(run, [outcome(0, None), outcome(0, None, **twin), outcome(1, None)])
    write(begun(run, 1), [outcome(0, POOL[0]), outcome(0, POOL[0], cost_usd=Decimal(0), **twin)])

    merged = MergedRun(run)

    rows = by_query(merged.outcomes())
    assert {name: row["status"] for name, row in rows.items()} == {
        "q0": "answered", "q0=": "answered", "q1": "dead_letter",
    }  # fmt: skip
    assert by_query(merged.dead_letters()).keys() == {"q1"}


def test_a_redrive_without_money_does_not_hide_why_a_query_is_dead(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    unasked = {"reason": "budget_spent", "attempts": 0}
    twin = {"query_id": "q1=", "same_as": "q1", "attempts": 0, "tries": 2}
    write(run, [outcome(0, None), outcome(1, None), outcome(1, None, **twin), outcome(2, None)])
    write(begun(run, 1), [outcome(n, None, **unasked) for n in (0, 2)])
    asked = {"reason": "budget_spent", "attempts": 2}
    write(begun(run, 2), [outcome(1, None, **asked), outcome(1, None, **{**asked, **twin})])
    write(begun(run, 3), [outcome(2, None, **unasked), outcome(0, None, reason="rate_limited")])

    merged = MergedRun(run)
    rows, letters = by_query(merged.outcomes()), by_query(merged.dead_letters())
    short = by_query(merged.dead_letters_of(PARTS[0], columns=["query_id", "reason"]))

    why = {
        "q0": "rate_limited", "q1": "budget_spent", "q1=": "budget_spent", "q2": "vendor_failed",
    }  # fmt: skip
    assert {name: row["reason"] for name, row in rows.items()} == why
    assert short == {name: {"query_id": name, "reason": reason} for name, reason in why.items()}
    assert letters["q2"]["detail"] == "vendor_failed"
    assert [one["detail"] for one in letters["q0"]["attempts"]] == [
        "vendor_failed 0",
        "rate_limited 0",
    ]
    assert len(letters["q1"]["attempts"]) == 3
    assert all(table.schema.equals(DEAD_LETTERS) for table in merged.dead_letters())


def test_what_a_killed_redrive_has_not_finished_is_as_before(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    decide(run, [decision(n, POOL[0]) for n in range(4)])
    write(run, [outcome(n, None) for n in range(4)])
    redrive = begun(run, 1)
    decide(redrive, [decision(n, POOL[1], rule="redrive") for n in range(4)])
    write(
        redrive,
        [outcome(n, None, first_model=POOL[1], reason="x") for n in range(4)],
        finished=False,
    )

    merged = MergedRun(run)

    assert {row["reason"] for row in by_query(merged.dead_letters()).values()} == {"vendor_failed"}
    assert {row["rule"] for row in by_query(merged.decisions()).values()} == {"best_value"}
    assert {row["attempts"] for row in by_query(merged.outcomes()).values()} == {1}


def test_the_latest_decision_says_who_was_asked_and_the_first_who_could_be(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    decide(run, [decision(0, POOL[0]), decision(1, None, rule="nobody_can"), decision(2, POOL[0])])
    write(run, [outcome(n, None) for n in range(3)])
    run.write_outcomes(PieceName(PARTS[0], "none"), OUTCOMES.empty_table())
    outside = {
        "rule": "redrive",
        "fallbacks": [],
        "expected_grade": [0.1],
        "expected_cost_usd": [1],
    }
    redrive = begun(run, 1)
    decide(redrive, [decision(n, "other/model", **outside) for n in (1, 2)])
    write(redrive, [outcome(n, "other/model") for n in (1, 2)])

    merged = MergedRun(run)
    latest, first = by_query(merged.decisions()), by_query(merged.decided())

    assert [latest[q]["model"] for q in ("q0", "q1", "q2")] == [POOL[0], *["other/model"] * 2]
    assert [latest[q]["rule"] for q in ("q0", "q1", "q2")] == ["best_value", "redrive", "redrive"]
    assert [latest[q]["fallbacks"] for q in ("q1", "q2")] == [[], list(POOL)]
    assert latest["q2"]["expected_grade"] == first["q2"]["expected_grade"]
    assert [first[q]["model"] for q in ("q0", "q1", "q2")] == [POOL[0], None, POOL[0]]


def test_outcomes_find_their_decisions(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    decide(run, [decision(n, POOL[0]) for n in range(12)])
    write(run, [outcome(n, POOL[0]) for n in range(12)])
    rows = [outcome(n, POOL[0]) for n in (7, 5)]

    merged = MergedRun(run)
    found = merged.decisions_on(pa.Table.from_pylist(rows, schema=OUTCOMES), ["expected_grade"])

    assert [row["expected_grade"][1] for row in found.to_pylist()] == pytest.approx([0.7, 0.5])
    strange = pa.Table.from_pylist([outcome(7, None, row=99)], schema=OUTCOMES)
    with pytest.raises(RunError, match="without decisions"):
        merged.decisions_on(strange, ["expected_grade"])


@given(st.lists(st.sets(st.integers(0, 11)), max_size=3))
def test_each_query_has_one_row_whatever_was_sent_again(answered: list[set[int]]) -> None:
    with TemporaryDirectory() as folder:
        run = RunFolder(folder)
        dead = set(range(12))
        write(run, [outcome(n, None) for n in dead])
        sent: Counter[int] = Counter(dead)
        for number, mine in enumerate(answered, 1):
            sent.update(dead)
            write(begun(run, number), [outcome(n, POOL[1] if n in mine else None) for n in dead])
            dead -= mine

        merged = MergedRun(run)
        rows, letters = by_query(merged.outcomes()), by_query(merged.dead_letters())

        assert rows.keys() == {f"q{n}" for n in range(12)}
        assert letters.keys() == {f"q{n}" for n in dead}
        assert all((row["model"] is None) == (name in letters) for name, row in rows.items())
        assert {name: row["attempts"] for name, row in rows.items()} == {
            f"q{n}": number for n, number in sent.items()
        }


def test_starts_and_bills_are_those_of_all(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for number, one in enumerate((run, begun(run, 1), begun(run, 2))):
        one.note_start(0, {"from": "a", "to": str(number)})
    run.finish({"cost_usd": "1.5"})
    run.redrive(1).finish({"cost_usd": "0.25"})

    merged = MergedRun(run)

    assert [start["to"] for start in merged.starts()] == ["0", "1", "2"]
    assert merged.spent_usd() == Decimal("1.75")


def test_batches_that_have_ended_say_nothing_of_their_providers_live_calls(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    part, model = PARTS[0], POOL[0]
    decide(run, [decision(n, model, lane="batch" if n < 3 else "live") for n in range(4)])
    rows = [outcome(n, model, lane="batch") for n in range(3)]
    batches = PieceName(part, "openai", in_batches=True)

    run.write_outcomes(batches, pa.Table.from_pylist(rows, schema=OUTCOMES))
    (ended,) = MergedRun(run).decided()
    live = pa.Table.from_pylist([outcome(3, model, lane="live")], schema=OUTCOMES)
    run.write_outcomes(PieceName(part, "openai"), live)
    (whole,) = MergedRun(run).decided()

    assert ended["query_id"].to_pylist() == ["q0", "q1", "q2"]
    assert whole.num_rows == 4
