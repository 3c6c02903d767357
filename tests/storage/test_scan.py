from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.config import QueryLogConfig
from moa.errors import ConfigError
from moa.storage.duplicates import CLASH, FOLLOWER, LEADER, TWIN, Found
from moa.storage.prepare import prepare
from moa.storage.query_log import find_backlog, read_partition
from moa.storage.scan import look, scan

Row = tuple[str | None, str | None]
IDS = st.sampled_from([None, "", " ", "a", "b", "c", "#0:1"])
PROMPTS = st.sampled_from([None, "x", "y"])
LOGS = st.lists(st.lists(st.tuples(IDS, PROMPTS), min_size=1, max_size=5), min_size=1, max_size=3)
"""Files of (id, prompt)."""


def write(folder: Path, files: list[list[Row]], ending: str) -> None:
    for n, rows in enumerate(files):
        if ending == "parquet":
            ids, prompts = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
            tags = [[f"{n}:{row}"] for row in range(len(rows))]
            table = pa.table({"query_id": ids, "prompt": prompts, "tags": tags})
            pq.write_table(table, folder / f"{n}.parquet")
        else:
            lines = (
                orjson.dumps(
                    {
                        "custom_id": name,
                        "body": {"messages": [{"role": "user", "content": prompt or ""}]},
                    }
                )
                for name, prompt in rows
            )
            (folder / f"{n}.jsonl").write_bytes(b"\n".join(lines))


