"""Which model began a conversation: known by a hash of its turns up to an answer, never by text.

A client sends its whole conversation back, but nothing that says who answered, and perhaps to
another process. So each process remembers what it has answered, and tells one owner, behind the
answer and many at once; a conversation that goes on and is unknown here is looked up there. What
that costs: one message to the owner for those conversations only, which is given up after
`ASK_S`. Without the owner they are routed as new ones, and none waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
import xxhash

from moa.request import Message

ASK_S = 0.025
"""That a request waits for the owner."""
TELL_S = 10.0
"""That telling may take: nobody waits for it, and an actor that is being started takes some."""
AWAY_S = 1.0
"""That an owner is not asked again after it has not answered."""
MOST_UNTOLD = 10_000
"""Conversations that wait to be told; the oldest are forgotten first."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a conversation was when it was last answered."""

    model: str
    """Catalog id."""
    at: float
    """Seconds since 1970: processes of several machines tell each other."""
    chars: int
    """Of its text so far, the answer included."""


class ConversationOwner(Protocol):
    """What all processes of an endpoint have in common."""

    async def find(self, keys: Sequence[int]) -> dict[int, Begun]:
        """Those that are known."""
        ...

    async def note(self, begun: Mapping[int, Begun]) -> None:
        """Remember conversations; a key that is known is replaced."""
        ...


class LatestConversations:
    """Conversations by key; the oldest are forgotten first. An owner, in an actor or alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[int, Begun] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def find(self, keys: Sequence[int]) -> dict[int, Begun]:
        """See `ConversationOwner.find`."""
        return {key: begun for key in keys if (begun := self.get(key)) is not None}

    async def note(self, begun: Mapping[int, Begun]) -> None:
        """See `ConversationOwner.note`."""
        for key, one in begun.items():
            self.put(key, one)

    def get(self, key: int) -> Begun | None:
        """What is known of one."""
        return self._known.get(key)

    def put(self, key: int, begun: Begun) -> None:
        """Remember one."""
        self._known[key] = begun
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


class Conversations:
    """What one process knows, and asks. Inside an event loop; close in `finally`.

    Args:
        most: that are remembered here.
        owner: whom other processes tell; `None`: there are none.
        clock: seconds since 1970.
        ask_s: that a request waits for the owner.
    """

    def __init__(
        self,
        most: int,
        owner: ConversationOwner | None = None,
        clock: Callable[[], float] = time.time,
        *,
        ask_s: float = ASK_S,
    ) -> None:
        self._here = LatestConversations(most)
        self._owner = owner
        self._clock = clock
        self._ask_s = ask_s
        self._away_until = 0.0
        self._untold: deque[tuple[int, Begun]] = deque(maxlen=MOST_UNTOLD)
        self._telling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._here)

    def remember(
        self, tenant: str, messages: Sequence[Message], answer: Message, model: str
    ) -> None:
        """A model has answered: whoever goes on from here goes on with it."""
        turns = [*messages, answer]
        key = _key(tenant, turns)
        begun = Begun(model, self._clock(), sum(len(one.text) for one in turns))
        self._here.put(key, begun)
        if self._owner is not None:
            self._untold.append((key, begun))
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell(self._owner))

    async def begun(
        self, tenant: str, conversations: Sequence[Sequence[Message]]
    ) -> list[Begun | None]:
        """What is known of the longest beginning of each that ends with an answer."""
        keys = [_key_of_beginning(tenant, messages) for messages in conversations]
        found = {key: self._here.get(key) for key in keys if key is not None}
        unknown = [key for key, begun in found.items() if begun is None]
        if unknown and self._owner is not None and self._clock() >= self._away_until:
            found.update(await self._ask(self._owner, unknown))
        return [None if key is None else found[key] for key in keys]

    def age_s(self, begun: Begun) -> float:
        """Since it was last answered."""
        return max(0.0, self._clock() - begun.at)

    async def close(self) -> None:
        """Tell what is untold, as long as somebody listens."""
        if self._telling is not None:
            await self._telling

    async def _ask(self, owner: ConversationOwner, keys: Sequence[int]) -> dict[int, Begun]:
        try:
            async with asyncio.timeout(self._ask_s):
                found = await owner.find(keys)
        except Exception as error:  # whatever it is: without the owner it is a new conversation
            self._is_away(error)
            return {}
        for key, begun in found.items():
            self._here.put(key, begun)
        return found

    async def _tell(self, owner: ConversationOwner) -> None:
        """All that comes while one message is under way goes with the next."""
        while self._untold:
            told = dict(self._untold)
            self._untold.clear()
            try:
                async with asyncio.timeout(TELL_S):
                    await owner.note(told)
            except Exception as error:  # as above: what was not told is not known elsewhere
                self._is_away(error)

    def _is_away(self, error: Exception) -> None:
        self._away_until = self._clock() + AWAY_S
        log.warning("conversations.no_answer", error=type(error).__name__)


def _key_of_beginning(tenant: str, messages: Sequence[Message]) -> int | None:
    for end in range(len(messages), 0, -1):
        if messages[end - 1].role == "assistant":
            return _key(tenant, messages[:end])
    return None


def _key(tenant: str, messages: Sequence[Message]) -> int:
    """Of what was said: clients write the same turns back in more than one form."""
    hashed = xxhash.xxh3_128(tenant.encode())
    for message in messages:
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        hashed.update(repr((message.role, message.text, calls)).encode())
    return hashed.intdigest()
