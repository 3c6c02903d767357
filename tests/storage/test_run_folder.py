from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import RunError
from moa.storage.duplicates import DUPLICATES, Found
from moa.storage.query_log import Partition
from moa.storage.run_folder import PartName, PieceName, RunFolder, is_redrive

IDENTITY = {"config": "c" * 64, "router": "r1", "prices": "p1"}
PARTITIONS = [Partition(n, f"log/{n}.parquet", 0, 100) for n in range(3)]


@pytest.fixture(params=["disk", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    if request.param == "disk":
        return RunFolder(str(tmp_path / "run"))
    return RunFolder(f"{request.getfixturevalue('object_store')}/runs/night")


@given(
    st.builds(PartName, *[st.integers(0, 10**9)] * 3),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    st.booleans(),
)
def test_a_name_says_what_it_names(part: PartName, provider: str, in_batches: bool) -> None:
    piece, other = PieceName(part, provider, in_batches), PieceName(part, provider, not in_batches)

    assert PartName.parse(str(part)) == part
    assert PieceName.parse(str(piece)) == piece
    assert str(piece) == f"{part}.{piece.queue}"
    assert piece.queue != other.queue


def test_a_later_start_is_given_the_facts_of_the_first(run: RunFolder) -> None:
    assert run.first_start() is None

    run.begin({"price_date": "2026-11-24"}, identity=IDENTITY)
    kept = run.begin({"price_date": "2026-11-25"}, identity=IDENTITY)

    assert kept["price_date"] == "2026-11-24"
    assert run.first_start() == kept


@pytest.mark.parametrize("changed", IDENTITY)
def test_a_start_that_would_decide_otherwise_is_refused(run: RunFolder, changed: str) -> None:
    run.begin({}, identity=IDENTITY)

    with pytest.raises(RunError, match=f"begun with another {changed} .*another1.*run.id"):
        run.begin({}, identity={**IDENTITY, changed: "another1"})


def test_a_start_with_another_config_is_told_which_keys_differ(run: RunFolder) -> None:
    run_before = {"run": {"seed": 0}, "dispatch": {"budget_usd": 1}, "report": {"title": "a"}}
    run_after = {"run": {"seed": 0}, "dispatch": {"budget_usd": 2}, "report": {"title": "b"}}
    before = {"config": {"policy": {"willingness_to_pay": "0.05"}, **run_before}}
    after = {"config": {"policy": {"quality_floor": 0.8}, **run_after}}
    run.begin(before, identity=IDENTITY)

    with pytest.raises(RunError) as caught:
        run.begin(after, identity={**IDENTITY, "config": "d" * 64})

    assert "policy.willingness_to_pay was 0.05, is not given" in str(caught.value)
    assert "policy.quality_floor was not given, is 0.8" in str(caught.value)
    assert not re.search("seed|budget|title", str(caught.value))


def test_a_redrive_that_is_begun_otherwise_is_told_what_helps_there(run: RunFolder) -> None:
    redrive = run.redrive(1)
    redrive.begin({}, identity=IDENTITY)

    with pytest.raises(RunError, match="--abandon") as caught:
        redrive.begin({}, identity={**IDENTITY, "router": "r2"})

    assert "run.id" not in str(caught.value)
    assert is_redrive(redrive.url)
    assert not is_redrive(run.url)


def test_a_scan_is_kept_and_another_log_is_refused(run: RunFolder) -> None:
    follower = {"query_id": "x", "tags": ["t"], "reference": None}
    leader = {"row": 7, "kind": "leader", "query_id": None, "followers": [follower]}
    marks = [{"partition": n, **leader} for n in range(2)]
    duplicates = pa.Table.from_pylist(marks, schema=DUPLICATES)
    assert not run.has_scan(PARTITIONS)

    run.write_scan(PARTITIONS, Found(300, 298, duplicates))

    assert run.has_scan(PARTITIONS)
    assert run.scanned_queries() == 298
    assert run.read_duplicates(1).to_pylist() == marks[1:]
    assert run.read_duplicates(2).num_rows == 0
    last = PARTITIONS[2]
    for changed in (
        replace(last, rows=101), replace(last, file_bytes=1), replace(last, file_changed_ns=1),
    ):  # fmt: skip
        with pytest.raises(RunError, match="the query log has changed"):
            run.has_scan([*PARTITIONS[:2], changed])


def test_what_has_a_name_is_done(run: RunFolder) -> None:
    parts = [PartName(0, 0, 10), PartName(0, 10, 20), PartName(12, 0, 5)]
    decisions = pa.table(
        {
            "provider": ["openai", None, "google", "openai", "openai"],
            "lane": ["live", None, "flex", "live", "batch"],
        }
    )
    for part in parts[::-1]:
        run.write_decisions(part, decisions)

    run.write_outcomes(PieceName(parts[1], "openai"), pa.table({"n": [1]}))

    assert run.decided_parts() == parts
    assert run.pieces_of(parts[0]) == [
        (PieceName(parts[0], "google"), 1),
        (PieceName(parts[0], "none"), 1),
        (PieceName(parts[0], "openai"), 2),
        (PieceName(parts[0], "openai", in_batches=True), 1),
    ]
    assert run.finished_pieces() == [PieceName(parts[1], "openai")]
    assert [t.to_pydict() for t in run.tables("outcomes")()] == [{"n": [1]}]


def test_the_first_manifest_stays(run: RunFolder) -> None:
    run.begin({}, identity=IDENTITY)
    run.write_report("report.html", b"<html>")
    assert run.manifest() is None

    run.finish({"cost_usd": "1"})
    run.finish({"cost_usd": "2"})

    manifest = run.manifest()
    assert manifest is not None
    assert manifest["cost_usd"] == "1"
    assert manifest["files"].keys() == {"config.json", "report/report.html"}
    assert manifest["files"]["report/report.html"] == 6


def test_starts_are_kept_in_order(run: RunFolder) -> None:
    for number in (1, 0):
        run.note_start(number, {"from": "a", "to": str(number)})
    run.note_start(0, {"from": "a", "to": "later"})

    assert [start["to"] for start in run.starts()] == ["later", "1"]


def test_a_document_on_disk_can_be_read_by_people(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))

    run.begin({"config": {"pool": ["a"]}}, identity=IDENTITY)

    text = (tmp_path / "config.json").read_text()
    assert json.loads(text)["config"] == {"pool": ["a"]}
    assert text.count("\n") > 5


def test_a_redrive_is_a_run_inside_the_run(run: RunFolder) -> None:
    run.begin({}, identity=IDENTITY)
    assert run.redrives() == []

    for number in (1, 2):
        run.redrive(number).begin({"number": number}, identity=IDENTITY)
    run.redrive(4).begin({}, identity=IDENTITY)

    assert [one.url for one in run.redrives()] == [f"{run.url}/redrives/00{n}" for n in (1, 2)]
    assert run.decided_parts() == []


def test_a_selection_counts_once_it_is_written(run: RunFolder) -> None:
    part = PartName(0, 0, 10)
    run.write_decisions(part, pa.table({"provider": ["openai"]}))
    assert run.selection() is None

    run.forget_selection()
    run.write_selection(3, {"sent": {"vendor_failed": 4}})

    assert run.decided_parts() == []
    assert run.scanned_queries() == 3
    assert run.selection() == {"queries": 3, "sent": {"vendor_failed": 4}}


def test_a_redrive_that_is_forgotten_can_begin_anew(run: RunFolder) -> None:
    run.begin({}, identity=IDENTITY)
    redrive, part = run.redrive(1), PartName(0, 0, 10)
    redrive.begin({"to_model": "a"}, identity=IDENTITY)
    redrive.write_queries(part, pa.table({"n": [1]}))
    redrive.write_decisions(part, pa.table({"provider": ["openai"]}))
    redrive.write_dead_letters(PieceName(part, "openai"), pa.table({"n": [1]}))
    redrive.note_start(0, {})
    redrive.write_selection(1, {})

    redrive.forget()

    assert run.redrives() == []
    redrive.begin({"to_model": "b"}, identity={**IDENTITY, "config": "another"})
    assert redrive.selection() is None
    assert not any([redrive.decided_parts(), redrive.dead_letter_pieces(), redrive.starts()])


def test_what_was_decided_and_has_no_outcomes_is_open(run: RunFolder) -> None:
    parts = [PartName(0, 0, 10), PartName(0, 10, 20)]
    for part in parts:
        run.write_decisions(
            part, pa.table({"provider": ["openai", "google"], "lane": ["live", "live"]})
        )
    run.write_outcomes(PieceName(parts[0], "google"), pa.table({"n": [1]}))

    assert [str(piece) for piece in run.open_pieces()] == [
        f"{parts[0]}.openai", f"{parts[1]}.google", f"{parts[1]}.openai",
    ]  # fmt: skip


def test_what_is_scored_waits_for_its_decisions(run: RunFolder) -> None:
    parts = [PartName(0, 0, 10), PartName(0, 10, 20), PartName(1, 0, 5)]
    for part in parts[::-1]:
        run.write_queries(part, pa.table({"n": [part.end_row]}))

    run.write_decisions(parts[1], pa.table({"provider": ["openai"]}))

    assert run.scored_parts() == parts
    assert run.decided_parts() == parts[1:2]
    assert run.read_queries(parts[2]).to_pydict() == {"n": [5]}


def test_plans_are_kept_in_the_order_in_which_they_were_made(run: RunFolder) -> None:
    assert run.plans() == []

    numbers = [run.write_plan({"price": np.float64(n), "counts": np.arange(2)}) for n in range(11)]

    assert numbers == list(range(11))
    assert [plan["price"] for plan in run.plans()] == list(range(11))
    assert run.plans()[0]["counts"] == [0, 1]


async def test_a_piece_is_begun_when_it_has_a_journal_or_outcomes(run: RunFolder) -> None:
    part, other = PartName(0, 0, 10), PartName(0, 10, 20)
    live, batch = PieceName(part, "openai"), PieceName(part, "openai", in_batches=True)
    finished = PieceName(other, "google")
    assert run.begun_pieces() == set()

    run.write_outcomes(finished, pa.table({"n": [1]}))
    sink = run.open_journal(batch)
    sink.append(b"{}\n")
    await sink.commit()
    await sink.close()

    assert run.begun_pieces() == {batch, finished}
    run.remove_journals(batch)
    assert run.begun_pieces() == {finished}
    assert live not in run.begun_pieces()


def test_rows_without_a_lane_are_bought_at_once(run: RunFolder) -> None:
    part = PartName(0, 0, 10)
    lanes = pa.array([None, "batch", "flex"], pa.string())
    run.write_decisions(part, pa.table({"provider": ["openai"] * 3, "lane": lanes}))

    assert run.pieces_of(part) == [
        (PieceName(part, "openai"), 2),
        (PieceName(part, "openai", in_batches=True), 1),
    ]
