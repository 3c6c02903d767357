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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from moa.catalog import Model
from moa.config import PolicyConfig, QueryLogConfig, RouterConfig
from moa.dispatch.outcome import DeadLetter
from moa.dispatch.piece import write_settled
from moa.errors import EngineError
from moa.planning.policy import NOBODY as NO_MODEL
from moa.planning.policy import Candidates, Decisions, decide, reason_nobody
from moa.prices import PriceTable
from moa.router.router import Router
from moa.schema import (
    PARTS,
    QUERIES,
    ROUTING_DECISIONS,
    SCORED_QUERIES,
    agree,
)
from moa.storage.prepare import prepare
from moa.storage.query_log import Partition, read_partition
from moa.storage.run_folder import NOBODY, PartName, PieceName, RunFolder

ENGINE_FAILED = 70
"""Exit status of a process whose engine has failed."""
READ_ROWS = 1000
PART_BYTES = 32 << 20
"""A part is closed early when its requests reach this size: long prompts must not fill memory."""
LIVE = "live"
DEFECTIVE = "defective"
"""The rule of a row that is no request: it becomes a dead letter."""

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
                scored = self._score(table)
            except EngineError as error:
                log.error("score.engine_failed", part=str(part), error=str(error))
                os._exit(ENGINE_FAILED)
            yield pack(part, scored, time.perf_counter() - started)

    def _score(self, table: pa.Table) -> pa.Table:
        """Defective rows get empty lists: nothing is expected of them."""
        good = np.flatnonzero(table.column("defect").is_null().to_numpy())
        texts = table.column("text").take(pa.array(good)).to_pylist()
        scores = self._router.score(texts, self._pool)
        other_tokens = table.column("other_input_tokens").to_numpy()[good]
        novelty = np.zeros(table.num_rows, np.float32)
        novelty[good] = scores.novelty
        columns = {
            "expected_grade": scores.expected_grade,
            "expected_input_tokens": scores.expected_input_tokens + other_tokens[:, None],
            "expected_output_tokens": scores.expected_output_tokens,
            "most_output_tokens": scores.most_output_tokens,
        }
        scored = table.select(QUERIES.names)
        for name, values in columns.items():
            scored = scored.append_column(name, _per_model(values, good, table.num_rows))
        scored = scored.append_column("novelty", pa.array(novelty))
        return agree(scored, SCORED_QUERIES, where="score")


def _per_model(values: np.ndarray, good: np.ndarray, rows: int) -> pa.ListArray:
    """(good, m) values → one list per row, empty for the others."""
    lengths = np.zeros(rows, np.int32)
    lengths[good] = values.shape[1]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def matrix(lists: pa.ChunkedArray, columns: int) -> np.ndarray:
    """Lists of equal length as (n, columns)."""
    return np.asarray(lists.combine_chunks().flatten().to_numpy().reshape(-1, columns))


def wishes(lists: pa.ChunkedArray) -> list[list[str] | None]:
    """What each query allows; most backlogs say nothing, and then no cell is looked at."""
    if lists.null_count == len(lists):
        return [None] * len(lists)
    return list(lists.to_pylist())


