from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from moa.storage.duplicates import (
    CLASH,
    DUPLICATES,
    FOLLOWER,
    LEADER,
    RENAMED,
    SUSPECTS,
    TWIN,
    Found,
    Look,
    among,
    find_duplicates,
    generated_id,
    hashes,
    repeated,
)

Log = list[list[tuple[str, str]]]
LOGS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c", "#0:1"]), st.sampled_from(["", *"xyz"])),
        max_size=6,
    ),
    min_size=1,
    max_size=4,
)
"""Partitions of (id, request); "" is a row without one. A row without an id is no request."""


def look(rows: Sequence[tuple[str, str]], number: int, *, dedupe: bool) -> Look:
    names = [name or generated_id(number, row) for row, (name, _) in enumerate(rows)]
    requests = [request for name, request in rows if name and request] if dedupe else []
    return Look(len(rows), np.sort(hashes(names)), np.sort(hashes(requests)))


def found(log: Log, *, dedupe: bool) -> Found:
    """Every row is a suspect: what is no duplicate must not be found to be one."""
    suspects = [
        {
            "partition": number,
            "row": row,
            "query_id": name or generated_id(number, row),
            "nameless": not name,
            "request": xxhash.xxh3_128_digest(request.encode()) if name and request else None,
            "tags": [f"{number}:{row}"],
            "reference": request,
        }
        for number, rows in enumerate(log)
        for row, (name, request) in enumerate(rows)
    ]
    looks = [look(rows, number, dedupe=dedupe) for number, rows in enumerate(log)]
    return find_duplicates(looks, pa.Table.from_pylist(suspects, schema=SUSPECTS), dedupe=dedupe)


def expected(log: Log, *, dedupe: bool) -> list[dict[str, Any]]:
    """The same by dictionaries, one row after the other."""
    by_id: dict[str, str] = {}
    by_request: dict[str, dict[str, Any]] = {}
    marks: list[dict[str, Any]] = []
    for n, rows in enumerate(log):
        for row, (name, request) in enumerate(rows):
            mark: dict[str, Any] = {"partition": n, "row": row, "kind": None}
            mark |= {"query_id": None, "followers": []}
            marks.append(mark)
            if not name:
                if any(generated_id(n, row) == other for rows in log for other, _ in rows):
                    mark |= {"kind": RENAMED, "query_id": generated_id(n, row) + "+"}
            elif name in by_id:
                mark["kind"] = TWIN if request and request == by_id[name] else CLASH
                if mark["kind"] == CLASH:
                    mark["query_id"] = name + generated_id(n, row)
            else:
                by_id[name] = request
                if dedupe and request in by_request:
                    mark["kind"] = FOLLOWER
                    leader = by_request[request]
                    leader["kind"] = LEADER
                    told = {"query_id": name, "tags": [f"{n}:{row}"], "reference": request}
                    leader["followers"].append(told)
                elif request:
                    by_request[request] = mark
    return [mark for mark in marks if mark["kind"]]


@given(LOGS, st.booleans())
def test_the_duplicates_are_those_that_a_dictionary_finds(log: Log, dedupe: bool) -> None:
    result = found(log, dedupe=dedupe)

    wanted = expected(log, dedupe=dedupe)
    gone = sum(mark["kind"] in (TWIN, FOLLOWER) for mark in wanted)
    assert result.duplicates.schema.equals(DUPLICATES)
    assert result.duplicates.to_pylist() == wanted
    assert result.rows == sum(map(len, log))
    assert result.queries == result.rows - gone


def test_a_name_is_made_longer_until_no_row_has_it() -> None:
    log = [[("a", "x"), ("a", "y"), ("a#0:1", "x"), ("a#0:1+", "x")]]

    (clash,) = found(log, dedupe=False).duplicates.to_pylist()

    assert clash["query_id"] == "a#0:1++"


@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3)), min_size=1))
def test_what_occurs_more_than_once_is_found_wherever_it_is(parts: list[list[int]]) -> None:
    looks = [
        Look(len(part), np.sort(np.array(part, np.uint64)), np.empty(0, np.uint64))
        for part in parts
    ]

    twice = repeated(looks)

    values = [value for part in parts for value in part]
    assert twice.ids.tolist() == sorted({v for v in values if values.count(v) > 1})
    assert [twice.any_in(one) for one in looks] == [
        any(values.count(v) > 1 for v in part) for part in parts
    ]


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_among_is_what_in_says(values: list[int], known: set[int]) -> None:
    mask = among(np.array(values, np.uint64), np.array(sorted(known), np.uint64))

    assert mask.tolist() == [value in known for value in values]
