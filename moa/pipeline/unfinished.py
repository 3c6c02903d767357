"""A redrive that was begun and not finished: what has come of it, and how it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moa.dispatch.journal import History, recover
from moa.dispatch.outcome import DEAD_LETTER, DeadLetter, Settled
from moa.dispatch.piece import finished_piece, write_settled
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, PieceName, RunFolder


class Yield(NamedTuple):
    """What has come of a redrive by now."""

    settled: int
    """Queries with an outcome, which a journal may hold; twins are not counted."""
    kept: int
    """Of these, what must not be lost: outcomes that are written, and answers."""
    doubtful: int
    """Calls without an answer that may have been paid."""
    spent_usd: Decimal

    @property
    def nothing(self) -> bool:
        """Whether nothing is lost when the redrive is begun anew."""
        return not self.kept and not self.doubtful


def come_of(redrive: RunFolder, read: Callable[[PieceName], Iterable[bytes]]) -> Yield:
    """What has come of a redrive.

    Args:
        redrive: finished or not.
        read: gives a piece's journals.
    """
    done = [finished_piece(piece, redrive) for piece in redrive.finished_pieces()]
    histories = [recover(read(piece)) for piece in redrive.open_pieces()]
    queries = sum(one.queries for one in done)
    outcomes = [outcome for one in histories for outcome in one.outcomes.values()]
    return Yield(
        settled=queries + len(outcomes),
        kept=queries + sum(outcome.status != DEAD_LETTER for outcome in outcomes),
        doubtful=sum(map(_doubtful, histories)),
        spent_usd=sum((one.cost_usd for one in done), Decimal(0))
        + sum((one.spent_usd for one in histories), Decimal(0)),
    )


def _doubtful(history: History) -> int:
    failed = (attempt for attempts in history.attempts.values() for attempt in attempts)
    return history.unknown.total() + sum(attempt.maybe_billed for attempt in failed)


def let_go(redrive: RunFolder, run: MergedRun) -> None:
    """Keep what has come of a redrive, and let go of its other queries: they are as dead as they
    were, with the calls that were made for them. Killed in the middle, it is done again.

    Args:
        redrive: held, not finished.
        run: of which it is one, to the last redrive.
    """
    redrive.note_abandoned()
    selection = redrive.selection()
    if selection is None:
        redrive.forget_selection()
    for piece in redrive.open_pieces():
        _keep_settled(piece, redrive, run)
    left = sum(_forget_unsettled(part, redrive) for part in redrive.decided_parts())
    facts = {"sent": {}, "left": [], **(selection or {})}
    redrive.write_selection(left, {**facts, "queries": left})


def _keep_settled(piece: PieceName, redrive: RunFolder, run: MergedRun) -> None:
    history = recover(redrive.read_journals(piece))
    settled: list[Settled] = [
        (outcome, history.letters.get(row)) for row, outcome in history.outcomes.items()
    ]
    called = {*history.attempts, *(+history.unknown)} - history.outcomes.keys()
    if called:
        letters = (one for table in run.dead_letters_of(piece.part) for one in table.to_pylist())
        queries = redrive.read_queries(piece.part, columns=["row", "query_id"]).to_pylist()
        mine = {query["query_id"] for query in queries if query["row"] in called}
        settled += [_called(one, history) for one in letters if one["query_id"] in mine]
    if settled:
        queries = redrive.read_queries(piece.part, columns=["row", "followers"]).to_pylist()
        followers = {query["row"]: query["followers"] for query in queries}
        write_settled(piece, redrive, settled, followers)


def _called(letter: Mapping[str, Any], history: History) -> Settled:
    """The dead letter as it was, with the calls since."""
    row = letter["row"]
    attempts, unknown = tuple(history.attempts.get(row, ())), history.unknown[row]
    names = (
        "query_id", "partition", "row", "reason", "detail", "request", "allowed_models", "tags",
    )  # fmt: skip
    dead = DeadLetter(**{name: letter[name] for name in names}, attempts=attempts)
    outcome = dead.outcome(
        attempts=len(attempts) + unknown,
        unknown_calls=unknown,
        lost_answers=sum(attempt.maybe_billed for attempt in attempts),
    )
    return outcome, dead


def _forget_unsettled(part: PartName, redrive: RunFolder) -> int:
    """How many queries of the part are left."""
    pieces = (piece for piece in redrive.finished_pieces() if piece.part == part)
    tables = (redrive.read_outcomes(piece, columns=["query_id"]) for piece in pieces)
    names = [name for table in tables for name in table.column("query_id").to_pylist()]
    ended = pa.array(names, pa.string())
    queries, decisions = redrive.read_queries(part), redrive.read_decisions(part)
    queries = queries.filter(pc.is_in(queries.column("query_id"), value_set=ended))
    decisions = decisions.filter(pc.is_in(decisions.column("query_id"), value_set=ended))
    redrive.write_queries(part, queries)
    redrive.write_decisions(part, decisions)
    return int(queries.num_rows)
