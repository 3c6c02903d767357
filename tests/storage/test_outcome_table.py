from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from moa.errors import ConfigError
from moa.schema import LOGGED_GRADES, LOGGED_QUERIES
from moa.storage.object_store import Folder
from moa.storage.outcome_table import (
    GRADES,
    HELD_OUT,
    NEITHER,
    QUERIES,
    TRAIN,
    Night,
    OutcomeTable,
    latest,
    read_log,
)

MONDAY = Night("mon", datetime(2026, 11, 23, tzinfo=UTC))
TUESDAY = Night("tue", datetime(2026, 11, 24, tzinfo=UTC))
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALIKE = [f"Why is the sky over the old harbour of {name} so red at night" for name in ("A", "B")]


def queries(night: Night, prompts: list[str]) -> pa.Table:
    rows = [
        {
            "query_id": f"{night.run_id}/q{n}", "prompt": prompt, "source": "s", "tags": ["s"],
            "run_id": night.run_id,
        }
        for n, prompt in enumerate(prompts)
    ]  # fmt: skip
    names = ("query_id", "prompt", "source", "tags", "run_id")
    return pa.Table.from_pylist(rows, schema=pa.schema([LOGGED_QUERIES.field(n) for n in names]))


def grades(night: Night, values: list[float | None], **fields: object) -> pa.Table:
    rows = [
        {
            "query_id": f"{night.run_id}/q{n}", "model": "v/m", "grade": value, "grader": "exact/1",
            "propensity": 1.0, "rule": "best_value", "router_version": "r", "graded_at": NOON,
            "run_id": night.run_id, "cost_usd": Decimal("0.25"), **fields,
        }
        for n, value in enumerate(values)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=LOGGED_GRADES)


def write(url: str, night: Night, prompts: list[str], share: float = 0.5) -> None:
    OutcomeTable(url).write(
        night, queries(night, prompts), grades(night, [1.0] * len(prompts)), held_out_share=share
    )


def placed(url: str) -> dict[str, tuple[str, str]]:
    """Prompt → group and side."""
    rows = read_log(Folder(url), QUERIES).to_pylist()
    return {row["prompt"]: (row["duplicate_group"], row["split"]) for row in rows}


def test_nights_are_one_table_for_duckdb_polars_and_pandas(tmp_path: Path) -> None:
    write(str(tmp_path), MONDAY, ["What is love", "What is hate"])
    write(str(tmp_path), TUESDAY, ["What is hope"])

    pandas = importlib.import_module("pandas")  # has no types of its own
    joined = duckdb.sql(
        f"SELECT q.date, count(*), sum(g.grade), sum(g.cost_usd) "
        f"FROM read_parquet('{tmp_path}/{QUERIES}/*/*.parquet', hive_partitioning=true) q "
        f"JOIN read_parquet('{tmp_path}/{GRADES}/*/*.parquet') g USING (query_id) "
        f"GROUP BY q.date ORDER BY q.date"
    )
    assert joined is not None
    lazy = pl.scan_parquet(f"{tmp_path}/{GRADES}/**/*.parquet", hive_partitioning=True)
    by_date = lazy.group_by("date").agg(pl.len()).sort("date").collect()
    frame = pandas.read_parquet(tmp_path / GRADES)

    days = [MONDAY.day, TUESDAY.day]
    assert joined.fetchall() == [
        (days[0], 2, 2.0, Decimal("0.5")),
        (days[1], 1, 1.0, Decimal("0.25")),
    ]
    assert by_date.rows() == [(days[0], 2), (days[1], 1)]
    assert frame["grade"].tolist() == [1.0, 1.0, 1.0]
    assert sorted(frame["date"].astype(str).unique()) == [str(day) for day in days]


def test_a_night_that_is_graded_again_replaces_its_own_rows(tmp_path: Path) -> None:
    write(str(tmp_path), MONDAY, ["What is love", "What is hate"])
    write(str(tmp_path), TUESDAY, ["What is hope"])

    write(str(tmp_path), MONDAY, ["What is love"])

    assert sorted(placed(str(tmp_path))) == ["What is hope", "What is love"]
    assert len(read_log(Folder(str(tmp_path)), GRADES)) == 2


