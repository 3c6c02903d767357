from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.journal import Journal, SentBatch, recover
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


SENT = SentBatch("moa-1-a", "openai/gpt-4o", (0, 1, 2, 3), 4 * USD, 40.0, 80.0, NOON)


class Kept:
    """A journal's bytes."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append(self, data: bytes) -> None:
        self.lines.append(data)

    async def commit(self) -> None: ...

    async def close(self) -> None: ...


async def written(*lines: Callable[[Journal], object]) -> bytes:
    kept = Kept()
    journal = Journal(kept)
    for line in lines:
        if asyncio.iscoroutine(written := line(journal)):
            await written
    return b"".join(kept.lines)


def bought(row: int) -> Outcome:
    return replace(answer(row), lane="batch")


def left(row: int, usd: Decimal = Decimal(0)) -> Callable[[Journal], object]:
    attempt = Attempt("openai/gpt-4o", NOON, "TransientError", None, usd > 0, "expired")
    return lambda journal: journal.failed(row, attempt, usd, batch=SENT.reference)


async def test_a_batch_is_out_from_before_its_submission_until_it_is_fetched() -> None:
    submitted = replace(SENT, ids=("batch_1",))
    lines: list[Callable[[Journal], object]] = [
        lambda journal: journal.submitting(SENT),
        lambda journal: journal.submitted(submitted),
        lambda journal: journal.answered(bought(0)),
        lambda journal: journal.fetched(SENT.reference),
    ]

    stages = [recover([await written(*lines[:number])]) for number in range(5)]

    assert [list(stage.batches.values()) for stage in stages] == [
        [], [SENT], [submitted], [submitted], [],
    ]  # fmt: skip
    left_usd = 3 * USD + answer(0).cost_usd
    spent = [0, 4 * USD, 4 * USD, left_usd, answer(0).cost_usd]
    assert [stage.spent_usd for stage in stages] == spent


async def test_what_may_be_several_batches_is_recovered_as_that() -> None:
    unsure = replace(SENT, ids=("msgbatch_1", "msgbatch_2"), surely=False)

    history = recover(
        [await written(lambda j: j.submitting(SENT)), await written(lambda j: j.submitted(unsure))]
    )

    assert history.batches == {SENT.reference: unsure}


async def test_a_batchs_failures_count_once_it_is_fetched_and_only_then() -> None:
    submitting: Callable[[Journal], object] = lambda j: j.submitting(SENT)  # noqa: E731 - as the others
    fetched: Callable[[Journal], object] = lambda j: j.fetched(SENT.reference)  # noqa: E731
    died = await written(submitting, left(1), left(2, USD))
    again = await written(left(1), left(2, USD), fetched)

    before, after = recover([died]), recover([died, again])

    assert before.attempts == {}
    assert before.spent_usd == 4 * USD
    assert {row: len(attempts) for row, attempts in after.attempts.items()} == {1: 1, 2: 1}
    assert after.risked_usd == {1: 0, 2: USD}
    assert after.spent_usd == USD
    assert after.batches == {}


async def test_answers_and_failures_of_batches_settle_no_live_call() -> None:
    died = await written(lambda j: j.sent(1, "m", USD), lambda j: j.sent(2, "m", USD))
    batch = await written(
        lambda j: j.submitting(SENT),
        lambda j: j.answered(bought(1)),
        left(2),
        lambda j: j.fetched(SENT.reference),
    )

    history = recover([died, batch])

    assert +history.unknown == {1: 1, 2: 1}
    assert history.spent_usd == 2 * USD + answer(1).cost_usd


@given(cut=st.integers(0, 3000))
def test_a_journal_of_a_batch_cut_anywhere_neither_forgets_it_nor_what_it_costs(cut: int) -> None:
    async def write() -> bytes:
        return await written(
            lambda j: j.submitting(SENT),
            lambda j: j.submitted(replace(SENT, ids=("batch_1",))),
            *(lambda j, row=row: j.answered(bought(row)) for row in range(2)),
            left(2),
            left(3, USD),
            lambda j: j.fetched(SENT.reference),
        )

    whole = asyncio.run(write())
    kept = whole[:cut]
    history = recover([kept])

    lines = kept.count(b"\n")
    answered = min(max(lines - 2, 0), 2)
    assert (SENT.reference in history.batches) == (1 <= lines < 7)
    assert len(history.outcomes) == answered
    risked = USD if lines == 7 else (4 - answered) * USD if lines else 0
    assert history.spent_usd == answered * answer(0).cost_usd + risked


@given(cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_loses_only_its_last_line(cut: int) -> None:
    sink = Kept()

    async def write() -> None:
        journal = Journal(sink)
        for row in range(3):
            await journal.sent(row, "m", USD)
            journal.answered(answer(row))

    asyncio.run(write())
    whole = b"".join(sink.lines)
    kept = whole[:cut]
    history = recover([kept])

    complete = kept.count(b"\n")
    assert len(history.outcomes) == complete // 2
    assert sum((+history.unknown).values()) == complete % 2
