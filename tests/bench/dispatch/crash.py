"""W5: kill -9 half way. What is lost, what is asked and bought twice, and whether all is told.

The server bills what it has begun to send: of the calls that are out when their caller dies, those
that wait for their answer cost nothing here, while a vendor may bill them. So both are shown, what
was asked twice and what was bought twice.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from moa.dispatch.journal import History, Journal, recover
from moa.dispatch.outcome import DEAD_LETTER
from moa.replay.process import ReplayServer, replay_server
from moa.replay.recordings import prompt_key
from moa.storage.journal_files import FileSink, read_when_closed
from tests.bench.dispatch.figures import Figure, Result, Target
from tests.bench.dispatch.ours import assignments_of, open_dispatcher
from tests.bench.dispatch.process import OURS, SPAWN
from tests.bench.dispatch.work import Work

CALLS = 4_000
IN_FLIGHT = 256
SCRIPT = {"latency": {"median_s": 0.3, "sigma": 0.5}}
LOOK_EVERY_S = 0.05
_NONE = Target(reach=0, beyond=0)


class _Told(NamedTuple):
    """What a restart came to."""

    answered: int
    listed: frozenset[int]
    """Rows whose outcome has `unknown_calls`."""


def crash(scale: float) -> list[Result]:
    """Kill, restart, count."""
    calls = round(CALLS * scale)
    with (
        replay_server(synthetic=True, script=SCRIPT) as server,
        tempfile.TemporaryDirectory() as at,
    ):
        work = Work("openai", server.url, calls, IN_FLIGHT)
        first, second = Path(at) / "001.jsonl", Path(at) / "002.jsonl"
        _kill_half_way(work, first, server)
        out = sum(recover([read_when_closed(first)]).unknown.values())
        told = _restart(work, first, second)
        ledger, summary = server.ledger(), server.summary()
    asked_twice = _asked_twice(ledger, work.prompts())
    figures = {
        "lost": calls - told.answered,
        "in flight when killed": out,
        "asked twice": len(asked_twice),
        "bought twice": summary["queries_billed_twice"],
        "bought twice beyond in flight": max(0, summary["queries_billed_twice"] - out),
        "asked twice and not listed": len(asked_twice - told.listed),
    }
    none_of = ("lost", "bought twice beyond in flight", "asked twice and not listed")
    title = f"W5: kill -9 at half of {calls:,} queries, {IN_FLIGHT} in flight, and a restart"
    rows = [
        Figure(name, {OURS: count}, 0, _NONE if name in none_of else None)
        for name, count in figures.items()
    ]
    return [Result(title, rows, ["listed: the outcome has unknown_calls"])]


def _kill_half_way(work: Work, journal: Path, server: ReplayServer) -> None:
    process = SPAWN.Process(target=_answer, args=(work, None, journal, None))
    process.start()
    while server.summary()["queries_answered"] < work.calls / 2:
        if not process.is_alive():
            raise SystemExit(f"it ended by itself, with {process.exitcode}")
        time.sleep(LOOK_EVERY_S)  # another process counts the answers, so it has to be asked
    process.kill()
    process.join()


def _restart(work: Work, earlier: Path, journal: Path) -> _Told:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_answer, args=(work, earlier, journal, there))
    process.start()
    there.close()
    try:
        told: _Told = here.recv()
    except EOFError:
        raise SystemExit("the restart ended early") from None
    process.join()
    return told


def _answer(work: Work, earlier: Path | None, journal: Path, tell: Connection | None) -> None:
    """A start: the first one, or the one that goes on with an earlier one's journal."""
    history = History() if earlier is None else recover([read_when_closed(earlier)])
    told = uvloop.run(_dispatch(work, history, journal))
    if tell is not None:
        tell.send(told)


async def _dispatch(work: Work, history: History, path: Path) -> _Told:
    dispatcher, choices = open_dispatcher(work)
    journal = Journal(FileSink(path))
    settled = await dispatcher.answer(assignments_of(work.prompts(), choices), journal, history)
    await journal.close()
    await dispatcher.close()
    answered = [outcome for outcome, _ in settled if outcome.status != DEAD_LETTER]
    return _Told(len(answered), frozenset(o.row for o in answered if o.unknown_calls))


def _asked_twice(ledger: Sequence[dict[str, Any]], prompts: Sequence[str]) -> set[int]:
    """Rows that the vendor saw more than once."""
    rows = {prompt_key(prompt): row for row, prompt in enumerate(prompts)}
    seen: set[int] = set()
    again: set[int] = set()
    for entry in ledger:
        row = rows[entry["prompt"]]
        (again if row in seen else seen).add(row)
    return again
