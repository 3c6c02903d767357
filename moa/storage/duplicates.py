"""Which rows of a backlog another row answers for, found before the first call.

Two looks. The first knows of each row 64 bits of its id, and with `dedupe` 64 of its request: the
driver holds these of the whole backlog and finds the values that occur more than once. Only rows
with such a value are looked at again, with their ids and 128 bits of their requests. Of equal rows
the first in the backlog's order stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from moa.schema import FOLLOWERS, STRINGS

TWIN = "twin"
"""Same id, same request: the row is an earlier one again, and is left out."""
CLASH = "clash"
"""Same id, another request: the row becomes a dead letter under an id of its own."""
LEADER = "leader"
"""Other rows ask the same: its answer is theirs."""
FOLLOWER = "follower"
"""Another id, the same request (`dedupe = true`): answered by its leader's call."""
RENAMED = "renamed"
"""A row without an id, whose generated one is another row's real one."""

DUPLICATES = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        # Of a clash or a renamed row: the id that it goes under.
        pa.field("query_id", pa.string()),
        # Of a leader.
        pa.field("followers", FOLLOWERS, nullable=False),
    ]
)
"""One row per row of the backlog that is not plainly itself; ordered by partition and row."""

SUSPECTS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        # The row has no id: `query_id` is `generated_id`.
        pa.field("nameless", pa.bool_(), nullable=False),
        # xxh3-128 of what is asked; null where the row is no request.
        pa.field("request", pa.binary(16)),
        pa.field("tags", STRINGS, nullable=False),
        pa.field("reference", pa.string()),
    ]
)
"""Rows whose id or request occurs more than once, by 64 bits: perhaps equal to another row."""

Hashes = NDArray[np.uint64]
_SLICES = 16
"""Of the range of hashes, compared one after the other: the driver sorts so much at once."""


class Look(NamedTuple):
    """The first look at a partition; hashes are sorted."""

    rows: int
    ids: Hashes
    """Of every row; of one without an id, of its generated one."""
    requests: Hashes
    """Of the rows that are requests; none where `dedupe` is off."""


class Repeated(NamedTuple):
    """Hashes that occur more than once in a backlog, sorted."""

    ids: Hashes
    requests: Hashes

    def any_in(self, look: Look) -> bool:
        """Whether a partition has a row with one of them."""
        return bool(among(look.ids, self.ids).any() or among(look.requests, self.requests).any())


class Found(NamedTuple):
    """What a backlog holds."""

    rows: int
    """Of the query log."""
    queries: int
    """Rows that are decided on: the log's, less those that an equal one answers for."""
    duplicates: pa.Table
    """`DUPLICATES`."""


def generated_id(partition: int, row: int) -> str:
    """What a row without an id is called."""
    return f"#{partition}:{row}"


