"""One model of one account: its waiting calls, sent in arrival order at the permitted rate."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from moa.dispatch.breaker import Breaker
from moa.dispatch.call import Call
from moa.dispatch.quota import Quota
from moa.errors import AccountRefused, ProviderError, QuotaSpent, RateLimited, TransientError
from moa.providers.provider import Provider

LOOK_AGAIN_S = 3600.0
"""After a spent quota whose vendor does not say when it is filled again."""


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

    def fail(self, call: Call, error: Exception) -> None:
        """Something broke that no vendor is to blame for: the call, and with it the run, ends."""
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
        self.spent: QuotaSpent | None = None
        """Why `quota` is paused for long, while it is."""
        self._slots = asyncio.Semaphore(max_in_flight)
        self._sender = sender
        self._waiting: deque[Call] = deque()
        self._arrived = asyncio.Event()
        self._pump = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting)

    @property
    def out(self) -> bool:
        """Nothing can be sent for now, and perhaps for long."""
        return (
            self.account.refused is not None
            or self.breaker.wait_s() > 0
            or (self.spent is not None and self.quota.pause_s() > 0)
        )

    def put(self, call: Call, *, first: bool = False) -> None:
        """Queue a call, unless it had better go elsewhere; one that is tried again goes `first`."""
        if self.out and self._passed_on(call):
            return
        if first:
            self._waiting.appendleft(call)
        else:
            self._waiting.append(call)
        self._arrived.set()

    def heed(self, error: ProviderError, query_id: str) -> None:
        """What a failed call of a query says of this line and its account."""
        if error.status is not None and not isinstance(error, AccountRefused):
            self.account.prove()
        match error:
            case AccountRefused():
                self.breaker.release(query_id)
                self.account.refused = error
            case RateLimited():
                self.breaker.answered()
            case TransientError():
                self.breaker.failed(query_id)
            case ProviderError(status=None):  # refused before it was sent
                self.breaker.release(query_id)
            case _:
                self.breaker.answered()
        if isinstance(error, QuotaSpent):
            self.spent = error
            self.quota.pause(error.retry_after_s or LOOK_AGAIN_S)
        elif isinstance(error, RateLimited):  # any other "later" is its call's, or the breaker's
            self.quota.pause(error.retry_after_s or 0.0)

    def reconsider(self) -> None:
        """The line is out since now: calls behind its head need not wait with it."""
        waiting, self._waiting = self._waiting, deque()
        self._waiting.extend(call for call in waiting if not self._passed_on(call))

    def _passed_on(self, call: Call) -> bool:
        try:
            return self._sender.pass_on(call, self)
        except Exception as error:  # a journal that cannot be written
            self._sender.fail(call, error)
            return True

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
            except Exception as error:  # a bug, or a journal that cannot be written
                self._sender.fail(call, error)
                continue
            if admitted:
                self._start(call)
                if self.out:  # it was the probe
                    self.reconsider()

    async def _admit(self, call: Call) -> bool:
        """Wait for the call's turn; false when it was passed on instead."""
        if self._sender.pass_on(call, self):
            return False
        await self.quota.take(call.choice.input_tokens, call.choice.output_tokens)
        while not self._sender.pass_on(call, self):
            if (pause_s := self.quota.pause_s()) > 0:
                await asyncio.sleep(pause_s)
                continue
            self.spent = None
            await self._slots.acquire()
            await self.account.slots.acquire()
            # While it waited for its slots, the answers to others may have changed the picture.
            unhindered = self.account.refused is None and self.quota.pause_s() == 0
            if unhindered and self.breaker.admit(call.assignment.query_id):
                return True
            self._release_slots()
            if self._sender.pass_on(call, self):
                return False
            if unhindered:
                await self.breaker.wait()
        return False

    def _release_slots(self) -> None:
        self._slots.release()
        self.account.slots.release()

    def _start(self, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(self._sender.send(call, self))
        self.in_flight.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        self._release_slots()
