from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.pipeline.grade_part import GRADED
from moa.pipeline.grade_summary import agreement, summary
from moa.schema import GRADED_OUTCOMES


def graded(*grades: float | None, reason: str = "cannot read: x²") -> pa.Table:
    rows: list[dict[str, object]] = [
        {
            "query_id": f"night/q{n}", "model": "v/m", "grade": grade, "grader": "exact/1",
            "reason": reason if grade is None else None, "propensity": 1.0, "rule": "best_value",
            "router_version": "r", "run_id": "night", "cost_usd": Decimal(0), "source": "s",
            "graded_at": datetime(2026, 11, 25, tzinfo=UTC), "prompt": "?", "tags": [],
            "grading_s": 1.5,
        }
        for n, grade in enumerate(grades)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=GRADED)


def test_a_missing_grade_is_counted_by_its_reason_and_lowers_no_mean() -> None:
    lines = summary(graded(1.0, 1.0, None, None), usd_per_hour=3.6)

    assert lines[0] == "4 completions: 2 graded, 2 without a grade"
    assert "2 without: cannot read" in lines[1]
    assert "2 graded, mean 1.000 (1.000 to 1.000)" in lines[2]
    assert lines[-1] == "grading took 6.0 s of one CPU, $0.0060 at $3.6 an hour"


def test_agreement_is_over_what_both_have_graded(tmp_path: Path) -> None:
    recorded = [
        {"query_id": f"q{n}", "model": "v/m", "grade": grade, "grader": "theirs"}
        for n, grade in enumerate([1.0, 0.0, 1.0, None])
    ]
    path = tmp_path / "recorded.parquet"
    pq.write_table(pa.Table.from_pylist(recorded, schema=GRADED_OUTCOMES), path)

    (line,) = agreement(graded(1.0, 0.0, 0.0, 1.0, 1.0), str(path))

    assert "66.7 %" in line
    assert "of 3 grades, 1 differ; Cohen's kappa 0.400" in line
    with pytest.raises(ConfigError, match="cannot be read"):
        agreement(graded(1.0), str(tmp_path / "nowhere.parquet"))


def test_grades_that_are_all_right_say_nothing_beyond_chance(tmp_path: Path) -> None:
    recorded = [
        {"query_id": f"q{n}", "model": "v/m", "grade": 1.0, "grader": "theirs"} for n in range(3)
    ]
    path = tmp_path / "recorded.parquet"
    pq.write_table(pa.Table.from_pylist(recorded, schema=GRADED_OUTCOMES), path)

    (line,) = agreement(graded(1.0, 1.0, 1.0), str(path))

    assert "100.0 %" in line
    assert "Cohen's kappa cannot be told" in line
