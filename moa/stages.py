"""Read, score, decide: plain callables from table to table, which the pipeline hands to Ray Data.

Between these stages a *part* travels as one row of `PACKED`: Ray may put rows together as it
likes, but it cannot cut one. So the same rows always make the same parts, and a part that has been
decided is known by its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import structlog

from moa.config import QueryLogConfig, RouterConfig
from moa.decisions.decided import decided_in
from moa.decisions.deciding import Deciding, letters, live_lanes, per_model
from moa.dispatch.outcome import DeadLetter
from moa.dispatch.piece import write_settled
from moa.errors import EngineError
from moa.router.router import Router
from moa.schema import (
    PARTS,
    QUERIES,
    SCORED_PARTS,
    SCORED_QUERIES,
    agree,
)
from moa.storage.prepare import prepare, prepared_again
from moa.storage.query_log import Partition, read_partition
from moa.storage.run_folder import NOBODY, PartName, PieceName, RunFolder
from moa.storage.shadow_folder import ShadowFolder

ENGINE_FAILED = 70
"""Exit status of a process whose engine has failed."""
READ_ROWS = 1000
PART_BYTES = 32 << 20
"""A part is closed early when its requests reach this size: long prompts must not fill memory."""

log = structlog.get_logger()


def pack(part: PartName, table: pa.Table, router_s: float = 0.0) -> pa.Table:
    """A part as one row: its name, its rows, and the seconds the router worked on it."""
    rows = table.combine_chunks().to_struct_array()
    if isinstance(rows, pa.ChunkedArray):
        rows = rows.combine_chunks()
    offsets = pa.array([0, len(rows)], pa.int32())
    return pa.table(
        {
            "part": [str(part)],
            "rows": pa.ListArray.from_arrays(offsets, rows),
            "router_s": [router_s],
        }
    )


def unpack(packed: pa.Table) -> Iterator[tuple[PartName, pa.Table, float]]:
    """The parts of a batch: name, rows, router's seconds."""
    rows = packed.column("rows").combine_chunks()
    for i, name in enumerate(packed.column("part").to_pylist()):
        table = pa.Table.from_struct_array(rows[i].values)
        yield PartName.parse(name), table, packed.column("router_s")[i].as_py()


@dataclass(frozen=True, slots=True)
class Read:
    """Partition numbers → the parts of these partitions that have not been decided yet."""

    log: QueryLogConfig
    partitions: tuple[Partition, ...]
    run_folder: str
    decided: frozenset[PartName] = frozenset()
    """By earlier starts of the run."""

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One packed part a time; a partition is never held whole."""
        run = RunFolder(self.run_folder)
        for number in batch.column("partition").to_pylist():
            duplicates = run.read_duplicates(number)
            for part, table in self._parts(self.partitions[number]):
                if part not in self.decided:
                    yield pack(part, prepare(table, number, duplicates))

    def _parts(self, partition: Partition) -> Iterator[tuple[PartName, pa.Table]]:
        """Cut by rows and bytes of the log alone, so that a rerun cuts at the same rows."""
        start = 0
        held: list[pa.Table] = []
        for batch in read_partition(
            partition, self.log, batch_rows=min(self.log.part_rows, READ_ROWS)
        ):
            held.append(batch)
            rows = sum(b.num_rows for b in held)
            if rows >= self.log.part_rows or sum(b.nbytes for b in held) >= PART_BYTES:
                yield PartName(partition.number, start, start + rows), pa.concat_tables(held)
                start, held = start + rows, []
        if held:
            rows = sum(b.num_rows for b in held)
            yield PartName(partition.number, start, start + rows), pa.concat_tables(held)


class Score:
    """Prepared parts → scored parts. Holds the router, so it lives in an actor.

    A language model's engine that has failed ends this process: the actor is started again with a
    fresh one, and the parts it had are scored there.
    """

    def __init__(self, router: RouterConfig, pool: Sequence[str]) -> None:
        self._router = Router.load(router.artifact, router.model, router.engine)
        self._pool = tuple(pool)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One packed part out per packed part in."""
        for part, table, _ in unpack(batch):
            started = time.perf_counter()
            try:
                scored = scored_by(self._router, self._pool, table)
            except EngineError as error:
                log.error("score.engine_failed", part=str(part), error=str(error))
                os._exit(ENGINE_FAILED)
            yield pack(part, scored, time.perf_counter() - started)