def scanned(log: QueryLogConfig) -> tuple[Found, list[dict[str, Any]]]:
    """What the scan finds, and the prepared rows."""
    partitions = find_backlog(log).partitions
    found = scan(partitions, log)
    rows: list[dict[str, Any]] = []
    for partition in partitions:
        marks = found.duplicates.filter(
            pa.compute.equal(found.duplicates["partition"], partition.number)
        )
        for table in read_partition(partition, log, batch_rows=2):
            rows += prepare(table, partition.number, marks).to_pylist()
    return found, rows


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@given(files=LOGS, dedupe=st.booleans())
def test_every_row_has_one_outcome_or_an_equal_row_that_has(
    tmp_path_factory: pytest.TempPathFactory, ending: str, files: list[list[Row]], dedupe: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    write(folder, files, ending)

    found, rows = scanned(QueryLogConfig(path=str(folder), dedupe=dedupe))

    names = [row["query_id"] for row in rows]
    names += [one["query_id"] for row in rows for one in row["followers"]]
    given_ids = {name for file in files for name, _ in file if name and name.strip()}
    asked = [(row["request"], tuple(row["tags"])) for row in rows if not row["defect"]]
    kinds = Counter(found.duplicates["kind"].to_pylist())
    assert found.rows == sum(map(len, files))
    assert found.queries == len(rows)
    assert len(set(names)) == len(names) == found.rows - kinds[TWIN]
    assert given_ids <= set(names)
    assert not dedupe or len({request for request, _ in asked}) == len(asked)


def test_equal_requests_share_an_answer_only_when_the_same_models_may_give_it(
    tmp_path: Path,
) -> None:
    table = pa.table(
        {
            "query_id": list("abcdef"),
            "prompt": ["Hi"] * 6,
            "allowed_models": [["m", "n"], ["n", "m"], ["m"], None, [], None],
            "tags": [["1"], ["2"], None, None, None, ["6"]],
            "reference": ["one", "two", None, None, None, None],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=1)

    found, rows = scanned(QueryLogConfig(path=str(tmp_path), dedupe=True))

    kinds = dict(zip(*found.duplicates.select(["partition", "kind"]).columns, strict=True))
    assert {n.as_py(): kind.as_py() for n, kind in kinds.items()} == {
        0: LEADER, 1: FOLLOWER, 3: LEADER, 5: FOLLOWER,
    }  # fmt: skip
    assert rows[0]["followers"] == [{"query_id": "b", "tags": ["2"], "reference": "two"}]
    assert [row["query_id"] for row in rows] == ["a", "c", "d", "e"]
    assert (found.rows, found.queries) == (6, 4)


def test_equal_requests_share_an_answer_only_when_it_may_be_bought_alike_and_is_as_good(
    tmp_path: Path,
) -> None:
    lanes = [["live", "flex"], ["flex", "live", "flex"], None, [], None, None, None, None]
    least = [None, float("nan"), 0.7, None, 0.7, 0.8, None, 0.0]
    table = pa.table({"query_id": list("abcdefgh"), "prompt": ["Hi"] * 8})
    table = table.append_column("allowed_lanes", pa.array(lanes))
    table = table.append_column("min_grade", pa.array(least))
    single = pa.table(
        {"query_id": ["i"], "prompt": ["Hi"], "min_grade": pa.array([0.7], pa.float32())}
    )
    pq.write_table(table, tmp_path / "1.parquet")
    pq.write_table(single, tmp_path / "2.parquet")

    _, rows = scanned(QueryLogConfig(path=str(tmp_path), dedupe=True))

    followers = {row["query_id"]: [one["query_id"] for one in row["followers"]] for row in rows}
    assert followers == {"a": ["b"], "c": ["e", "i"], "d": [], "f": [], "g": [], "h": []}


def test_an_id_that_asks_the_same_of_a_better_model_clashes(tmp_path: Path) -> None:
    table = pa.table({"query_id": ["a"] * 3, "prompt": ["Hi"] * 3, "min_grade": [0.5, 0.6, 0.5]})
    pq.write_table(table, tmp_path / "log.parquet")

    found, rows = scanned(QueryLogConfig(path=str(tmp_path)))

    assert found.duplicates["kind"].to_pylist() == [CLASH, TWIN]
    assert [row["defect"] is None for row in rows] == [True, False]


def test_a_scan_does_not_depend_on_how_a_file_was_cut(tmp_path: Path) -> None:
    table = pa.table({"query_id": list(range(5000)), "prompt": [f"p{n % 7}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "log.parquet")
    log = QueryLogConfig(path=str(tmp_path), dedupe=True)
    (partition,) = find_backlog(log).partitions

    found = scan([partition], log)
    kept = [
        prepare(part, 0, found.duplicates)
        for part in read_partition(partition, log, batch_rows=333)
    ]

    assert sum(k.num_rows for k in kept) == 7 == found.queries
    assert sum(len(f) for k in kept for f in k.column("followers").to_pylist()) == 4993


def test_an_id_that_was_seen_before_is_a_clash_wherever_it_was_seen(tmp_path: Path) -> None:
    write(tmp_path, [[("a", "x")], [("b", "y"), ("a", "y")], [("a", "x")]], "parquet")

    found, rows = scanned(QueryLogConfig(path=str(tmp_path)))

    assert found.duplicates.select(["partition", "row", "kind", "query_id"]).to_pylist() == [
        {"partition": 1, "row": 1, "kind": CLASH, "query_id": "a#1:1"},
        {"partition": 2, "row": 0, "kind": TWIN, "query_id": None},
    ]
    assert [row["query_id"] for row in rows] == ["a", "b", "a#1:1"]


def test_a_first_look_keeps_eight_bytes_a_row_and_sixteen_to_find_equal_requests(
    tmp_path: Path,
) -> None:
    write(tmp_path, [[(f"q{n}", "x") for n in range(1000)]], "parquet")
    (partition,) = find_backlog(QueryLogConfig(path=str(tmp_path))).partitions

    sizes = [
        sum(values.nbytes for values in one[1:])
        for dedupe in (False, True)
        for one in [look(partition, QueryLogConfig(path=str(tmp_path), dedupe=dedupe))]
    ]

    assert sizes == [8000, 16000]


def test_a_backlog_without_a_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    log = QueryLogConfig(path=str(tmp_path))

    with pytest.raises(ConfigError, match="holds no rows"):
        scan(find_backlog(log).partitions, log)
