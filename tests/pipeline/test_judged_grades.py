from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from moa.grading.exact import ExactGrader
from moa.grading.judgements import Judgements, Pair, Rating
from moa.pipeline.grade_part import GRADED, Choice, PartGrader
from moa.pipeline.judged_grades import NOT_JUDGED, with_judgements
from moa.storage.run_folder import PartName
from tests.pipeline.answered_run import MODEL, Asked, answered_run

NOTHING = Judgements([], [], [])


def graded(tmp_path: Path) -> pa.Table:
    asked = [
        Asked("a?"),
        Asked("b?", tags=["poems"]),
        Asked("c?", tags=["poems"]),
        Asked("d?", tags=["poems"], status="refused"),
        Asked("e?", tags=["poems"]),
    ]
    run = answered_run(f"{tmp_path}/run", asked, part_rows=5)
    return PartGrader(run, [Choice(ExactGrader(), frozenset({"maths"}))])(PartName(0, 0, 5))


def test_judgements_grade_what_no_grader_does_and_nothing_else(tmp_path: Path) -> None:
    before = graded(tmp_path)
    said = [Rating(f"q{n}", MODEL, 0.25, "ann") for n in (0, 1, 3)]
    unsure = Rating("q2", MODEL, None, "judge/1 v/j", "no verdict")

    table, lines = with_judgements(before, Judgements([], [*said, unsure], []), enough=20)

    rows = table.to_pylist()
    assert table.schema.equals(GRADED)
    assert [row["grade"] for row in rows] == [1.0, 0.25, None, None, None]
    assert rows[0]["grader"] == ExactGrader().version
    assert rows[1]["grader"] == "ratings/1"
    assert (rows[2]["reason"], rows[2]["grader"]) == ("no verdict", "judge/1 v/j")
    assert rows[3] == before.to_pylist()[3]
    assert rows[4]["reason"] == NOT_JUDGED
    assert lines[0] == "0 pairs and 4 ratings were read; they grade 1 of the run's answers"


def test_pairs_are_compared_within_the_source_of_their_query(tmp_path: Path) -> None:
    pairs = [Pair(f"q{1 + n % 2}", MODEL, "v/other", 1.0, rater=f"r{n}") for n in range(24)]

    table, lines = with_judgements(
        graded(tmp_path), Judgements(pairs, [], ["f, row 1: bad"]), enough=20
    )

    grades = table.column("grade").to_pylist()
    assert grades[1] == grades[2] > 0.9
    assert lines[1:4] == [
        "1 judgements cannot be read:",
        "  f, row 1: bad",
        "poems, 24 pairs; log-odds, and wins against the others:",
    ]
    assert lines[4].startswith(f"  {MODEL:28} +")


def test_without_judgements_nothing_changes(tmp_path: Path) -> None:
    before = graded(tmp_path)

    table, lines = with_judgements(before, NOTHING, enough=20)

    assert table is before
    assert lines == []
