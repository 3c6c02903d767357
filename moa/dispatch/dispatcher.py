"""Assignments in, outcomes out: every account at once, none waiting for another."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from random import Random

from moa.catalog import Model
from moa.dispatch.budget import Budget
from moa.dispatch.call import LIVE as LIVE
from moa.dispatch.call import Call
from moa.dispatch.detour import has_fallback, outage_of, waits
from moa.dispatch.journal import History, Journal
from moa.dispatch.lease import Lease
from moa.dispatch.line import TIMEOUT, Account, Line
from moa.dispatch.outcome import Assignment, DeadLetter, Outcome, Settled
from moa.dispatch.quota import Owner, QuotaOwner
from moa.dispatch.retry import reason_of
from moa.dispatch.settings import DispatchSettings, LineProgress, Progress
from moa.dispatch.tallies import Tallies
from moa.errors import (
    KeyRefused,
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.prices import PriceTable
from moa.providers.provider import Answer, Provider, Request
from moa.request import ChatRequest


class Dispatcher:
    """Sends calls to any number of accounts. Open inside an event loop; close in `finally`."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        models: Sequence[Model],
        prices: PriceTable,
        settings: DispatchSettings,
        *,
        budget: Budget | None = None,
        owners: Mapping[str, Owner] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Providers and owners are by account. Without owners it owns the quotas itself, without a
        budget there is no limit.
        """
        self._prices = prices
        self._settings = settings
        self._clock = clock
        self._name = secrets.token_hex(4)
        self._random = Random(settings.seed)
        self._budget = budget or Budget()
        owners = owners or {name: QuotaOwner(clock) for name in providers}
        self._accounts = {
            name: Account(provider, owners[name], settings.max_in_flight, self._name)
            for name, provider in providers.items()
        }
        self._lines = {model.id: self._line(model) for model in models}
        self._timers: dict[asyncio.TimerHandle, Call] = {}
        self._draining = False
        self._drainage: asyncio.Task[None] | None = None
        self._refused: KeyRefused | None = None
        self._unsettled: Counter[str] = Counter()
        self._tallies = Tallies()

    async def answer(
        self, assignments: Sequence[Assignment], journal: Journal, history: History
    ) -> list[Settled]:
        """See every assignment through to its outcome; one `Settled` each, in the same order.

        What `history` settles is not asked again. Fewer come back when the dispatcher drains.
        Whatever is raised, the dispatcher has drained before.

        Raises:
            KeyRefused: an account's key was refused at its first call. The rest is untouched.
            OSError: the journal cannot be written.
        """
        begun = [self._begin(assignment, journal, history) for assignment in assignments]
        ends = await asyncio.gather(*begun, return_exceptions=True)
        broken = next((end for end in ends if isinstance(end, BaseException)), self._refused)
        if broken is not None:
            await self.drain()
            raise broken
        return [end for end in ends if isinstance(end, tuple)]

    @contextmanager
    def expecting(self, provider: str, rows: int) -> Iterator[None]:
        """Count so many assignments as unsettled until they are here."""
        self._unsettled[provider] += rows
        try:
            yield
        finally:
            self._unsettled[provider] -= rows

    def forget(self, settled: Sequence[Settled]) -> None:
        """Somebody else counts these from now on."""
        self._tallies.forget(settled)

    def waiting(self, model_id: str) -> int:
        """Calls that wait for a model of the pool."""
        return self._lines[model_id].waiting

    def progress(self) -> Progress:
        """Where it stands."""
        lines, tallies = self._lines.values(), self._tallies
        return Progress(
            of=self._name,
            at_s=time.time(),
            done=tallies.done,
            dead=tallies.dead,
            retried=tallies.retried,
            in_flight=sum(len(line.in_flight) for line in lines),
            waiting=sum(line.waiting for line in lines) + len(self._timers),
            spent_usd=tallies.spent_usd,
            unsettled=dict(self._unsettled),
            lines={k: LineProgress(v.answers, v.waiting, v.out) for k, v in self._lines.items()},
            happened=tallies.happened(),
        )

    async def drain(self) -> None:
        """Send nothing new; return when what is out has come back."""
        self._draining = True
        waiting = [call for line in self._lines.values() for call in await line.stop()]
        for timer, call in self._timers.items():
            timer.cancel()
            waiting.append(call)
        self._timers.clear()
        for call in waiting:
            call.resolve(None)
        out = [task for line in self._lines.values() for task in line.in_flight]
        if out:
            await asyncio.wait(out)

    async def close(self) -> None:
        """Drain, and close the connections."""
        await self.drain()
        for account in self._accounts.values():
            await account.close()

    def _line(self, model: Model) -> Line:
        settings, account = self._settings, self._accounts[model.provider]
        lease = Lease(
            account.owner,
            model.api_name,
            model.limits,
            f"{self._name}/{model.id}",
            self._clock,
            interactive=settings.interactive,
            reserve=settings.reserve,
        )
        return Line(account, lease, self, settings.max_in_flight, self._clock)

    def _begin(
        self, assignment: Assignment, journal: Journal, history: History
    ) -> asyncio.Future[Settled | None]:
        done: asyncio.Future[Settled | None] = asyncio.get_running_loop().create_future()
        row, provider = assignment.row, assignment.choices[0].model.provider
        if row in history.outcomes:
            settled = history.outcomes[row], history.letters.get(row)
            self.count(*settled, earlier=True)
            done.set_result(settled)
            return done
        self._unsettled[provider] += 1
        done.add_done_callback(lambda _: self._unsettled.subtract([provider]))
        call = Call(
            assignment,
            journal,
            done,
            attempts=list(history.attempts.get(row, ())),
            unknown_calls=history.unknown[row],
            risked_usd=history.risked_usd.get(row, Decimal(0)),
        )
        if self._settings.hold_unknown and call.unknown_calls:
            self._give_up(call, "fate_unknown", "a call was out when its process died")
        else:
            self._put(call)
        return done

    def _put(self, call: Call, *, first: bool = False) -> None:
        if self._draining:
            call.resolve(None)
        else:
            self._lines[call.model.id].put(call, first=first)

    def pass_on(self, call: Call, line: Line) -> bool:
        """Take a call from a line that can send nothing for long: to its next best model, or, when
        it has none and the wait is longer than the patience of the retries, to its end.
        """
        outage = outage_of(line, call.model.id)
        if outage is None or waits(call, outage.for_s, self._settings):
            return False
        self._next_model(call, outage.why)
        return True

    def refuse(self, call: Call, error: KeyRefused) -> None:
        """See `Sender.refuse`."""
        self._refuse_run(call, error)
        call.resolve(None)

    def fail(self, call: Call, error: Exception) -> None:
        """See `Sender.fail`. What is out comes back and is kept; nothing more is sent."""
        if not call.done.done():
            call.done.set_exception(error)
        self._begin_to_drain()

    async def send(self, call: Call, line: Line) -> None:
        """Make one call and see to what follows."""
        try:
            await self._send(call, line)
        except Exception as error:  # a bug, or a journal that cannot be written
            line.not_sent(call)
            self.fail(call, error)

    async def _send(self, call: Call, line: Line) -> None:
        expected_usd = self._expected_usd(call, line)
        if self._is_too_dear(call, expected_usd):
            line.not_sent(call)
            self._go_on(call, "query_budget_spent", "its cost would go over max_usd_per_query")
            return
        if not await self._budget.reserve(expected_usd):
            line.not_sent(call)
            self._go_on(call, "budget_spent", "the run's budget does not cover this call")
            return
        spent_usd = expected_usd  # should it end in a way that does not say
        try:
            spent_usd = await self._try(call, line, expected_usd)
        finally:
            self._budget.settle(expected_usd, spent_usd)

    def _expected_usd(self, call: Call, line: Line) -> Decimal:
        likely = line.estimate.amount(call.choice)
        return self._prices.cost_usd(
            call.model.id,
            call.lane,
            input_tokens=round(likely.input_tokens),
            output_tokens=round(likely.output_tokens),
        )

    def _is_too_dear(self, call: Call, expected_usd: Decimal) -> bool:
        most_usd = self._settings.max_usd_per_query
        return most_usd is not None and call.risked_usd + expected_usd > most_usd

    async def _try(self, call: Call, line: Line, expected_usd: Decimal) -> Decimal:
        """One call on the wire; what it has cost, or may have."""
        if self._draining:
            line.not_sent(call)
            call.resolve(None)
            return Decimal(0)
        chat = ChatRequest.model_validate_json(call.assignment.request)
        await call.journal.sent(call.assignment.row, call.model.id, expected_usd)
        sent_at = self._clock()
        if call.first_sent_at is None:
            call.first_sent_at = sent_at
        call.tries += 1
        request = Request(call.assignment.query_id, chat, call.model, call.lane)
        try:
            answer = await self._complete(request, call, line)
        except ProviderError as error:
            risked_usd = expected_usd if error.maybe_billed else Decimal(0)
            call.risked_usd += risked_usd
            call.journal.failed(call.assignment.row, call.failed(error), risked_usd)
            self._tallies.failed(call.model.id, error)
            self._failed(call, line, error, sent_at)
            return risked_usd
        return self._answered(call, line, answer, sent_at)

    async def _complete(self, request: Request, call: Call, line: Line) -> Answer:
        """The answer, or what is known of a call that was cut because it has hung."""
        provider, timeout_s = line.account.provider, self._settings.total_timeout_s
        if call.lane != LIVE:  # it may take minutes: what is known of live answers says nothing
            return await provider.complete(request, timeout_s=timeout_s)
        likely = call.choice._replace(output_tokens=call.taken.output_tokens)
        cut = line.watch.begin(likely, call.timeouts)
        try:
            async with cut:
                return await provider.complete(request, timeout_s=timeout_s)
        except TimeoutError:
            call.timeouts += 1
            raise TransientError(
                "no answer in several times the time that such answers take",
                code=TIMEOUT,
                maybe_billed=True,
            ) from None
        finally:
            line.watch.end(cut)

    def _answered(self, call: Call, line: Line, answer: Answer, sent_at: float) -> Decimal:
        line.answered(call, answer, sent_at)
        self._tallies.answered(call.model.id)
        usage = answer.completion.usage
        cost_usd = self._prices.cost_usd(
            call.model.id,
            call.lane,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        outcome = call.outcome(answer.completion, cost_usd, self._clock() - sent_at)
        call.journal.answered(outcome)
        self._settle(call, outcome, None)
        return cost_usd

    def _failed(self, call: Call, line: Line, error: ProviderError, sent_at: float) -> None:
        self._tell_line(call, line, error, sent_at)
        if isinstance(error, LaneUnavailable) and call.lane != LIVE and call.assignment.may_live:
            call.lane = LIVE
            self._put(call, first=True)
            return
        if isinstance(error, QuotaSpent):  # as those behind it: it waits, or goes elsewhere
            self._put(call, first=True)
            return
        assert call.first_sent_at is not None
        call.refused += isinstance(error, RateLimited)
        wait_s = self._settings.retry.wait_s(
            error,
            attempt=call.tries,
            elapsed_s=self._clock() - call.first_sent_at,
            random=self._random,
            refused=call.refused,
        )
        if wait_s is None or (isinstance(error, RateLimited) and line.never_fits(call)):
            self._next_model(call, error)
        elif not self.pass_on(call, line):  # nobody waits to try again what is known to be out
            self._tallies.retried += 1
            self._retry_later(call, wait_s)

    def _tell_line(self, call: Call, line: Line, error: ProviderError, sent_at: float) -> None:
        """What one failure means to the calls behind it, and to those of its account."""
        account, was_out = line.account, line.out
        line.heed(error, call, sent_at)
        if isinstance(error, KeyRefused) and not account.proven:
            account.owner.refuse(error.detail)
            self._refuse_run(call, error)
        if line.out and not was_out:
            for one in self._lines.values():
                if one is line or (one.account is account and account.refused is not None):
                    one.reconsider()

    def _refuse_run(self, call: Call, error: KeyRefused) -> None:
        """A key that was never any good: nobody wants a night of fallbacks because of a typo."""
        self._refused = KeyRefused(
            f"account {call.model.provider!r} refused its first call: {error.detail}",
            status=error.status,
            code=error.code,
        )
        self._begin_to_drain()

    def _begin_to_drain(self) -> None:
        if self._drainage is None:
            self._drainage = asyncio.get_running_loop().create_task(self.drain())

    def _retry_later(self, call: Call, wait_s: float) -> None:
        def again() -> None:
            del self._timers[timer]
            self._put(call, first=True)

        if self._draining:
            call.resolve(None)
            return
        timer = asyncio.get_running_loop().call_later(wait_s, again)
        self._timers[timer] = call

    def _next_model(self, call: Call, error: ProviderError) -> None:
        """Ask the next best model, or give the query up."""
        if self._refused is not None:
            call.resolve(None)
        else:
            self._go_on(call, reason_of(error), error.detail)

    def _go_on(self, call: Call, reason: str, detail: str) -> None:
        if has_fallback(call, self._settings):
            self._tallies.pass_on(call.model.id, reason)
            call.next_model()
            self._put(call)
        else:
            self._give_up(call, reason, detail)

    def _give_up(self, call: Call, reason: str, detail: str) -> None:
        outcome, letter = call.letter(reason, detail)
        call.journal.dead(outcome, letter)
        self._settle(call, outcome, letter)

    def _settle(self, call: Call, outcome: Outcome, letter: DeadLetter | None) -> None:
        self.count(outcome, letter)
        call.resolve((outcome, letter))

    def count(self, outcome: Outcome, letter: DeadLetter | None, *, earlier: bool = False) -> None:
        """A query has its outcome; `earlier`: another process has seen it happen."""
        self._tallies.count(outcome, letter, earlier=earlier)
