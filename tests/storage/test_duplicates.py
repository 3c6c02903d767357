from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from moa.config import QueryLogConfig
from moa.storage.duplicates import CLASH, FOLLOWER, LEADER, TWIN, Found, Scan, find_duplicates
from moa.storage.duplicates import hashes as hashed
from moa.storage.prepare import prepare
from moa.storage.query_log import find_partitions, read_partition
from moa.storage.scan import scan

LOGS = st.lists(
    st.lists(st.tuples(st.sampled_from(["", *"abcd"]), st.sampled_from(["", *"xyz"])), max_size=6),
    min_size=1,
    max_size=4,
)
"""Partitions of (id, request); "" is a row without one. A row without an id is no request."""


def found(log: list[list[tuple[str, str]]], *, dedupe: bool) -> Found:
    scans = [
        Scan(
            number,
            hashed(name for name, _ in rows),
            hashed(request if name else "" for name, request in rows),
            pa.array([name for name, _ in rows], pa.string()),
        )
        for number, rows in enumerate(log)
    ]
    return find_duplicates(scans, dedupe=dedupe)


@given(LOGS, st.booleans())
def test_every_row_has_its_outcome_or_an_equal_row_that_has(
    log: list[list[tuple[str, str]]], dedupe: bool
) -> None:
    result = found(log, dedupe=dedupe)

    marks = {(m["partition"], m["row"]): m for m in result.duplicates.to_pylist()}
    answered: Counter[str] = Counter()
    for n, rows in enumerate(log):
        for row, (name, request) in enumerate(rows):
            mark = marks.get((n, row), {"kind": None, "followers": []})
            if mark["kind"] in (None, LEADER):
                answered.update([name or f"#{n}:{row}", *mark["followers"]])
            elif mark["kind"] == CLASH:
                answered[f"{name}#{n}:{row}"] += 1
            assert mark["kind"] != TWIN or request
            assert mark["kind"] != FOLLOWER or (dedupe and request)
    names = {name for rows in log for name, _ in rows if name}
    assert set(answered.values()) <= {1}
    assert names <= answered.keys()
    assert result.rows == sum(map(len, log))
    followers = sum(len(m["followers"]) for m in marks.values())
    assert result.queries == sum(answered.values()) - followers


@given(LOGS)
def test_without_dedupe_only_equal_ids_matter(log: list[list[tuple[str, str]]]) -> None:
    first: dict[str, str] = {}
    expected = []
    for n, rows in enumerate(log):
        for row, (name, request) in enumerate(rows):
            if not name:
                continue
            if name in first:
                twin = request and request == first[name]
                expected.append((n, row, TWIN if twin else CLASH))
            first.setdefault(name, request)

    marks = found(log, dedupe=False).duplicates.to_pylist()

    assert [(m["partition"], m["row"], m["kind"]) for m in marks] == expected


def test_equal_requests_share_an_answer_only_when_the_same_models_may_give_it(
    tmp_path: Path,
) -> None:
    table = pa.table(
        {
            "query_id": list("abcd"),
            "prompt": ["Hi"] * 4,
            "allowed_models": [["m", "n"], ["n", "m"], ["m"], None],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=1)
    log = QueryLogConfig(path=str(tmp_path), dedupe=True)

    result = find_duplicates((scan(p, log) for p in find_partitions(log)), dedupe=True)

    assert result.duplicates.to_pylist() == [
        {"partition": 0, "row": 0, "kind": LEADER, "followers": ["b"]},
        {"partition": 1, "row": 0, "kind": FOLLOWER, "followers": []},
    ]
    assert (result.rows, result.queries) == (4, 3)


def test_a_scan_does_not_depend_on_how_a_file_was_cut(tmp_path: Path) -> None:
    table = pa.table({"query_id": list(range(5000)), "prompt": [f"p{n % 7}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "log.parquet")
    log = QueryLogConfig(path=str(tmp_path), dedupe=True)
    (partition,) = find_partitions(log)

    whole = scan(partition, log)
    result = find_duplicates([whole], dedupe=True)
    kept = [
        prepare(part, 0, result.duplicates)
        for part in read_partition(partition, log, batch_rows=333)
    ]

    assert np.array_equal(whole.ids, hashed(str(n) for n in range(5000)))
    assert sum(k.num_rows for k in kept) == 7 == result.queries
    assert sum(len(f) for k in kept for f in k.column("followers").to_pylist()) == 4993