def hashes(texts: Iterable[str]) -> Hashes:
    """xxh3-64 of each text."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text.encode()) for text in texts), np.uint64)


def among(values: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which of some values are among the known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(known, values)
    return np.asarray(known[np.minimum(places, len(known) - 1)] == values)


def repeated(looks: Sequence[Look]) -> Repeated:
    """Compare all rows of a backlog; more memory than the looks have is needed for a slice only."""
    return Repeated(
        _repeated([look.ids for look in looks]), _repeated([look.requests for look in looks])
    )


def _repeated(parts: Sequence[Hashes]) -> Hashes:
    bounds = np.linspace(0, 2.0**64, _SLICES + 1)[1:-1].astype(np.uint64)
    cuts = [[0, *np.searchsorted(part, bounds), len(part)] for part in parts]
    found = []
    for n in range(_SLICES):
        values = np.concatenate(
            [part[cut[n] : cut[n + 1]] for part, cut in zip(parts, cuts, strict=True)]
        )
        values.sort()
        found.append(np.unique(values[1:][values[1:] == values[:-1]]))
    return np.concatenate(found)


def find_duplicates(looks: Sequence[Look], suspects: pa.Table, *, dedupe: bool) -> Found:
    """Compare the rows that may be equal to another one.

    Args:
        looks: at all partitions of the backlog.
        suspects: `SUSPECTS` of the whole backlog, ordered by partition and row.
        dedupe: whether rows with equal requests and different ids share an answer.
    """
    count = suspects.num_rows
    place = np.arange(count)
    ids, requests = _codes(suspects, "query_id"), _codes(suspects, "request")
    nameless = _numpy(suspects, "nameless").astype(bool)
    first = _first_equal(np.where(nameless, -1 - place, ids))
    again = first != place
    twin = again & (requests >= 0) & (requests == requests[first])
    kinds = np.full(count, None, object)
    kinds[again] = CLASH
    kinds[twin] = TWIN
    kinds[nameless & np.isin(ids, ids[~nameless])] = RENAMED
    leaders = place
    if dedupe:
        plain = ~again & (requests >= 0)
        leaders = np.where(plain, _first_equal(np.where(plain, requests, -1 - place)), place)
        kinds[leaders[leaders != place]] = LEADER
        kinds[leaders != place] = FOLLOWER
    gone = int(((kinds == TWIN) | (kinds == FOLLOWER)).sum())
    rows = sum(look.rows for look in looks)
    return Found(rows, rows - gone, _table(suspects, kinds, leaders, looks))


def _numpy(table: pa.Table, name: str) -> NDArray[np.generic]:
    return np.asarray(table.column(name).to_numpy())


def _codes(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A number for each value, equal for equal ones; -1 for null."""
    encoded = table.column(name).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _first_equal(values: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each value, the index of the first equal one."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.intp)


def _table(
    suspects: pa.Table,
    kinds: NDArray[np.object_],
    leaders: NDArray[np.intp],
    looks: Sequence[Look],
) -> pa.Table:
    """`DUPLICATES`, of the suspects that have a kind."""
    place = np.arange(len(kinds))
    marked = np.flatnonzero(kinds != None)  # noqa: E711  elementwise
    following = np.flatnonzero(leaders != place)
    following = following[np.argsort(leaders[following], kind="stable")]
    counts = np.bincount(leaders[following], minlength=len(kinds))[marked]
    told = suspects.select(FOLLOWERS.value_type.names).take(pa.array(following))
    names = suspects.select(["partition", "row", "query_id"]).take(pa.array(marked))
    table = names.select(["partition", "row"])
    columns = {
        "kind": pa.array(kinds[marked], pa.string()),
        "query_id": pa.array(_names(names, kinds[marked], looks), pa.string()),
        "followers": _lists(told, counts),
    }
    for name, column in columns.items():
        table = table.append_column(DUPLICATES.field(name), column)
    return table


def _lists(told: pa.Table, counts: NDArray[np.intp]) -> pa.ListArray:
    """Consecutive rows as lists of so many."""
    kind = FOLLOWERS.value_type
    children = [told.column(field.name).combine_chunks() for field in kind]
    children = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in children]
    structs = pa.StructArray.from_arrays(children, fields=list(kind))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs)


def _names(
    rows: pa.Table, kinds: NDArray[np.object_], looks: Sequence[Look]
) -> NDArray[np.object_]:
    """An id that no other row has, for the rows that cannot go under their own."""
    names = np.full(len(kinds), None, object)
    again = np.flatnonzero((kinds == CLASH) | (kinds == RENAMED))
    for place, row in zip(again.tolist(), rows.take(pa.array(again)).to_pylist(), strict=True):
        suffix = generated_id(row["partition"], row["row"]) if kinds[place] == CLASH else ""
        names[place] = row["query_id"] + suffix
    while len(again := again[_taken(names[again], looks)]):
        names[again] += "+"
    return names


def _taken(names: Iterable[str], looks: Sequence[Look]) -> NDArray[np.bool_]:
    """Which of the names are those of rows of the backlog, by their hashes."""
    hashed = hashes(names)
    taken = np.zeros(len(hashed), np.bool_)
    for look in looks:
        taken |= among(hashed, look.ids)
    return taken