@dataclass(frozen=True, slots=True)
class Decide:
    """Scored parts → two files each in the run folder, and a row of `PARTS` per provider."""

    models: tuple[Model, ...]
    policy: PolicyConfig
    prices: PriceTable
    router_version: str
    default_model: str
    """Where the policy goes when a query is too novel to judge."""
    run_folder: str

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Write each part of the batch; decisions last, as the commit."""
        run = RunFolder(self.run_folder)
        for part, queries, router_s in unpack(batch):
            queries = agree(queries, SCORED_QUERIES, where=f"decide {part}")
            decisions, letters = self._decide(queries, router_s / max(1, queries.num_rows))
            run.write_queries(part, queries)
            if letters:
                self._bury(run, part, queries, letters)
            run.write_decisions(part, decisions)
            yield _summary(part, decisions)

    def _decide(
        self, queries: pa.Table, router_s_per_query: float
    ) -> tuple[pa.Table, list[DeadLetter]]:
        """`ROUTING_DECISIONS`, and a dead letter for each row that goes to nobody."""
        good = np.flatnonzero(queries.column("defect").is_null().to_numpy())
        answerable = queries.take(pa.array(good))
        candidates, decisions, cost = self._choose(answerable)
        letters = [
            *_defective(queries.filter(queries.column("defect").is_valid())),
            *_unanswerable(answerable, candidates, decisions),
        ]
        table = queries.select(["query_id", "partition", "row", "expected_grade", "novelty"])
        columns = {
            **self._choices(queries, good, decisions),
            "expected_cost_usd": _per_model(cost, good, queries.num_rows),
            "propensity": np.ones(queries.num_rows, np.float32),
            "router_s": np.full(queries.num_rows, router_s_per_query, np.float32),
            "router_version": [self.router_version] * queries.num_rows,
            "price_version": [self.prices.version] * queries.num_rows,
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, ROUTING_DECISIONS.field(name).type))
        return agree(table, ROUTING_DECISIONS, where="decide"), letters

    def _choose(self, queries: pa.Table) -> tuple[Candidates, Decisions, np.ndarray]:
        """Candidates, decisions, and expected costs (n, m), of queries without defects."""
        models = len(self.models)
        input_tokens = matrix(queries.column("expected_input_tokens"), models)
        output_tokens = matrix(queries.column("expected_output_tokens"), models)
        grade = matrix(queries.column("expected_grade"), models)
        candidates = Candidates.find(
            self.models,
            input_tokens=input_tokens,
            output_tokens=matrix(queries.column("most_output_tokens"), models),
            max_output_tokens=queries.column("max_output_tokens").to_pylist(),
            abilities=queries.column("abilities").to_pylist(),
            allowed_models=wishes(queries.column("allowed_models")),
            allowed_lanes=wishes(queries.column("allowed_lanes")),
            expected_grade=grade,
            min_grade=queries.column("min_grade").to_numpy(),
        )
        billed_output = _capped(output_tokens, queries.column("max_output_tokens"))
        ids = [model.id for model in self.models]
        cost = self.prices.expected_cost_usd(ids, LIVE, input_tokens, billed_output)
        decisions = decide(
            candidates,
            grade,
            cost,
            queries.column("novelty").to_numpy(),
            self.policy,
            self.default_model,
        )
        return candidates, decisions, cost

    def _choices(self, queries: pa.Table, good: np.ndarray, decisions: Decisions) -> dict[str, Any]:
        """The columns that say who is asked; rows that are not `good` go to nobody."""
        chosen = np.full(queries.num_rows, NO_MODEL)
        chosen[good] = decisions.chosen
        rule = np.full(queries.num_rows, DEFECTIVE, dtype=object)
        rule[good] = decisions.rule
        fallbacks: list[list[str]] = [[] for _ in range(queries.num_rows)]
        pool = [model.id for model in self.models]
        for row, ids in zip(good.tolist(), decisions.fallback_ids(pool), strict=True):
            fallbacks[row] = ids
        somebody = chosen != NO_MODEL
        return {
            "model": _named([model.id for model in self.models], chosen),
            "provider": _named([model.provider for model in self.models], chosen),
            "lane": [LIVE if one else None for one in somebody.tolist()],
            "rule": rule,
            "fallbacks": fallbacks,
            "expected_input_tokens": _of_chosen(queries, "expected_input_tokens", chosen),
            "expected_output_tokens": _of_chosen(queries, "expected_output_tokens", chosen),
        }

    @staticmethod
    def _bury(run: RunFolder, part: PartName, queries: pa.Table, letters: list[DeadLetter]) -> None:
        """The outcomes of the rows that nobody is asked about."""
        rows = queries.column("row").to_pylist()
        followers = dict(zip(rows, queries.column("followers").to_pylist(), strict=True))
        settled = [(letter.outcome(), letter) for letter in letters]
        write_settled(PieceName(part, NOBODY), run, settled, followers)


def _defective(queries: pa.Table) -> Iterator[DeadLetter]:
    for row in queries.to_pylist():
        reason, _, detail = row["defect"].partition(": ")
        yield _letter(row, reason, detail)


def _unanswerable(
    queries: pa.Table, candidates: Candidates, decisions: Decisions
) -> Iterator[DeadLetter]:
    nobody = np.flatnonzero(decisions.chosen == NO_MODEL)
    rows = queries.take(pa.array(nobody)).to_pylist()
    for number, row in zip(nobody.tolist(), rows, strict=True):
        yield _letter(row, "nobody_can", reason_nobody(candidates, number))


def _letter(row: dict[str, Any], reason: str, detail: str) -> DeadLetter:
    return DeadLetter(
        query_id=row["query_id"],
        partition=row["partition"],
        row=row["row"],
        reason=reason,
        detail=detail,
        attempts=(),
        request=row["request"],
        allowed_models=row["allowed_models"],
        tags=row["tags"],
    )


def _capped(output_tokens: np.ndarray, most: pa.ChunkedArray) -> np.ndarray:
    """Expected output, where a query allows less than is expected: that."""
    limit = most.cast(pa.float64()).fill_null(np.inf).to_numpy()
    return np.asarray(np.minimum(output_tokens, limit[:, None]))


def _named(names: Sequence[str], chosen: np.ndarray) -> list[str | None]:
    return [None if number == NO_MODEL else names[number] for number in chosen.tolist()]


def _of_chosen(queries: pa.Table, column: str, chosen: np.ndarray) -> list[float]:
    """One value per row from a list per row; 0 where nobody was chosen."""
    lists = queries.column(column).to_pylist()
    return [
        0.0 if number == NO_MODEL else values[number]
        for values, number in zip(lists, chosen.tolist(), strict=True)
    ]


def _summary(part: PartName, decisions: pa.Table) -> pa.Table:
    counts = pc.value_counts(pc.fill_null(decisions.column("provider"), NOBODY))
    return pa.table(
        {
            "part": [str(part)] * len(counts),
            "provider": counts.field("values"),
            "rows": counts.field("counts"),
        },
        schema=PARTS,
    )