def test_near_duplicates_of_other_nights_are_on_one_side(tmp_path: Path) -> None:
    for n in range(20):
        write(str(tmp_path / str(n)), MONDAY, [f"{ALIKE[0]} {n}"])
        write(str(tmp_path / str(n)), TUESDAY, [f"{ALIKE[0]} {n} now"])

    found = [list(placed(str(tmp_path / str(n))).values()) for n in range(20)]
    assert all(first == second for first, second in found)
    assert {side for pair in found for _, side in pair} == {TRAIN, HELD_OUT}


def test_no_query_ever_changes_its_side(tmp_path: Path) -> None:
    prompts = [f"What is the {n} th wonder of the world called {n * n}" for n in range(60)]
    write(str(tmp_path), MONDAY, prompts[:30])
    before = placed(str(tmp_path))

    write(str(tmp_path), TUESDAY, prompts[20:], share=0.9)
    write(str(tmp_path), MONDAY, prompts[:30][::-1], share=0.9)

    after = placed(str(tmp_path))
    assert {prompt: after[prompt] for prompt in before} == before
    assert {side for _, side in before.values()} == {TRAIN, HELD_OUT}


def test_a_query_between_both_sides_is_on_neither(tmp_path: Path) -> None:
    table = OutcomeTable(str(tmp_path))
    for night, prompt, share in ((MONDAY, "today", 0.0), (TUESDAY, "now", 0.99)):
        base = f"Tell us in a few plain words why the sky over the old harbour is so red {prompt}"
        rows = queries(night, [base]).append_column(
            "split", pa.array([TRAIN if share == 0 else HELD_OUT])
        )
        rows = rows.append_column("duplicate_group", pa.array([night.run_id]))
        table.folder.put_table(f"{QUERIES}/{night.name}", rows.select(LOGGED_QUERIES.names))

    between = "Tell us in a few plain words why the sky over the old harbour is so red"
    write(str(tmp_path), Night("wed", datetime(2026, 11, 25, tzinfo=UTC)), [between])

    assert placed(str(tmp_path))[between][1] == NEITHER


def test_a_table_in_a_bucket_is_as_one_on_a_disk(object_store: str, tmp_path: Path) -> None:
    for url in (f"{object_store}/table", str(tmp_path)):
        write(url, MONDAY, [*ALIKE, "What is love"])
        write(url, TUESDAY, ["What is hope"])

    assert placed(f"{object_store}/table") == placed(str(tmp_path))
    in_bucket = read_log(Folder(f"{object_store}/table"), GRADES, ["query_id", "grade"])
    assert in_bucket.equals(read_log(Folder(str(tmp_path)), GRADES, ["query_id", "grade"]))


def test_the_latest_grade_of_a_query_model_and_grader_counts() -> None:
    later = NOON + timedelta(hours=1)
    table = pa.concat_tables(
        [
            grades(MONDAY, [0.0, None], graded_at=later),
            grades(MONDAY, [1.0, 1.0]),
            grades(MONDAY, [0.5, 0.5], grader="judge/1"),
        ]
    )

    found = latest(table, ["query_id", "model", "grader"]).to_pylist()

    kept = {(row["query_id"], row["grader"]): row["grade"] for row in found}
    assert kept == {
        ("mon/q0", "exact/1"): 0.0, ("mon/q1", "exact/1"): None,
        ("mon/q0", "judge/1"): 0.5, ("mon/q1", "judge/1"): 0.5,
    }  # fmt: skip


def test_what_is_not_there_or_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / QUERIES).write_bytes(b"no parquet")

    with pytest.raises(ConfigError, match=r"queries\.parquet is no Parquet file"):
        read_log(Folder(str(tmp_path)), QUERIES)
    with pytest.raises(ConfigError, match=r"graded_outcomes\.parquet is not there"):
        read_log(Folder(str(tmp_path)), GRADES)


@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(days=1)])
def test_another_run_with_the_same_id_replaces_nothing(tmp_path: Path, later: timedelta) -> None:
    write(str(tmp_path), MONDAY, ["of the first run"])

    with pytest.raises(ConfigError, match="has another run 'mon', which began at 2026-11-23T00:00"):
        write(str(tmp_path), Night("mon", MONDAY.began + later), ["of the second"])

    assert read_log(Folder(str(tmp_path)), QUERIES)["prompt"].to_pylist() == ["of the first run"]
