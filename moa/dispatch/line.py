"""One model of one account: its waiting calls, sent in arrival order at the permitted rate."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import structlog

from moa.dispatch.breaker import Breaker
from moa.dispatch.call import LIVE, Call
from moa.dispatch.estimate import TokenEstimate
from moa.dispatch.lease import RENEW_S, Lease
from moa.dispatch.patience import Latencies, Watch
from moa.dispatch.quota import NOTHING, Amount, Owner
from moa.dispatch.window import InFlight
from moa.errors import (
    AccountRefused,
    KeyRefused,
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.provider import Answer, Provider

LOOK_AGAIN_S = 3600.0
"""After a spent quota whose vendor does not say when it is filled again."""
OVERLOADED = (408, 503, 504, 529)
TIMEOUT = "timeout"
"""Code of a call whose answer did not come in time."""
PRESUMED_GOOD_S = 45.0
"""A key is judged before a model is: if the first call was not refused by then, it works. Longer
than a connection may take.
"""
ONE_REQUEST = Amount(1.0)

log = structlog.get_logger()


class Account:
    """What the lines of one account share: its client, its connections, whether it is usable.

    Until the account has let a call through, one call is out at a time: a bad key costs one call,
    not a backlog of them. A first call that hangs does not hold up the others.
    """

    def __init__(self, provider: Provider, owner: Owner, max_in_flight: int, process: str) -> None:
        """`process` is the first part of its lines' names as holders."""
        self.provider = provider
        self.owner = owner
        self._process = process
        self.refused: AccountRefused | None = None
        self.slots = asyncio.Semaphore(1)
        self.proven = False
        self._max_in_flight = max_in_flight

    def prove(self) -> None:
        """The account let a call through: open all its connections."""
        if not self.proven:
            self.proven = True
            self.owner.prove()
            for _ in range(self._max_in_flight - 1):
                self.slots.release()

    def release(self, *, another: bool = False) -> None:
        """A call has left its slot. Unless the account let one through, or `another` is about to be
        tried, other processes need not wait for this one: budget or client may have kept it back.
        """
        self.slots.release()
        if not another and not self.slots.locked():
            self._hand_over()

    async def close(self) -> None:
        """Close its connections."""
        self._hand_over()
        await self.provider.close()

    def _hand_over(self) -> None:
        if not self.proven and self.refused is None:
            self.owner.hand_over(self._process)


class Sender(Protocol):
    """What a line hands its calls to."""

    def send(self, call: Call, line: Line) -> Coroutine[Any, Any, None]:
        """Make the call and see to what follows. The slot that the line took is its own."""
        ...

    def pass_on(self, call: Call, line: Line) -> bool:
        """Take the call away if this line cannot send it now and something better can be done."""
        ...

    def refuse(self, call: Call, error: KeyRefused) -> None:
        """The account's key was never any good: the run ends."""
        ...

    def fail(self, call: Call, error: Exception) -> None:
        """Something broke that no vendor is to blame for: the call, and with it the run, ends."""
        ...


