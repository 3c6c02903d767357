"""Which model began a conversation: known by a hash of its turns up to an answer, never by text."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xxhash

from moa.request import Message


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a conversation was when it was last answered."""

    model: str
    """Catalog id."""
    at: float
    """By the clock."""
    chars: int
    """Of its text so far, the answer included."""


class Conversations:
    """The latest conversations of one process; the oldest are forgotten first."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._known: OrderedDict[int, Begun] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(
        self, tenant: str, messages: Sequence[Message], answer: Message, model: str
    ) -> None:
        """A model has answered: whoever goes on from here goes on with it."""
        turns = [*messages, answer]
        key = _key(tenant, turns)
        self._known[key] = Begun(model, self._clock(), sum(len(one.text) for one in turns))
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def begun(self, tenant: str, messages: Sequence[Message]) -> Begun | None:
        """What is known of the longest beginning of a conversation that ends with an answer."""
        for end in range(len(messages), 0, -1):
            if messages[end - 1].role == "assistant":
                return self._known.get(_key(tenant, messages[:end]))
        return None

    def age_s(self, begun: Begun) -> float:
        """Since it was last answered."""
        return self._clock() - begun.at


def _key(tenant: str, messages: Sequence[Message]) -> int:
    """Of what was said: clients write the same turns back in more than one form."""
    hashed = xxhash.xxh3_128(tenant.encode())
    for message in messages:
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        hashed.update(repr((message.role, message.text, calls)).encode())
    return hashed.intdigest()
