"""A run and its redrives, read as one: every query's row is its latest.

A redrive is a run folder inside the run's. Its parts are named as the run's, and hold the queries
that were sent again. All is read file by file; of a part, only its redriven queries are held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moa.errors import RunError
from moa.schema import DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS
from moa.storage.run_folder import BATCH, NOBODY, PartName, PieceName, RunFolder

_COUNTED = ("attempts", "unknown_calls", "lost_answers", "cost_usd")
"""Of an outcome: what every sending of its query has added to."""
_CARRIED = ["query_id", "same_as", "first_model", "reason", *_COUNTED]
_DIED = ("query_id", "reason", "detail", "attempts")
"""Of a dead letter: what is read of it when the query has older ones."""
_UNASKED = "budget_spent"
"""The reason of a query that a redrive had no money for: it says nothing new of the query."""
_ASKED = (
    "model", "provider", "lane", "rule", "expected_input_tokens", "expected_output_tokens",
    "preferred_model", "propensity",
)  # fmt: skip
"""Of a decision: what a redrive has decided anew. The rest is the router's, and stays."""


@dataclass(frozen=True, slots=True)
class _Finished:
    """The finished pieces of a run or a redrive."""

    run: RunFolder
    pieces: dict[PartName, list[PieceName]]

    @classmethod
    def of(cls, run: RunFolder) -> _Finished:
        parts = groupby(run.finished_pieces(), key=lambda piece: piece.part)
        return cls(run, {part: list(pieces) for part, pieces in parts})

    def tables(self, part: PartName, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The outcomes of a part."""
        for piece in self.pieces.get(part, ()):
            yield self.run.read_outcomes(piece, columns=columns)

    def decisions(self, part: PartName) -> pa.Table:
        """The decisions of a part on queries that have their outcomes."""
        table = self.run.read_decisions(part)
        ended = pa.array([piece.queue for piece in self.pieces.get(part, ())], pa.string())
        whose = pc.fill_null(table.column("provider"), NOBODY)
        in_batches = pc.fill_null(pc.equal(table.column("lane"), BATCH), False)
        batches = pc.binary_join_element_wise(whose, BATCH, ".")
        return table.filter(pc.is_in(pc.if_else(in_batches, batches, whose), ended))


class MergedRun:
    """What readers of a run's results see. Redrives that begin later are not seen."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.redrives = run.redrives()
        """Of the run, in order; the last one may be unfinished."""
        self._again = [_Finished.of(one) for one in self.redrives]

    @cached_property
    def _first(self) -> _Finished:
        return _Finished.of(self._run)

    def starts(self) -> list[dict[str, Any]]:
        """When starts of the run and of its redrives were at work, oldest first."""
        return [start for one in (self._run, *self.redrives) for start in one.starts()]

    def spent_usd(self) -> Decimal:
        """What the run and its finished redrives have cost."""
        manifests = (one.manifest() for one in (self._run, *self.redrives))
        return sum((Decimal(one["cost_usd"]) for one in manifests if one), Decimal(0))

    def outcomes(self) -> Iterator[pa.Table]:
        """`OUTCOMES`, one row a query: its latest, with the calls that earlier ones have cost, and
        with the model that was decided on first.
        """
        for part in self._first.pieces:
            yield from self.outcomes_of(part)

    def outcomes_of(self, part: PartName) -> Iterator[pa.Table]:
        """As `outcomes`, of one part."""
        again = [table for one in self._again for table in one.tables(part)]
        if not again:
            yield from self._first.tables(part)
            return
        newer = pa.concat_tables(again)
        older = []
        for table in self._first.tables(part):
            replaced = pc.is_in(table.column("query_id"), value_set=newer.column("query_id"))
            older.append(table.filter(replaced).select(_CARRIED))
            yield table.filter(pc.invert(replaced))
        yield _latest(older, newer)

    def pieces_of(self, part: PartName) -> list[str]:
        """Names of the finished pieces that the outcomes of a part are made of: other ones, other
        outcomes."""
        return [
            f"{number}/{piece}"
            for number, one in enumerate((self._first, *self._again))
            for piece in one.pieces.get(part, ())
        ]

    def dead_letters(self) -> Iterator[pa.Table]:
        """`DEAD_LETTERS` of the queries that are still dead."""
        for part in self.dead_parts():
            yield from self.dead_letters_of(part)

    def dead_parts(self) -> list[PartName]:
        """The parts that have, or had, dead letters, in order."""
        return sorted(self._dead_pieces)

    def dead_letters_of(
        self, part: PartName, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """The dead letters of one part, each with the attempts of older ones before its own, and
        with their reason where nobody was asked any more. `columns` has the query's id.
        """
        pieces = self._dead_pieces.get(part, ())
        several = len({number for number, _ in pieces}) > 1
        read = columns if columns is None or not several else [*{*columns, *_DIED}]
        older: dict[str, dict[str, Any]] = {}
        for number, piece in pieces:
            letters = (self._run, *self.redrives)[number].read_dead_letters(piece, columns=read)
            if several:
                letters = _with_older(letters, older)
            letters = self._without_newer(letters, part, self._again[number:])
            yield letters if columns is None else letters.select(list(columns))

    def decided(self) -> Iterator[pa.Table]:
        """`ROUTING_DECISIONS` as they were before the first call, on queries that have outcomes."""
        for part in self._run.decided_parts():
            yield self._first.decisions(part)

    def decisions(self) -> Iterator[pa.Table]:
        """`ROUTING_DECISIONS`, the latest on each query that has an outcome. The models that the
        first decision would have asked stay among the fallbacks: they could take the query.
        """
        for part in self._run.decided_parts():
            yield self.decisions_of(part)

    def decisions_of(self, part: PartName) -> pa.Table:
        """As `decisions`, of one part."""
        table = self._first.decisions(part)
        for one in self._again:
            if part in one.pieces:
                table = _redecided(table, one.decisions(part))
        return table

    def decisions_on(self, outcomes: pa.Table, columns: Sequence[str]) -> pa.Table:
        """The first decisions on the queries of some outcomes of one part, in their order.

        Raises:
            RunError: one of them was not decided on.
        """
        part = self._part_of(outcomes)
        decisions = self._run.read_decisions(part, columns=["row", *columns])
        at = pc.index_in(outcomes.column("row"), value_set=decisions.column("row"))
        if at.null_count:
            raise RunError(f"{self._run.url}: outcomes of {part} without decisions; it is damaged")
        return decisions.take(at).select(list(columns))

    def _part_of(self, outcomes: pa.Table) -> PartName:
        place = outcomes.column("partition")[0].as_py(), outcomes.column("row")[0].as_py()
        number = bisect_right(self._decided_parts, place, key=lambda part: part[:2]) - 1
        return self._decided_parts[max(0, number)]

    @cached_property
    def _decided_parts(self) -> list[PartName]:
        return self._run.decided_parts()

    @cached_property
    def _dead_pieces(self) -> dict[PartName, list[tuple[int, PieceName]]]:
        """Part → its pieces with dead letters, each with whose it is: 0 the run, then redrives."""
        found: defaultdict[PartName, list[tuple[int, PieceName]]] = defaultdict(list)
        for number, finished in enumerate((self._first, *self._again)):
            for piece in finished.run.dead_letter_pieces():
                if piece in finished.pieces.get(piece.part, ()):
                    found[piece.part].append((number, piece))
        return found

    @staticmethod
    def _without_newer(letters: pa.Table, part: PartName, newer: Iterable[_Finished]) -> pa.Table:
        for one in newer:
            for table in one.tables(part, columns=["query_id"]):
                again = pc.is_in(letters.column("query_id"), value_set=table.column("query_id"))
                letters = letters.filter(pc.invert(again))
        return letters


def _latest(older: Sequence[pa.Table], newer: pa.Table) -> pa.Table:
    """The last row of each query in `newer`; what all its rows have cost is summed. A redrive that
    had no money to ask it does not change why it is dead.

    Args:
        older: rows of the same queries, of which `newer` has another; oldest first.
        newer: oldest first.
    """
    last = {name: n for n, name in enumerate(newer.column("query_id").to_pylist())}
    sums: dict[str, dict[str, Any]] = {}
    for row in pa.concat_tables([*older, newer.select(_CARRIED)]).to_pylist():
        whole = sums.setdefault(row["query_id"], row)
        if whole is not row:
            whole["first_model"] = whole["first_model"] or row["first_model"]
            if row["reason"] != _UNASKED or row["attempts"] > row["unknown_calls"]:
                whole["reason"] = row["reason"]
            for name in _COUNTED:
                whole[name] += row[name]
    for whole in sums.values():
        if whole["same_as"] is not None:  # its calls are those of its equal
            whole["reason"] = sums[whole["same_as"]]["reason"]
    merged = newer.take(pa.array(sorted(last.values()), pa.int64()))
    rows = [sums[name] for name in merged.column("query_id").to_pylist()]
    return _with(merged, OUTCOMES, {name: [r[name] for r in rows] for name in _CARRIED})


def _with_older(letters: pa.Table, older: dict[str, dict[str, Any]]) -> pa.Table:
    """Dead letters with what older ones of their queries say.

    Args:
        letters: with the columns `_DIED` at least.
        older: query → its latest letter; these are put there.
    """
    rows = letters.select(list(_DIED)).to_pylist()
    for row in rows:
        before = older.get(row["query_id"])
        if before is not None:
            if row["reason"] == _UNASKED and not row["attempts"]:
                row |= {name: before[name] for name in ("reason", "detail")}
            row["attempts"] = before["attempts"] + row["attempts"]
        older[row["query_id"]] = row
    return _with(letters, DEAD_LETTERS, {name: [r[name] for r in rows] for name in _DIED})


def _redecided(decisions: pa.Table, newer: pa.Table) -> pa.Table:
    """Decisions of a part, with those of a redrive in place of some."""
    places = pc.index_in(newer.column("row"), value_set=decisions.column("row")).to_pylist()
    columns = {name: decisions.column(name).to_pylist() for name in (*_ASKED, "fallbacks")}
    for place, row in zip(places, newer.select(list(_ASKED)).to_pylist(), strict=True):
        could = [columns["model"][place], *columns["fallbacks"][place]]
        columns["fallbacks"][place] = [m for m in could if m not in (None, row["model"])]
        for name in _ASKED:
            columns[name][place] = row[name]
    return _with(decisions, ROUTING_DECISIONS, columns)


def _with(table: pa.Table, schema: pa.Schema, columns: dict[str, list[Any]]) -> pa.Table:
    """A table with other values in some columns."""
    for name, values in columns.items():
        field = schema.field(name)
        number = table.schema.get_field_index(name)
        table = table.set_column(number, field, pa.array(values, field.type))
    return table
