from __future__ import annotations

import asyncio

from moa.dispatch.proof import PROOF_S, Proof
from tests.dispatch.virtual_time import Passing, now_s, virtually


@virtually
async def test_the_first_to_ask_finds_out_and_may_ask_again() -> None:
    proof, passed = Proof(now_s), Passing()

    said = [await proof.wait("p"), await proof.wait("p")]

    assert said == ["", ""]
    assert passed.s < 0.01


@virtually
async def test_others_go_on_when_it_is_proven() -> None:
    proof, passed = Proof(now_s), Passing()
    await proof.wait("p")
    others = [asyncio.create_task(proof.wait(f"q{n}")) for n in range(3)]

    await asyncio.sleep(5)
    waiting = not any(task.done() for task in others)
    proof.prove()

    assert waiting
    assert await asyncio.gather(*others, proof.wait("later")) == [""] * 4
    assert passed.s < 5.01


@virtually
async def test_a_prover_that_dies_is_replaced_by_one_of_those_who_wait() -> None:
    proof, passed = Proof(now_s), Passing()
    await proof.wait("dies")
    others = [asyncio.create_task(proof.wait(f"q{n}")) for n in range(3)]

    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    after_one_s = passed.s
    await asyncio.sleep(1)
    gone_on = [task.done() for task in others]
    proof.prove()
    await asyncio.gather(*others)

    assert PROOF_S - 0.1 <= after_one_s <= PROOF_S + 0.1
    assert gone_on.count(True) == 1


@virtually
async def test_a_prover_that_cannot_prove_is_followed_by_another() -> None:
    proof = Proof(now_s)
    await proof.wait("tries")
    other = asyncio.create_task(proof.wait("other"))

    async def keep_trying() -> None:
        while True:
            await proof.wait("tries")
            await asyncio.sleep(PROOF_S / 4)

    trying = asyncio.create_task(keep_trying())
    await asyncio.sleep(2.1 * PROOF_S)

    assert other.done()
    trying.cancel()


@virtually
async def test_a_prover_that_hands_over_is_followed_by_one_of_those_who_wait_at_once() -> None:
    proof, passed = Proof(now_s), Passing()
    await proof.wait("has no money left")
    others = [asyncio.create_task(proof.wait(f"q{n}")) for n in range(3)]
    await asyncio.sleep(1)

    proof.hand_over("q0")  # it is not its to hand over
    await asyncio.sleep(1)
    before = [task.done() for task in others]
    proof.hand_over("has no money left")
    await asyncio.sleep(1)
    after = [task.done() for task in others]
    proof.prove()
    await asyncio.gather(*others)

    assert before == [False] * 3
    assert after.count(True) == 1
    assert passed.s < 3.01


@virtually
async def test_who_hands_over_takes_no_refusal_back() -> None:
    proof = Proof(now_s)
    await proof.wait("p")
    proof.refuse("no such key")

    proof.hand_over("p")

    assert await proof.wait("q") == "no such key"


@virtually
async def test_a_refusal_is_told_to_all_and_forgotten_when_the_key_may_be_mended() -> None:
    proof = Proof(now_s)
    await proof.wait("p")
    waiting = asyncio.create_task(proof.wait("q"))
    await asyncio.sleep(1)

    proof.refuse("no such key")
    told = [await waiting, await proof.wait("r"), await proof.wait("p")]
    await asyncio.sleep(PROOF_S)
    later = await proof.wait("tomorrow's run")
    other = asyncio.create_task(proof.wait("its second replica"))
    await asyncio.sleep(1)
    waits_again = not other.done()
    proof.prove()

    assert told == ["no such key"] * 3
    assert later == ""
    assert waits_again
    assert await other == ""


@virtually
async def test_a_key_that_was_good_is_not_refused_to_others() -> None:
    proof = Proof(now_s)
    await proof.wait("p")
    proof.prove()

    proof.refuse("expired")

    assert await proof.wait("q") == ""


@virtually
async def test_a_call_that_is_let_through_after_all_ends_a_refusal() -> None:
    proof = Proof(now_s)
    await proof.wait("p")
    proof.refuse("no such key")

    proof.prove()

    assert await proof.wait("q") == ""
