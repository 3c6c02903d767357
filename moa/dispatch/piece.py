"""A piece of the run — what one part has for one provider — from the run folder and back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moa.catalog import Model
from moa.config import PolicyConfig
from moa.dispatch.batch_lane import BatchLane
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import Journal, recover
from moa.dispatch.outcome import (
    DEAD_LETTER,
    Assignment,
    Choice,
    Settled,
    dead_letters_table,
    outcomes_table,
    with_followers,
)
from moa.dispatch.settings import HandedOver, Progress
from moa.dispatch.used import Used, used_by
from moa.errors import KeyRefused
from moa.planning.policy import NOVEL, a_grade_usd, worth_usd
from moa.storage.run_folder import NOBODY, PieceName, RunFolder, rows_of

_DECIDED = [
    "row", "provider", "model", "lane", "rule", "fallbacks", "expected_grade", "expected_cost_usd",
]  # fmt: skip
_ASKED = [
    "query_id", "partition", "row", "request", "allowed_models", "allowed_lanes", "tags",
    "followers", "max_output_tokens", "expected_input_tokens", "expected_output_tokens",
]  # fmt: skip


class PieceResult(NamedTuple):
    """What dispatching a piece came to."""

    piece: str
    finished: bool
    """False when the dispatcher drained before every query had its outcome."""
    queries: int = 0
    """Of a finished piece, those that share an equal one's answer not counted."""
    dead: int = 0
    """Of these, dead letters."""
    cost_usd: Decimal = Decimal(0)
    refused: str | None = None
    """What an account said that refused its first call: the run must stop."""
    used: Mapping[str, Used] = MappingProxyType({})
    """Of a finished piece, by catalog id."""
    rest: Progress | None = None
    """Where its replica stood then, without this piece."""

    @property
    def handed_over(self) -> HandedOver:
        """What its dispatcher counted of it."""
        return HandedOver(self.queries, self.dead, self.cost_usd)


async def dispatch_piece(
    piece: PieceName,
    run: RunFolder,
    models: Mapping[str, Model],
    policy: PolicyConfig,
    dispatcher: Dispatcher,
    lane: BatchLane | None = None,
    *,
    rows: int,
) -> PieceResult:
    """See each query of a piece through to its outcome, and write them.

    Args:
        piece: of the run.
        run: its folder.
        models: catalog id → model, in pool order.
        policy: by which it was decided.
        dispatcher: open.
        lane: open, where the run buys in batches.
        rows: of the piece; they count as unsettled while they are read.

    Raises:
        RunError: another process still works on this piece.
        OSError: the run folder cannot be read or written.
    """
    with dispatcher.expecting(piece.queue, rows):
        history = await asyncio.to_thread(lambda: recover(run.read_journals(piece)))
        if await asyncio.to_thread(run.is_finished, piece):  # whoever did it died before it said so
            return await asyncio.to_thread(finished_piece, piece, run)
        journal = Journal(await asyncio.to_thread(run.open_journal, piece))
        read = partial(assignments_of, piece, run, models, policy)
        assignments = [] if piece.in_batches else await asyncio.to_thread(read)
    try:
        if piece.in_batches:
            assert lane is not None, f"{piece} is to be bought in batches"
            load = partial(asyncio.to_thread, read)
            settled = await lane.answer(piece.provider, load, journal, history)
        else:
            settled = await dispatcher.answer(assignments, journal, history)
    except KeyRefused as error:
        return PieceResult(str(piece), finished=False, refused=str(error))
    finally:
        await journal.close()
    if len(settled) < rows:
        return PieceResult(str(piece), finished=False)
    followers = await asyncio.to_thread(followers_of, piece, run)
    await asyncio.to_thread(write_settled, piece, run, settled, followers)
    await asyncio.to_thread(run.remove_journals, piece)
    used = await asyncio.to_thread(used_by, piece, run)
    dispatcher.forget(settled)  # from here to the replica's count of it nothing is waited for
    return PieceResult(
        str(piece),
        finished=True,
        queries=len(settled),
        dead=sum(letter is not None for _, letter in settled),
        cost_usd=sum((outcome.cost_usd for outcome, _ in settled), Decimal(0)),
        used=used,
    )


