from __future__ import annotations

from decimal import Decimal

from moa.dispatch.settings import Progress
from moa.pipeline.load import OPEN_IN_BATCHES, OPEN_PIECES, Load, least
from moa.storage.run_folder import PartName, PieceName

MOST = 100
PART = PartName(0, 0, 10)
OPENAI, GOOGLE = PieceName(PART, "openai"), PieceName(PART, "google")
BATCHES = PieceName(PART, "openai", in_batches=True)


def progress(unsettled: int, *, at_s: float = 1.0, of: str = "a") -> Progress:
    return Progress(of, at_s, 0, 0, 0, 0, 0, Decimal(0), {"openai": unsettled})


def busy(*pieces: int) -> Load:
    load = Load()
    for rows in pieces:
        load.add("openai", rows)
    return load


def test_what_was_handed_out_counts_until_an_answer_can_know_of_it() -> None:
    load = Load()
    load.asked()
    load.add("openai", 60)

    load.answered(progress(0))  # to a question from before the piece
    before = load.unsettled("openai")
    load.asked()
    load.answered(progress(45, at_s=2.0))

    assert before == 60
    assert load.unsettled("openai") == 45


def test_a_large_piece_leaves_room_again_when_most_of_it_is_settled() -> None:
    load = busy(3000)
    assert not load.has_room(OPENAI, MOST)

    load.asked()
    load.answered(progress(MOST - 1))

    assert load.has_room(OPENAI, MOST)
    assert load.has_room(GOOGLE, MOST)


def test_slow_tails_do_not_open_pieces_without_end() -> None:
    load = busy(*[10] * OPEN_PIECES)
    load.asked()
    load.answered(progress(OPEN_PIECES))

    full = load.has_room(OPENAI, MOST)
    load.remove("openai")

    assert not full
    assert load.has_room(OPENAI, MOST)


def test_the_least_busy_of_those_with_room_is_next() -> None:
    tails = busy(*[10] * OPEN_PIECES)  # nearly done, and with no room for a further piece
    tails.asked()
    tails.answered(progress(OPEN_PIECES))

    assert least([tails, busy(20), busy(30)], OPENAI, MOST) == 1
    assert least([busy(20), busy(), busy()], OPENAI, MOST) == 1
    assert least([tails, busy(MOST)], OPENAI, MOST) is None


def test_an_answer_that_was_overtaken_is_not_believed_unless_another_gave_it() -> None:
    load = Load()
    load.learn(progress(5, at_s=10.0))

    load.learn(progress(9, at_s=9.0))
    overtaken = load.unsettled("openai")
    load.learn(progress(7, at_s=8.0, of="started again"))

    assert overtaken == 5
    assert load.unsettled("openai") == 7


def test_batches_are_a_queue_of_their_own_with_room_for_many_pieces() -> None:
    load = Load()
    for _ in range(OPEN_IN_BATCHES - 1):
        load.add(BATCHES.queue, 10 * MOST)

    assert load.has_room(BATCHES, MOST)
    assert load.has_room(OPENAI, MOST)
    load.add(BATCHES.queue, 1)
    assert not load.has_room(BATCHES, MOST)
