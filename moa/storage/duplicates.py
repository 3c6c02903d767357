"""Which rows of a backlog another row answers for, found before the first call.

An id and a request are known by 128-bit hashes, 32 bytes a row with them; the driver holds these of
the whole backlog while it looks. Of equal rows the first in the backlog's order stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

TWIN = "twin"
"""Same id, same request: the row is an earlier one again, and is left out."""
CLASH = "clash"
"""Same id, another request: the row becomes a dead letter under an id of its own."""
LEADER = "leader"
"""Other rows ask the same: its answer is theirs."""
FOLLOWER = "follower"
"""Another id, the same request (`dedupe = true`): answered by its leader's call."""

DUPLICATES = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        # Of a leader: the ids of its followers.
        pa.field("followers", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per row of the backlog that is not plainly itself; ordered by partition and row."""

Hashes = NDArray[np.bytes_]
_HASH = np.dtype("S16")


@dataclass(frozen=True, slots=True)
class Scan:
    """One partition, read once."""

    partition: int
    ids: Hashes
    """Shape (rows,)."""
    requests: Hashes
    """Shape (rows,); all zero where the row is no request."""
    names: pa.Array | None
    """The ids themselves, where followers are looked for."""


class Found(NamedTuple):
    """What a backlog holds."""

    rows: int
    """Of the query log."""
    queries: int
    """Rows that are decided on: the log's, less those that an equal one answers for."""
    duplicates: pa.Table
    """`DUPLICATES`."""


def hashes(texts: Iterable[str]) -> Hashes:
    """xxh3-128 of each text, as 16 bytes; zero of an empty one."""
    digest = xxhash.xxh3_128_digest
    joined = b"".join(digest(text.encode()) if text else bytes(16) for text in texts)
    return np.frombuffer(joined, _HASH)


def find_duplicates(scans: Iterable[Scan], *, dedupe: bool) -> Found:
    """Compare all rows of a backlog.

    Args:
        scans: of its partitions, in order.
        dedupe: whether rows with equal requests and different ids share an answer.
    """
    held = list(scans)
    ids = np.concatenate([scan.ids for scan in held])
    requests = np.concatenate([scan.requests for scan in held])
    first = _first_equal(ids)
    again = np.flatnonzero((first != np.arange(len(ids))) & (ids != b""))
    equal = (requests[again] == requests[first[again]]) & (requests[again] != b"")
    kinds: dict[int, str] = dict.fromkeys(again[equal].tolist(), TWIN)
    kinds |= dict.fromkeys(again[~equal].tolist(), CLASH)
    followers: dict[int, list[str]] = {}
    if dedupe:
        followers = _followers(held, requests, np.setdiff1d(np.arange(len(ids)), again), kinds)
    gone = sum(kind in (TWIN, FOLLOWER) for kind in kinds.values())
    return Found(len(ids), len(ids) - gone, _table(held, kinds, followers))


def _first_equal(values: Hashes) -> NDArray[np.intp]:
    """For each value, the index of the first equal one."""
    if not len(values):
        return np.empty(0, np.intp)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    first = np.empty(len(values), np.intp)
    first[order] = np.repeat(order[starts], lengths)
    return first


def _followers(
    scans: list[Scan], requests: Hashes, plain: NDArray[np.intp], kinds: dict[int, str]
) -> dict[int, list[str]]:
    """Mark leaders and followers among rows that have their id for themselves."""
    able = plain[requests[plain] != b""]
    leaders = able[_first_equal(requests[able])]
    following = np.flatnonzero(leaders != able)
    offsets = np.cumsum([0, *(len(scan.ids) for scan in scans)])
    followers: dict[int, list[str]] = {}
    for leader, row in zip(leaders[following].tolist(), able[following].tolist(), strict=True):
        kinds[row] = FOLLOWER
        kinds[leader] = LEADER
        scan = int(np.searchsorted(offsets, row, side="right")) - 1
        names = scans[scan].names
        assert names is not None
        followers.setdefault(leader, []).append(names[row - int(offsets[scan])].as_py())
    return followers


def _table(scans: list[Scan], kinds: dict[int, str], followers: dict[int, list[str]]) -> pa.Table:
    offsets = np.cumsum([0, *(len(scan.ids) for scan in scans)])
    rows = np.array(sorted(kinds), np.int64)
    scan = np.searchsorted(offsets, rows, side="right") - 1
    partitions = np.array([scan.partition for scan in scans], np.int32)
    return pa.table(
        {
            "partition": partitions[scan],
            "row": rows - offsets[scan],
            "kind": [kinds[row] for row in rows.tolist()],
            "followers": [followers.get(row, []) for row in rows.tolist()],
        },
        schema=DUPLICATES,
    )
