from __future__ import annotations

from decimal import Decimal

from moa.dispatch.settings import HandedOver, Progress
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


def test_no_piece_is_in_neither_count_though_results_overtake_each_other() -> None:
    first, second = HandedOver(60, 2, Decimal(3)), HandedOver(40, 1, Decimal(2))
    begun = progress(0)._replace(done=105, dead=3, spent_usd=Decimal(6))
    rest = progress(0, at_s=2.0)._replace(done=5, spent_usd=Decimal(1))
    load = Load()

    load.learn(begun)
    none_ended = load.standing({"first", "second"})
    load.learn(rest._replace(handed_over={"first": first, "second": second}))
    none_taken = load.standing({"first", "second"})
    load.learn(rest._replace(handed_over={"first": first}))  # with the second one's result
    one_taken = load.standing({"first"})
    load.learn(begun._replace(at_s=1.5))  # with the first one's
    both_taken = load.standing(set())

    assert none_ended == begun
    assert none_taken is not None
    assert one_taken is not None
    assert both_taken is not None
    assert counted(none_taken) == counted(begun)
    assert counted(one_taken.plus([second])) == counted(begun)
    assert counted(both_taken.plus([first, second])) == counted(begun)


def counted(standing: Progress) -> tuple[int, int, Decimal]:
    return standing.done, standing.dead, standing.spent_usd


def test_a_replica_is_told_which_results_are_here() -> None:
    load, piece = Load(), HandedOver(1, 0, Decimal(0))
    assert load.taken({"first"}) == []

    load.learn(progress(0)._replace(handed_over={"first": piece, "second": piece}))

    assert load.taken({"first", "third"}) == ["second"]
