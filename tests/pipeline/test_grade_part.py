from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from moa.grading.exact import ExactGrader
from moa.grading.grader import Grade
from moa.pipeline.grade_part import REFUSED, UNGRADED, Choice, PartGrader
from moa.planning.policy import FALLBACK
from moa.storage.run_folder import PartName
from tests.pipeline.answered_run import BEGAN, MODEL, Asked, answered_run

EXACT = Choice(ExactGrader(), frozenset())
NOW = datetime(2026, 11, 25, 7, tzinfo=UTC)


class Raises:
    version = "raises/1"

    def grade(self, completion: str, reference: str) -> Grade:
        raise ValueError(completion)


def graded(
    tmp_path: Path, asked: list[Asked], *choices: Choice, **more: float
) -> dict[str, dict[str, Any]]:
    run = answered_run(f"{tmp_path}/run", asked, part_rows=len(asked))
    grader = PartGrader(run, choices or (EXACT,), now=lambda: NOW, **more)
    rows: list[dict[str, Any]] = grader(PartName(0, 0, len(asked))).to_pylist()
    return {row["query_id"]: row for row in rows}


def test_a_grade_stands_beside_how_its_model_was_chosen(tmp_path: Path) -> None:
    rows = graded(tmp_path, [Asked("6 x 7?", propensity=0.25), Asked("6 x 8?", reference="48")])

    right, wrong = rows["night/q0"], rows["night/q1"]
    assert (right["grade"], wrong["grade"]) == (1.0, 0.0)
    assert right["propensity"] == 0.25
    assert (right["rule"], right["router_version"], right["run_id"]) == (
        "best_value",
        "r1",
        "night",
    )
    assert (right["prompt"], right["source"], right["tags"]) == ("6 x 7?", "maths", ["maths"])
    assert (right["input_tokens"], right["output_tokens"]) == (7, 5)
    assert right["cost_usd"] == Decimal("0.25")
    assert right["grader"] == ExactGrader().version
    assert right["graded_at"] == NOW


def test_a_missing_grade_says_why(tmp_path: Path) -> None:
    asked = [
        Asked("no reference?", reference=None),
        Asked("tools only?", completion=None),
        Asked("filtered?", status="refused"),
        Asked("whose tags?", tags=["poetry"]),
        Asked("broken?", tags=["broken"]),
    ]
    choices = (Choice(Raises(), frozenset({"broken"})), Choice(ExactGrader(), frozenset({"maths"})))

    rows = graded(tmp_path, asked, *choices)

    assert [row["grade"] for row in rows.values()] == [None] * 5
    assert all(row["reason"] for row in rows.values())
    assert rows["night/q2"]["reason"] == REFUSED
    assert rows["night/q3"]["grader"] == UNGRADED
    assert rows["night/q4"]["reason"] == "the grader raised ValueError"


def test_a_refusal_has_the_grade_that_the_config_gives_it(tmp_path: Path) -> None:
    rows = graded(tmp_path, [Asked("filtered?", status="refused")], refusal_grade=0.0)

    assert rows["night/q0"]["grade"] == 0.0
    assert rows["night/q0"]["reason"] is None


def test_a_dead_letter_has_no_row_since_no_model_answered(tmp_path: Path) -> None:
    rows = graded(tmp_path, [Asked("dead?", status="dead_letter"), Asked("alive?")])

    assert list(rows) == ["night/q1"]


def test_the_first_grader_that_fits_the_tags_grades(tmp_path: Path) -> None:
    first = Choice(ExactGrader(), frozenset({"maths", "other"}))

    rows = graded(
        tmp_path, [Asked("a?"), Asked("b?", tags=["x"])], first, Choice(Raises(), frozenset())
    )

    assert rows["night/q0"]["grade"] == 1.0
    assert rows["night/q1"]["grader"] == "raises/1"


def test_queries_that_share_an_answer_are_graded_by_their_own_references(tmp_path: Path) -> None:
    twin = {"query_id": "twin", "tags": ["theirs"], "reference": "43"}

    rows = graded(tmp_path, [Asked("6 x 7?", followers=[twin])])

    assert rows["night/q0"]["grade"] == 1.0
    assert rows["night/twin"]["grade"] == 0.0
    assert (rows["night/twin"]["source"], rows["night/twin"]["cost_usd"]) == ("theirs", 0)


def test_a_fallbacks_answer_was_not_drawn(tmp_path: Path) -> None:
    rows = graded(tmp_path, [Asked("a?", decided="v/other", propensity=0.01)])

    assert rows["night/q0"]["model"] == MODEL
    assert (rows["night/q0"]["propensity"], rows["night/q0"]["rule"]) == (1.0, FALLBACK)


def test_a_redrive_to_the_model_that_was_drawn_is_no_other_draw(tmp_path: Path) -> None:
    dead = [
        Asked("drawn?", status="dead_letter", propensity=0.25),
        Asked("named?", status="dead_letter", decided="v/other", propensity=0.25),
    ]
    run = answered_run(f"{tmp_path}/run", dead)
    answered_run(run.redrive(1).url, [Asked("drawn?"), Asked("named?")])

    rows = PartGrader(run, [EXACT])(PartName(0, 0, 2)).to_pylist()

    assert [(row["propensity"], row["rule"]) for row in rows] == [
        (0.25, "best_value"),
        (1.0, FALLBACK),
    ]


def test_a_share_of_the_queries_is_the_same_one_each_time(tmp_path: Path) -> None:
    asked = [Asked(f"{n}?") for n in range(400)]

    once = graded(tmp_path, asked, share=0.3)
    again = graded(tmp_path, asked, share=0.3)

    assert list(once) == list(again)
    assert len(once) == pytest.approx(120, abs=40)


def test_the_latest_answer_of_a_redriven_query_is_graded(tmp_path: Path) -> None:
    run = answered_run(f"{tmp_path}/run", [Asked("a?", status="dead_letter"), Asked("b?")])
    answered_run(run.redrive(1).url, [Asked("a?", completion="43")], of_rows=2)

    rows = PartGrader(run, [EXACT])(PartName(0, 0, 2)).to_pylist()

    grades = {row["query_id"]: row["grade"] for row in rows}
    assert grades == {"night/q0": 0.0, "night/q1": 1.0}


def test_the_clock_is_asked_for_each_completion(tmp_path: Path) -> None:
    run = answered_run(f"{tmp_path}/run", [Asked("a?")])

    (row,) = PartGrader(run, [EXACT])(PartName(0, 0, 1)).to_pylist()

    assert row["graded_at"] > BEGAN + timedelta(hours=1)