def finished_piece(piece: PieceName, run: RunFolder) -> PieceResult:
    """What a piece came to whose outcomes are written."""
    outcomes = run.read_outcomes(piece, columns=["status", "cost_usd", "same_as"])
    asked = outcomes.filter(pc.is_null(outcomes.column("same_as")))
    dead = pc.sum(pc.equal(asked.column("status"), DEAD_LETTER)).as_py() or 0
    cost_usd = pc.sum(asked.column("cost_usd")).as_py() or Decimal(0)
    used = {} if piece.provider == NOBODY else used_by(piece, run)
    return PieceResult(str(piece), True, asked.num_rows, dead, cost_usd, used=used)


def assignments_of(
    piece: PieceName,
    run: RunFolder,
    models: Mapping[str, Model],
    policy: PolicyConfig,
    rows: Sequence[int] | None = None,
) -> list[Assignment]:
    """The queries of a piece, or some rows of it, in their order in the backlog; `models` in pool
    order.
    """
    decisions = run.read_decisions(piece.part, columns=_DECIDED)
    queries = run.read_queries(piece.part, columns=_ASKED)
    mine = rows_of(piece, decisions)
    if rows is not None:
        mine = pc.and_(mine, pc.is_in(decisions.column("row"), pa.array(rows, pa.int64())))
    decided = decisions.filter(mine).to_pylist()
    asked = queries.filter(mine).to_pylist()
    return [_assignment(d, q, models, policy) for d, q in zip(decided, asked, strict=True)]


def followers_of(piece: PieceName, run: RunFolder) -> dict[int, list[dict[str, Any]]]:
    """Row → the queries that share its answer, of a piece."""
    mine = rows_of(piece, run.read_decisions(piece.part, columns=["provider", "lane"]))
    queries = run.read_queries(piece.part, columns=["row", "followers"]).filter(mine)
    return dict(
        zip(queries.column("row").to_pylist(), queries.column("followers").to_pylist(), strict=True)
    )


def _assignment(
    decision: dict[str, Any],
    query: dict[str, Any],
    models: Mapping[str, Model],
    policy: PolicyConfig,
) -> Assignment:
    most = query["max_output_tokens"] or math.inf
    expected = zip(
        query["expected_input_tokens"],
        query["expected_output_tokens"],
        decision["expected_grade"],
        decision["expected_cost_usd"],
        strict=True,
    )
    choices = {
        model.id: Choice(model, tokens_in, min(tokens_out, most), worth_usd(grade, usd, policy))
        for model, (tokens_in, tokens_out, grade, usd) in zip(
            models.values(), expected, strict=True
        )
    }
    if decision["rule"] == NOVEL:  # not by worth, so only a long outage is a reason to leave
        chosen = choices[decision["model"]]
        worth = max(choice.worth_usd for choice in choices.values()) + a_grade_usd(policy)
        choices[chosen.model.id] = chosen._replace(worth_usd=worth)
    return Assignment(
        query_id=query["query_id"],
        partition=query["partition"],
        row=query["row"],
        request=query["request"],
        choices=tuple(choices[name] for name in (decision["model"], *decision["fallbacks"])),
        lane=decision["lane"],
        allowed_models=query["allowed_models"],
        tags=query["tags"],
        followers=query["followers"],
        allowed_lanes=query["allowed_lanes"],
    )


def write_settled(
    piece: PieceName,
    run: RunFolder,
    settled: Iterable[Settled],
    followers: Mapping[int, Sequence[Mapping[str, Any]]],
) -> None:
    """Write what became of a piece; see `with_followers`.

    Dead letters go first: the outcomes are the commit.
    """
    rows = list(with_followers(settled, followers))
    letters = [letter for _, letter in rows if letter is not None]
    if letters:
        run.write_dead_letters(piece, dead_letters_table(letters))
    run.write_outcomes(piece, outcomes_table(outcome for outcome, _ in rows))
