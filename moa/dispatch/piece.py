"""A piece of the run — what one part has for one provider — from the run folder and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc

from moa.catalog import Model
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import Journal, recover
from moa.dispatch.outcome import (
    Assignment,
    Settled,
    dead_letters_table,
    outcomes_table,
    with_followers,
)
from moa.errors import AccountRefused
from moa.storage.run_folder import PieceName, RunFolder

_DECIDED = [
    "row", "provider", "model", "lane", "fallbacks",
    "expected_input_tokens", "expected_output_tokens",
]  # fmt: skip
_ASKED = ["query_id", "partition", "row", "request", "allowed_models", "tags", "followers"]


class PieceResult(NamedTuple):
    """What dispatching a piece came to."""

    piece: str
    finished: bool
    """False when the dispatcher drained before every query had its outcome."""
    refused: str | None = None
    """What an account said that refused its first call: the run must stop."""


async def dispatch_piece(
    piece: PieceName, run: RunFolder, models: Mapping[str, Model], dispatcher: Dispatcher
) -> PieceResult:
    """See each query of a piece through to its outcome, and write them.

    Raises:
        RunError: another process still works on this piece.
    """
    assignments = await asyncio.to_thread(assignments_of, piece, run, models)
    history = await asyncio.to_thread(lambda: recover(run.read_journals(piece)))
    journal = Journal(await asyncio.to_thread(run.open_journal, piece))
    try:
        settled = await dispatcher.answer(assignments, journal, history)
    except AccountRefused as error:
        return PieceResult(str(piece), finished=False, refused=str(error))
    finally:
        await journal.close()
    if len(settled) < len(assignments):
        return PieceResult(str(piece), finished=False)
    followers = {a.row: a.followers for a in assignments}
    await asyncio.to_thread(write_settled, piece, run, settled, followers)
    return PieceResult(str(piece), finished=True)


def assignments_of(
    piece: PieceName, run: RunFolder, models: Mapping[str, Model]
) -> list[Assignment]:
    """The queries of a piece, in their order in the backlog."""
    decisions = run.read_decisions(piece.part, columns=_DECIDED)
    queries = run.read_queries(piece.part, columns=_ASKED)
    mine = pc.equal(decisions.column("provider"), piece.provider)
    decided = decisions.filter(mine).to_pylist()
    asked = queries.filter(mine).to_pylist()
    return [_assignment(d, q, models) for d, q in zip(decided, asked, strict=True)]


def _assignment(
    decision: dict[str, Any], query: dict[str, Any], models: Mapping[str, Model]
) -> Assignment:
    return Assignment(
        query_id=query["query_id"],
        partition=query["partition"],
        row=query["row"],
        request=query["request"],
        models=tuple(models[m] for m in (decision["model"], *decision["fallbacks"])),
        lane=decision["lane"],
        expected_input_tokens=decision["expected_input_tokens"],
        expected_output_tokens=decision["expected_output_tokens"],
        allowed_models=query["allowed_models"],
        tags=query["tags"],
        followers=query["followers"],
    )


def write_settled(
    piece: PieceName,
    run: RunFolder,
    settled: Iterable[Settled],
    followers: Mapping[int, Sequence[str]],
) -> None:
    """Write what became of a piece; see `with_followers`.

    Dead letters go first: the outcomes are the commit, after which the journals have done their
    work.
    """
    rows = list(with_followers(settled, followers))
    letters = [letter for _, letter in rows if letter is not None]
    if letters:
        run.write_dead_letters(piece, dead_letters_table(letters))
    run.write_outcomes(piece, outcomes_table(outcome for outcome, _ in rows))
    run.remove_journals(piece)