class Line:
    """The waiting calls to one model."""

    def __init__(
        self,
        account: Account,
        lease: Lease,
        sender: Sender,
        max_in_flight: int,
        clock: Callable[[], float],
    ) -> None:
        self.account = account
        self.breaker = Breaker(clock)
        self.estimate = TokenEstimate()
        self.in_flight: set[asyncio.Task[None]] = set()
        self.answers = 0
        """Calls that were answered, since it began."""
        self.spent: QuotaSpent | None = None
        """Why the line is paused for long, while it is."""
        self._lease = lease
        self._latencies = Latencies()
        self.watch = Watch(self._latencies, clock)
        self._window = InFlight(max_in_flight, clock)
        self._sender = sender
        self._clock = clock
        self._resume_at = 0.0
        self._answered_up_to = 0.0
        """When the latest of the calls was sent that were answered."""
        self._waiting: deque[Call] = deque()
        self._head: Call | None = None
        """Has left the queue, and waits for what it needs."""
        self._arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run())]
        self._share_wanted = asyncio.Event()
        if lease.most_in_flight is not None:
            self._share_calls()

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return len(self._waiting) + (self._head is not None)

    @property
    def out(self) -> bool:
        """Nothing can be sent for now, and perhaps for long."""
        return (
            self.account.refused is not None
            or self.breaker.wait_s() > 0
            or (self.spent is not None and self.pause_s() > 0)
        )

    def pause_s(self) -> float:
        """Seconds until anything may go out, because the vendor asked for it."""
        return max(0.0, self._resume_at - self._clock())

    def put(self, call: Call, *, first: bool = False) -> None:
        """Queue a call, unless it had better go elsewhere; one that is tried again goes `first`."""
        if self.out and self._passed_on(call):
            return
        if first:
            self._waiting.appendleft(call)
        else:
            self._waiting.append(call)
        self._arrived.set()
        if self._lease.most_in_flight == 0:
            self._share_wanted.set()

    def withdraw(self, call: Call) -> None:
        """Whoever wanted it has left: its place is another's."""
        with suppress(ValueError):  # its turn is next, or has come
            self._waiting.remove(call)

    def never_fits(self, call: Call) -> bool:
        """The call needs all of a minute's limit: if it was refused, it will be again."""
        return self._lease.never_fits(call.taken)

    def not_sent(self, call: Call) -> None:
        """An admitted call did not go out after all."""
        self.breaker.release(call.assignment.query_id)
        self._lease.give_back(call.taken)

    def answered(self, call: Call, answer: Answer, sent_at: float) -> None:
        """A call has its answer: learn from it."""
        self.answers += 1
        usage = answer.completion.usage
        used = Amount(1.0, usage.input_tokens, usage.output_tokens)
        self.breaker.answered()
        self.account.prove()
        self._answered_up_to = max(self._answered_up_to, sent_at)
        self._lease.used(sent_at, call.taken, used)
        self._lease.hear(answer.limits)
        self.estimate.learn(call.choice, usage)
        slowness = 1.0
        if call.lane == LIVE:  # others wait until there is room, which says nothing of the line
            slowness = self._latencies.learn(
                usage.output_tokens,
                self._clock() - sent_at,
                expected_tokens=call.taken.output_tokens,
            )
        self._window.congestion.answered(slowness)

    def left(self, call: Call, sent_at: float, used: Amount) -> None:
        """Whoever wanted the answer has left, and the call was cut; it has used about so much."""
        self.breaker.release(call.assignment.query_id)
        self._lease.used(sent_at, call.taken, used)

    def heed(self, error: ProviderError, call: Call, sent_at: float) -> None:
        """What a failed call says of this line and its account."""
        query_id = call.assignment.query_id
        if error.status is not None and not isinstance(error, AccountRefused):
            self.account.prove()
        match error:
            case AccountRefused():
                self.breaker.release(query_id)
                self.account.refused = error
                if not isinstance(error, KeyRefused):  # others need not find out one by one
                    self.account.owner.prove()
            case LaneUnavailable():
                self.breaker.answered()
                self._lease.used(sent_at, call.taken, ONE_REQUEST)
            case RateLimited():
                self.breaker.answered()
                self._lease.used(sent_at, call.taken, ONE_REQUEST)
                self._window.congestion.refused()
                self._pause(error)
            case TransientError():
                self._heed_failure(error, query_id, sent_at)
            case ProviderError(status=None):  # refused before it was sent
                self.breaker.release(query_id)
                self._lease.used(sent_at, call.taken, NOTHING)
            case _:  # the request's own fault: the vendor has only looked at it
                self.breaker.answered()
                self._lease.used(sent_at, call.taken, ONE_REQUEST)

    def _heed_failure(self, error: TransientError, query_id: str, sent_at: float) -> None:
        late = error.code == TIMEOUT
        if late and sent_at <= self._answered_up_to:
            self.breaker.release(query_id)  # later ones were answered: the vendor is there
        else:
            self.breaker.failed(query_id)
        if late or error.status in OVERLOADED:
            self._window.congestion.too_much()

    def _pause(self, error: RateLimited) -> None:
        pause_s = error.retry_after_s or 0.0
        if isinstance(error, QuotaSpent):
            self.spent = error
            pause_s = pause_s or LOOK_AGAIN_S
        self._pause_for(pause_s)
        self._lease.refused(pause_s)

    def _pause_for(self, seconds: float) -> None:
        """Never shortens an earlier pause."""
        self._resume_at = max(self._resume_at, self._clock() + seconds)

    def reconsider(self) -> None:
        """The line is out: calls behind its head need not wait with it."""
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
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        left = list(self._waiting)
        self._waiting.clear()
        return left

    async def _run(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            call = self._head = self._waiting.popleft()
            try:
                admitted = await self._admit(call)
            except asyncio.CancelledError:
                self._waiting.appendleft(call)
                raise
            except KeyRefused as error:  # by somebody else's first call
                self._sender.refuse(call, error)
                continue
            except Exception as error:  # a bug, or a journal that cannot be written
                self._sender.fail(call, error)
                continue
            finally:
                self._head = None
            if admitted:
                self._start(call)
            if self.out:  # it was the probe, or the vendor is still out
                self.reconsider()

    async def _admit(self, call: Call) -> bool:
        """Wait for the call's turn; false when it was passed on instead."""
        while not self._sender.pass_on(call, self):
            if (pause_s := self.pause_s()) > 0:
                await asyncio.sleep(pause_s)
                continue
            self.spent = None
            await self._window.take()
            try:
                if await self._may_go(call):
                    return True
            except BaseException:
                self._window.release()
                raise
            self._window.release()
            if self._sender.pass_on(call, self):
                break
            if self.out:
                self.reconsider()
            if self.breaker.wait_s() > 0:
                await self.breaker.wait()
        return False

    async def _may_go(self, call: Call) -> bool:
        """Take what the call needs; false, and all is given back, when it may not go after all."""
        needed = self._lease.capped(self.estimate.amount(call.choice))
        coming = (self.estimate.amount(one.choice) for one in self._waiting)
        self._lease.proven = self.account.proven
        try:
            await self._lease.take(needed, coming, self._window.out)
        except QuotaSpent as error:
            self.spent = error
            self._pause_for(error.retry_after_s or LOOK_AGAIN_S)
            return False
        if self._lease.proven:
            self.account.prove()
        self._share_calls()
        await self.account.slots.acquire()
        # While it waited for all this, the answers to others may have changed the picture.
        unhindered = self.account.refused is None and self.pause_s() == 0
        if unhindered and self.breaker.admit(call.assignment.query_id):
            call.taken = needed
            return True
        self.account.release()
        self._lease.give_back(needed)
        return False

    def _share_calls(self) -> None:
        """Heed the share of the calls at once, once there is one: another holder's catalog may name
        a limit that this line's does not.
        """
        self._window.allow(self._lease.most_in_flight)
        if self._lease.most_in_flight is not None and len(self._tasks) == 1:
            renewing = asyncio.get_running_loop().create_task(self._renew_share())
            self._tasks.append(renewing)

    async def _renew_share(self) -> None:
        """Of the calls at once, as long as there is anything to do."""
        at_work = False
        while True:
            self._share_wanted.clear()
            before, at_work = at_work, bool(self._waiting or self._head or self._window.out)
            if not at_work:
                self._window.allow(0)  # before the owner gives it to others
            if before or at_work:
                try:
                    await self._lease.renew(self._window.out, at_work=at_work)
                except KeyRefused:  # the next call finds out
                    pass
                except Exception as error:  # whatever it was, the line must not stand still
                    log.warning("share.not_renewed", error=repr(error))
                self._window.allow(self._lease.most_in_flight)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._share_wanted.wait()

    def _start(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._sender.send(call, self))
        if not self.account.proven:
            loop.call_later(PRESUMED_GOOD_S, self._presume, task)
        self.in_flight.add(task)
        task.add_done_callback(self._end)

    def _presume(self, task: asyncio.Task[None]) -> None:
        if task in self.in_flight and self.account.refused is None:
            self.account.prove()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        self._window.release()
        self.account.release(another=self.waiting > 0 and not self.out)
