"""One model of one account: its waiting calls, sent in arrival order at the permitted rate."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from moa.catalog import Model
from moa.dispatch.breaker import Breaker
from moa.dispatch.journal import Journal
from moa.dispatch.outcome import Assignment, Attempt, Settled
from moa.dispatch.quota import Quota
from moa.errors import AccountRefused
from moa.providers.provider import Provider
from moa.request import ChatRequest


@dataclass(slots=True, eq=False)
class Call:
    """A query on its way to an outcome."""

    assignment: Assignment
    chat: ChatRequest
    journal: Journal
    done: asyncio.Future[Settled | None]
    """`None` when the run drains: the query is left to the next start."""
    unknown_calls: int = 0
    sent: int = 0
    choice: int = 0
    """Which of the assignment's models it is at."""
    tries: int = 0
    """Of this model."""
    first_try_at: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def model(self) -> Model:
        """The model it is at."""
        return self.assignment.models[self.choice]


class Account:
    """What the lines of one account share: its client, its connections, whether it is usable.

    Until the account has let a call through, one call is out at a time: a bad key costs one call,
    not a backlog of them.
    """

    def __init__(self, provider: Provider, max_in_flight: int) -> None:
        self.provider = provider
        self.refused: AccountRefused | None = None
        self.slots = asyncio.Semaphore(1)
        self.proven = False
        self._max_in_flight = max_in_flight

    def prove(self) -> None:
        """The account let a call through: open all its connections."""
        if not self.proven:
            self.proven = True
            for _ in range(self._max_in_flight - 1):
                self.slots.release()


class Sender(Protocol):
    """What a line hands its calls to."""

    def send(self, call: Call, line: Line) -> Coroutine[Any, Any, None]:
        """Make the call and see to what follows. The slot that the line took is its own."""
        ...

    def pass_on(self, call: Call, line: Line) -> bool:
        """Take the call away if this line cannot send it now and something better can be done."""
        ...


class Line:
    """The waiting calls to one model."""

    def __init__(
        self, account: Account, quota: Quota, breaker: Breaker, sender: Sender, max_in_flight: int
    ) -> None:
        self.account = account
        self.quota = quota
        self.breaker = breaker
        self.in_flight: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(max_in_flight)
        self._sender = sender
        self._waiting: deque[Call] = deque()
        self._arrived = asyncio.Event()
        self._pump = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting)

    def put(self, call: Call, *, first: bool = False) -> None:
        """Queue a call; one that is tried again goes `first`."""
        if first:
            self._waiting.appendleft(call)
        else:
            self._waiting.append(call)
        self._arrived.set()

    async def stop(self) -> list[Call]:
        """Send no more, and give back what waits."""
        self._pump.cancel()
        await asyncio.wait([self._pump])
        left = list(self._waiting)
        self._waiting.clear()
        return left

    async def _run(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            call = self._waiting.popleft()
            try:
                admitted = await self._admit(call)
            except asyncio.CancelledError:
                self._waiting.appendleft(call)
                raise
            if admitted:
                self._start(call)

    async def _admit(self, call: Call) -> bool:
        """Wait for the call's turn; false when it was passed on instead."""
        assignment = call.assignment
        if self._sender.pass_on(call, self):
            return False
        await self.quota.take(assignment.expected_input_tokens, assignment.expected_output_tokens)
        await self._slots.acquire()
        if await self._admit_to_account(call):
            return True
        self._slots.release()
        return False

    async def _admit_to_account(self, call: Call) -> bool:
        await self.account.slots.acquire()
        while not self.breaker.admit():
            self.account.slots.release()
            if self._sender.pass_on(call, self):
                return False
            await asyncio.sleep(self.breaker.wait_s())
            await self.account.slots.acquire()
        if self._sender.pass_on(call, self):  # the account may have been refused meanwhile
            self.account.slots.release()
            return False
        return True

    def _start(self, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(self._sender.send(call, self))
        self.in_flight.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        self._slots.release()
        self.account.slots.release()
