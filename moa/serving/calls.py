"""Calls that somebody waits for: a turn at a model, the call itself, the next best model.

The lines of `moa.dispatch` say when a call may go out. Whoever wants an answer makes the call
in its own coroutine and holds the line's slot meanwhile, so that cancelling it cancels the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import cast

import structlog

from moa.catalog import Model
from moa.dispatch.call import Call
from moa.dispatch.detour import outage_of
from moa.dispatch.journal import Journal
from moa.dispatch.lease import Lease
from moa.dispatch.line import Account, Line
from moa.dispatch.outcome import Assignment, Choice, Settled
from moa.dispatch.quota import Amount, Owner, QuotaOwner
from moa.dispatch.retry import RetryPolicy
from moa.errors import (
    AccountRefused,
    KeyRefused,
    ProviderError,
    RateLimited,
    TransientError,
)
from moa.providers.provider import (
    Answer,
    CompletionDelta,
    Provider,
    Request,
    VendorLimits,
)
from moa.request import ChatRequest
from moa.serving.config import CallsConfig
from moa.serving.course import LEFT, Course

WAITED = "no_turn"
"""Code of a call that was never made: its turn did not come in time, or too many wait."""
CHARS_PER_TOKEN = 4
ACCOUNT_AGAIN_S = 60.0
"""After which an account that was refused is tried again: an endpoint runs for months, and whoever
runs it may have paid the bill, or mended the key."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """An answer that somebody waits for."""

    query_id: str
    chat: ChatRequest
    choices: tuple[Choice, ...]
    """The chosen model, then its fallbacks."""
    stream: bool


@dataclass(slots=True, eq=False)
class Turn(Call):
    """A place in a line; `done` is set when its turn has come."""

    elsewhere: bool = False
    """Whether another model is left for it."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Caller:
    """One process's connections and lines. Open inside an event loop; close in `finally`."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        models: Sequence[Model],
        config: CallsConfig,
        *,
        owners: Mapping[str, Owner] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Providers and owners are by account; without owners it owns the quotas itself."""
        self._config = config
        self._clock = clock
        self._random = Random()
        self._retry = RetryPolicy(config.max_attempts, config.patience_s, longest_backoff_s=4.0)
        self._name = secrets.token_hex(4)
        owners = owners or {name: QuotaOwner(clock) for name in providers}
        self._accounts = {
            name: Account(provider, owners[name], config.max_in_flight, self._name)
            for name, provider in providers.items()
        }
        self._lines = {model.id: self._line(model) for model in models}

    def _line(self, model: Model) -> Line:
        account = self._accounts[model.provider]
        lease = Lease(
            account.owner,
            model.api_name,
            model.limits,
            f"{self._name}/{model.id}",
            self._clock,
            interactive=True,
            reserve=self._config.reserve,
        )
        return Line(account, lease, self, self._config.max_in_flight, self._clock)

    def waiting(self) -> dict[str, int]:
        """Requests that wait for each model."""
        return {name: line.waiting for name, line in self._lines.items()}

    def in_flight(self) -> int:
        """Calls that are out."""
        return sum(len(line.in_flight) for line in self._lines.values())

    async def close(self) -> None:
        """Send nothing more, and close the connections; whoever still waits is told."""
        for line in self._lines.values():
            for call in await line.stop():
                _tell(call, TransientError("the endpoint is shutting down", code="closed"))
        for account in self._accounts.values():
            await account.close()

    async def answer(self, order: Order, course: Course) -> AsyncGenerator[CompletionDelta, None]:
        """The pieces of an answer as they come; the last one carries the completion.

        Closing it ends the call. Until the first piece another model may take over.

        Raises:
            ProviderError: of the last model that was asked; after a piece, of that model.
        """
        last = len(order.choices) - 1 if self._config.fallback else 0
        for place, choice in enumerate(order.choices[: last + 1]):
            begun = False
            try:
                tries = self._tries(order, choice, course, elsewhere=place < last)
                async with aclosing(tries) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ProviderError as error:
                course.failures.append(f"{choice.model.id} {type(error).__name__} {error.code}")
                if begun or place == last:
                    raise

    async def _tries(
        self, order: Order, choice: Choice, course: Course, *, elsewhere: bool
    ) -> AsyncGenerator[CompletionDelta, None]:
        """One model's answer; asked again only when no other is left."""
        started, tried, refused = self._clock(), 0, 0
        while True:
            begun = False
            try:
                async with aclosing(self._call(order, choice, course, elsewhere)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ProviderError as error:
                tried += 1
                refused += isinstance(error, RateLimited)
                if begun or elsewhere or error.code == WAITED:
                    raise
                wait_s = self._retry.wait_s(
                    error,
                    attempt=tried,
                    elapsed_s=self._clock() - started,
                    random=self._random,
                    refused=refused,
                )
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def _call(
        self, order: Order, choice: Choice, course: Course, elsewhere: bool
    ) -> AsyncGenerator[CompletionDelta, None]:
        line = self._lines[choice.model.id]
        asked_at = self._clock()
        async with self._turn(line, order, choice, elsewhere) as turn:
            sent_at, told = self._clock(), False
            course.waited_s += sent_at - asked_at
            sent = course.send(choice.model, sent_at)
            try:
                async with aclosing(self._pieces(order, choice, line, turn)) as pieces:
                    async for piece in pieces:
                        course.output_chars += piece.delta.chars
                        sent.came(self._clock(), piece.delta)
                        if piece.delta.completion is not None:
                            answer = Answer(piece.delta.completion, piece.limits)
                            line.answered(turn, answer, sent_at)
                            course.open, told = False, True
                        yield piece.delta
            except ProviderError as error:
                if not told:
                    course.open, told = False, True
                    sent.failed(self._clock(), type(error).__name__)
                    self._heed(error, turn, line, sent_at)
                    if error.maybe_billed or course.output_chars:
                        course.lost.append((choice.model.id, tokens_of(course.output_chars)))
                raise
            finally:
                if not told:  # the client has left
                    sent.failed(self._clock(), LEFT)
                    line.left(turn, sent_at, _about(choice, course.output_chars))

    async def _pieces(
        self, order: Order, choice: Choice, line: Line, turn: Turn
    ) -> AsyncGenerator[_Piece, None]:
        request = Request(order.query_id, order.chat, choice.model)
        if not order.stream:
            answer = await self._whole(request, choice, line, turn)
            completion = answer.completion
            yield _Piece(CompletionDelta(completion.text, completion), answer.limits)
            return
        provider, wait_s = line.account.provider, self._config.first_piece_s
        incoming = provider.stream(request, timeout_s=self._config.total_s)
        # An async generator by its promise; `Provider` only says that it can be iterated.
        async with aclosing(cast(AsyncGenerator[CompletionDelta, None], incoming)) as deltas:
            while (delta := await _next(deltas, wait_s)) is not None:
                wait_s = self._config.silence_s
                yield _Piece(delta, VendorLimits)

    async def _whole(self, request: Request, choice: Choice, line: Line, turn: Turn) -> Answer:
        """A whole answer; a call that hangs is cut after what is unusual for its length."""
        cut = line.watch.begin(choice._replace(output_tokens=turn.taken.output_tokens), 0)
        try:
            async with cut:
                return await line.account.provider.complete(request, timeout_s=self._config.total_s)
        except TimeoutError:
            raise _late("no answer in several times the time that such answers take") from None
        finally:
            line.watch.end(cut)

    @contextlib.asynccontextmanager
    async def _turn(
        self, line: Line, order: Order, choice: Choice, elsewhere: bool
    ) -> AsyncIterator[Turn]:
        """Wait for a turn; the line's slot is held until the block ends.

        Raises:
            ProviderError: it does not come in time, or the model is out.
        """
        if line.waiting >= self._config.max_waiting:
            raise RateLimited("too many requests wait for this model", code=WAITED, status=None)
        turn = _turn_of(order, choice, elsewhere)
        line.put(turn)
        admitted = False
        try:
            async with asyncio.timeout(self._config.max_wait_s):
                await turn.done
            admitted = True
        except TimeoutError:
            detail = f"its turn did not come within {self._config.max_wait_s:g} s"
            raise RateLimited(detail, code=WAITED, status=None) from None
        finally:
            if not admitted:
                _forgo(turn, line)
        try:
            yield turn
        finally:
            turn.over.set()

    async def send(self, call: Call, line: Line) -> None:
        """See `Sender.send`: the slot is held until whoever has the turn is done with it."""
        turn = cast(Turn, call)
        if turn.done.done():  # has left while the line made up its mind
            line.not_sent(call)
            return
        turn.done.set_result(None)
        await turn.over.wait()

    def pass_on(self, call: Call, line: Line) -> bool:
        """See `Sender.pass_on`."""
        if call.done.done():
            return True
        outage = outage_of(line, call.model.id)
        if outage is None:
            return False
        if not cast(Turn, call).elsewhere and outage.for_s <= self._config.max_wait_s:
            return False
        _tell(call, outage.why)
        return True

    def refuse(self, call: Call, error: KeyRefused) -> None:
        """See `Sender.refuse`: an account that is set up wrongly does not end an endpoint."""
        self._refused(self._lines[call.model.id].account, error)
        _tell(call, error)

    def fail(self, call: Call, error: Exception) -> None:
        """See `Sender.fail`."""
        log.error("call.failed", error=type(error).__name__, model=call.model.id)
        _tell(call, error)

    def _heed(self, error: ProviderError, turn: Turn, line: Line, sent_at: float) -> None:
        """What one failure means to the calls behind it, and to those of its account."""
        was_out = line.out
        account = line.account
        line.heed(error, turn, sent_at)
        if isinstance(error, KeyRefused) and not account.proven:
            account.owner.refuse(error.detail)
        if isinstance(error, AccountRefused):
            self._refused(account, error)
        if line.out and not was_out:
            log.warning("model.went_out", model=turn.model.id, error=type(error).__name__)
            for one in self._lines.values():
                if one is line or (one.account is account and account.refused is not None):
                    one.reconsider()

    def _refused(self, account: Account, error: AccountRefused) -> None:
        """Ask it nothing, for a while."""
        account.refused = error
        asyncio.get_running_loop().call_later(ACCOUNT_AGAIN_S, _ask_again, account, error)


@dataclass(frozen=True, slots=True)
class _Piece:
    delta: CompletionDelta
    limits: Callable[[], VendorLimits]


async def _next(
    deltas: AsyncGenerator[CompletionDelta, None], wait_s: float
) -> CompletionDelta | None:
    """The next piece, `None` after the last. The time-out is a piece's: a generator may be resumed
    in another task than it was begun in.
    """
    try:
        async with asyncio.timeout(wait_s):
            return await anext(deltas, None)
    except TimeoutError:
        raise _late(f"nothing came for {wait_s:g} s") from None


def _ask_again(account: Account, error: AccountRefused) -> None:
    if account.refused is error:  # and not a later one
        account.refused = None


def _late(detail: str) -> TransientError:
    return TransientError(detail, code="timeout", maybe_billed=True)


def _tell(call: Call, error: Exception) -> None:
    if not call.done.done():
        call.done.set_exception(error)


def _forgo(turn: Turn, line: Line) -> None:
    """Give up a place in a line, and the turn, should it just have come."""
    line.withdraw(turn)
    if not turn.done.done():
        turn.done.cancel()
    elif not turn.done.cancelled() and turn.done.exception() is None:
        line.not_sent(turn)
        turn.over.set()


def _turn_of(order: Order, choice: Choice, elsewhere: bool) -> Turn:
    done: asyncio.Future[Settled | None] = asyncio.get_running_loop().create_future()
    assignment = Assignment(order.query_id, 0, 0, "", (choice,), "live", None, [], [])
    # Nothing of an interactive call survives its process: there is nobody left to tell.
    return Turn(assignment, cast(Journal, None), done, elsewhere=elsewhere)


def tokens_of(chars: int) -> int:
    """About how many tokens a text has."""
    return -(-chars // CHARS_PER_TOKEN)


def _about(choice: Choice, output_chars: int) -> Amount:
    """What a call that was cut has used."""
    return Amount(1.0, choice.input_tokens, tokens_of(output_chars))
