from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from moa.request import ChatRequest, Message
from moa.serving.conversations import (
    AWAY_S,
    Begun,
    ConversationOwner,
    Conversations,
    LatestConversations,
)
from tests.conftest import FakeClock


def turns(*texts: str) -> Sequence[Message]:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return ChatRequest.model_validate({"messages": messages}).messages


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


async def one(known: Conversations, tenant: str, *texts: str) -> Begun | None:
    (found,) = await known.begun(tenant, [turns(*texts)])
    return found


class Counting(LatestConversations):
    """An owner that counts what it is asked and told, and may be away."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked = self.told = 0
        self.away = False

    async def find(self, keys: Sequence[int]) -> dict[int, Begun]:
        self.asked += 1
        if self.away:
            await asyncio.Event().wait()
        return await super().find(keys)

    async def note(self, begun: Mapping[int, Begun]) -> None:
        self.told += 1
        if self.away:
            raise ConnectionError
        await super().note(begun)


async def test_conversations_are_known_by_their_turns_and_tenant(clock: FakeClock) -> None:
    known = Conversations(2, clock=clock)
    known.remember("a", turns("Hello"), said("Hi"), "m/1")
    clock.advance(5)

    found = await one(known, "a", "Hello", "Hi", "Go on")

    assert found is not None
    assert (found.model, known.age_s(found)) == ("m/1", 5)
    assert await one(known, "b", "Hello", "Hi", "Go on") is None
    assert await one(known, "a", "Hello", "Ho", "Go on") is None
    for number in range(3):
        known.remember("a", turns("Hello"), said(str(number)), "m/2")
    assert len(known) == 2


async def test_a_conversation_goes_on_in_another_process(clock: FakeClock) -> None:
    owner = Counting()
    first, second = (Conversations(10, owner, clock) for _ in range(2))
    first.remember("a", turns("Hello"), said("Hi"), "m/1")
    await first.close()
    clock.advance(3)

    found = await one(second, "a", "Hello", "Hi", "Go on")
    again = await one(second, "a", "Hello", "Hi", "Go on")

    assert found is not None
    assert (found.model, second.age_s(found), again) == ("m/1", 3, found)
    assert owner.asked == 1  # what was found is known here from then on
    second.remember("a", turns("Hello", "Hi", "Go on"), said("Well"), "m/2")
    await second.close()
    back = await one(first, "a", "Hello", "Hi", "Go on", "Well", "And?")
    assert back is not None
    assert back.model == "m/2"


async def test_new_conversations_and_those_that_are_known_ask_nobody(clock: FakeClock) -> None:
    owner = Counting()
    known = Conversations(10, owner, clock)
    known.remember("a", turns("Hello"), said("Hi"), "m/1")

    await known.begun("a", [turns("Something new"), turns("Hello", "Hi", "Go on")])

    assert owner.asked == 0


async def test_what_comes_while_one_message_is_under_way_goes_with_the_next() -> None:
    owner = Counting()
    known = Conversations(1000, owner)

    for number in range(100):
        known.remember("a", turns("Hello"), said(str(number)), "m/1")
    await known.close()

    assert owner.told == 1
    assert len(owner) == 100


async def test_an_owner_that_is_away_holds_up_one_request_and_not_the_next(
    clock: FakeClock,
) -> None:
    owner = Counting()
    owner.away = True
    known: Conversations = Conversations(10, owner, clock)

    unknown = [await one(known, "a", "Hello", "Hi", "Go on") for _ in range(5)]
    known.remember("a", turns("Hello"), said("Hi"), "m/1")
    await known.close()
    here = await one(known, "a", "Hello", "Hi", "Go on")

    assert unknown == [None] * 5
    assert owner.asked == 1
    assert here is not None
    owner.away = False
    clock.advance(2 * AWAY_S)
    await one(known, "a", "Other", "Hi", "Go on")
    assert owner.asked == 2


async def test_the_owner_forgets_the_oldest_first() -> None:
    owner: ConversationOwner = LatestConversations(2)

    for key in range(3):
        await owner.note({key: Begun("m/1", 0.0, 1)})

    assert sorted(await owner.find([0, 1, 2])) == [1, 2]