def scored_by(router: Router, pool: Sequence[str], table: pa.Table) -> pa.Table:
    """`PREPARED_QUERIES` → `SCORED_QUERIES`. Defective rows get empty lists: nothing is expected of
    them.
    """
    good = np.flatnonzero(table.column("defect").is_null().to_numpy())
    texts = table.column("text").take(pa.array(good)).to_pylist()
    scores, domains = router.score_and_place(texts, pool)
    other_tokens = table.column("other_input_tokens").to_numpy()[good]
    novelty = np.zeros(table.num_rows, np.float32)
    novelty[good] = scores.novelty
    domain = np.full(table.num_rows, None, dtype=object)
    domain[good] = domains
    columns = {
        "expected_grade": scores.expected_grade,
        "expected_input_tokens": scores.expected_input_tokens + other_tokens[:, None],
        "expected_output_tokens": scores.expected_output_tokens,
        "most_output_tokens": scores.most_output_tokens,
    }
    scored = table.select(QUERIES.names)
    for name, values in columns.items():
        scored = scored.append_column(name, per_model(values, good, table.num_rows))
    scored = scored.append_column("novelty", pa.array(novelty))
    scored = scored.append_column("domain", pa.array(domain, pa.string()))
    return agree(scored, SCORED_QUERIES, where="score")


@dataclass(frozen=True, slots=True)
class Decide:
    """Scored parts → two files each in the run folder, and a row of `PARTS` per provider."""

    deciding: Deciding
    run_folder: str

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Write each part of the batch; decisions last, as the commit."""
        run = RunFolder(self.run_folder)
        for part, queries, router_s in unpack(batch):
            queries = agree(queries, SCORED_QUERIES, where=f"decide {part}")
            run.write_queries(part, queries)
            expected = self.deciding.expect(queries)
            decisions, chances = self.deciding.by_policy_or_drawn(expected)
            lanes = live_lanes(decisions)
            table = self.deciding.table(queries, expected, decisions, lanes, router_s, chances)
            buried = letters(queries, expected, decisions)
            bury(run, part, queries, buried)
            run.write_decisions(part, table)
            yield _summary(part, table, buried)


@dataclass(frozen=True, slots=True)
class Keep:
    """Scored parts → a file each in the run folder, to be decided on together; `SCORED_PARTS`."""

    run_folder: str

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Write each part of the batch."""
        run = RunFolder(self.run_folder)
        for part, queries, router_s in unpack(batch):
            run.write_queries(part, agree(queries, SCORED_QUERIES, where=f"keep {part}"))
            columns = {"part": [str(part)], "rows": [queries.num_rows], "router_s": [router_s]}
            yield pa.table(columns, schema=SCORED_PARTS)


class Shadow:
    """Names of scored parts → what another router would decide, a file each in the run folder.

    It reads what the run has kept, not what it works on: whatever becomes of it, the run goes on.
    """

    def __init__(
        self, router: RouterConfig, current: Deciding, shadow: Deciding, run_folder: str
    ) -> None:
        self._router = Router.load(router.shadow or "", router.model, router.engine)
        self._current = current
        self._shadow = shadow
        self._run_folder = run_folder

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Write each part of the batch, and give its name on."""
        for name in batch.column("part").to_pylist():
            part = PartName.parse(name)
            queries = RunFolder(self._run_folder).read_queries(part)
            ShadowFolder(self._run_folder).write(part, self._decided(queries))
            yield pa.table({"part": [name]})

    def _decided(self, queries: pa.Table) -> pa.Table:
        """`SCORED_QUERIES` by the run's router → `SHADOW_DECISIONS`."""
        again = scored_by(self._router, self._shadow.pool, prepared_again(queries))
        expected, current = self._shadow.expect(again), self._current.expect(queries)
        return self._shadow.shadow_table(again, expected, self._current.by_policy(current))


def bury(run: RunFolder, part: PartName, queries: pa.Table, letters: list[DeadLetter]) -> None:
    """Write the outcomes of the rows that nobody is asked about."""
    if not letters:
        return
    rows = queries.column("row").to_pylist()
    followers = dict(zip(rows, queries.column("followers").to_pylist(), strict=True))
    settled = [(letter.outcome(), letter) for letter in letters]
    write_settled(PieceName(part, NOBODY), run, settled, followers)


def _summary(part: PartName, decisions: pa.Table, buried: list[DeadLetter]) -> pa.Table:
    pieces = decided_in(part, decisions, buried)
    return pa.table(
        {
            "part": [str(part)] * len(pieces),
            "provider": [piece.provider for piece in pieces],
            "rows": [alike.total() for alike in pieces.values()],
            "decided": [
                [{**one._asdict(), "rows": rows} for one, rows in alike.items()]
                for alike in pieces.values()
            ],
        },
        schema=PARTS,
    )
