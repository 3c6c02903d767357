from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.journal import Journal, recover
from moa.dispatch.outcome import ANSWERED, Attempt, DeadLetter, Outcome
from moa.storage.journal_files import FileSink, read_when_closed

USD = Decimal("0.003")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def answer(row: int, text: str = "Paris") -> Outcome:
    return Outcome(
        f"q{row}", 0, row, ANSWERED, ["t"], completion=text, cost_usd=Decimal("0.00012"),
        latency_s=0.5, finished_at=NOON,
    )  # fmt: skip


def letter(row: int) -> DeadLetter:
    attempt = Attempt("openai/gpt-4o", NOON, "TransientError", 503, True, "overloaded")
    return DeadLetter(f"q{row}", 0, row, "vendor_failed", "503", (attempt,), "{}", None, [])


async def test_what_was_written_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "piece.001.jsonl"
    journal = Journal(FileSink(path))
    dead = letter(3)

    for row in range(4):
        await journal.sent(row, "openai/gpt-4o", USD)
    journal.answered(answer(0))
    refused = Attempt("openai/gpt-4o", NOON, "RateLimited", 429, False, "later")
    journal.failed(1, refused, Decimal(0))
    journal.failed(3, dead.attempts[0], USD)
    journal.dead(dead.outcome(attempts=1), dead)
    await journal.close()
    history = recover([read_when_closed(path)])

    assert history.outcomes[0] == answer(0)
    assert history.letters == {3: dead}
    assert +history.unknown == {2: 1}
    assert history.attempts == {
        1: [refused],
        3: [*dead.attempts],
    }
    assert history.risked_usd == {1: 0, 2: USD, 3: USD}  # unknown, and cut
    assert history.spent_usd == answer(0).cost_usd + 2 * USD


@given(cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_loses_only_its_last_line(cut: int) -> None:
    lines: list[bytes] = []

    class Kept:
        def append(self, data: bytes) -> None:
            lines.append(data)

        async def commit(self) -> None: ...

        async def close(self) -> None: ...

    async def write() -> None:
        journal = Journal(Kept())
        for row in range(3):
            await journal.sent(row, "m", USD)
            journal.answered(answer(row))

    asyncio.run(write())
    whole = b"".join(lines)
    kept = whole[:cut]
    history = recover([kept])

    complete = kept.count(b"\n")
    assert len(history.outcomes) == complete // 2
    assert sum((+history.unknown).values()) == complete % 2
