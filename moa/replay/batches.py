"""All vendors' batches: submitted, looked at, cancelled, and what has come of them.

Nothing happens by itself: where a batch stands follows from the clock whenever somebody asks, so a
batch that nobody asks about costs nothing. What has been answered by then is billed by `settle`.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import xxhash

from moa.catalog import Wire
from moa.replay.batch_life import Batch, Clock, End, Failure, Plan, Row, State
from moa.replay.ledger import BatchAnswer, Ledger
from moa.replay.ledger import Fate as LedgerFate
from moa.replay.script import BatchFate, Script
from moa.replay.wire import Answer, Trouble

_BILLED_AS: dict[str, LedgerFate] = {"stop": "ok", "length": "length", "refusal": "refusal"}


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch, as `/control/batches` shows it."""

    id: str
    provider: Wire
    model: str
    account: int
    """Its key's number in the ledger; 0 while none of its requests was answered."""
    requests: int
    answered: int
    failed: int
    state: State
    end: End | None
    created_at: float
    """Seconds since 1970 on the vendor's clock, as all of these."""
    ended_at: float | None
    expires_at: float
    cancelled_at: float | None
    cancels: int
    looks: int
    fetches: int
    """How often its results, or a part of them, were fetched."""
    deleted: bool
    queries: str
    """The same for two batches of the same prompts to the same model: 16 hex digits."""


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """All batches at a glance."""

    batches: int
    requests: int
    answered: int
    failed: int
    by_state: dict[str, int]
    by_end: dict[str, int]
    by_provider: dict[str, int]
    same_queries_max: int
    """The most batches of the very same prompts to one model: 1 when each was submitted once."""
    open_max: int
    """The most that had not ended at once, by their own clocks."""
    cancels: int
    fetches: int
    calls: dict[str, int]
    """Calls about batches, files and stored objects, by provider and kind: `openai submit`…"""


class BatchBook:
    """All vendors' batches.

    Args:
        ledger: gets the rows that were answered.
        script: what becomes of batches.
        machine: monotonic seconds, from which the vendors' clocks follow.
    """

    def __init__(
        self, ledger: Ledger, script: Script, *, machine: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._machine = machine
        self._clocks: defaultdict[Wire, Clock] = defaultdict(lambda: Clock(machine))
        self._batches: list[Batch] = []
        self._by_id: dict[str, Batch] = {}
        self.calls: Counter[str] = Counter()
        self.play(script)

    def play(self, script: Script) -> None:
        """Follow another script; what was submitted goes on by the one of its time."""
        self._script = script
        self._fates: dict[Wire, deque[BatchFate]] = {}
        self._lost: Counter[tuple[Wire, str]] = Counter()
        for wire in ("openai", "anthropic", "gemini"):
            own = script.batch_of(wire)
            self._clocks[wire].go(own.time_scale)
            self._fates[wire] = deque(own.fates)
            self._lost[wire, "upload"] = own.lost_uploads
            self._lost[wire, "submit"] = own.lost_submissions

    def now(self, provider: Wire) -> float:
        """The vendor's time."""
        return self._clocks[provider].now()

    def is_lost(self, provider: Wire, what: str) -> bool:
        """Whether nobody is told of this upload or submission."""
        left = self._lost[provider, what]
        self._lost[provider, what] = max(0, left - 1)
        return left > 0

    def next_fate(self, provider: Wire) -> BatchFate:
        """What the script has for the next batch."""
        fates = self._fates[provider]
        return fates.popleft() if fates else "ok"

    def is_full(self, provider: Wire, owner: str, rows: Sequence[Row]) -> int | None:
        """The limit that would be exceeded, in tokens, were these rows added to the queue."""
        limits = self._script.batch_of(provider).queue_tokens
        if not limits or not rows:
            return None
        model, asked = rows[0].model, rows[0].asked
        limit = limits.get(model, limits.get(asked.model) if asked else None)
        if limit is None:
            return None
        now_s = self.now(provider)
        waiting = sum(
            _input_tokens(batch.rows)
            for batch in self._batches
            if (batch.provider, batch.owner, batch.model) == (provider, owner, model)
            and batch.state(now_s) != "ended"
        )
        return limit if waiting + _input_tokens(rows) > limit else None

    def submit(
        self,
        provider: Wire,
        owner: str,
        key: str,
        rows: Sequence[Row],
        *,
        batch_id: str,
        fate: BatchFate = "ok",
        failure: Failure | None = None,
        keeps_when_expired: bool = True,
    ) -> Batch:
        """Begin a batch.

        Args:
            provider: whose.
            owner: who may see it.
            key: by which it came.
            rows: in order of submission.
            batch_id: a new one.
            fate: by the script.
            failure: it fails when it is looked through.
            keeps_when_expired: whether there are results, and a bill, when it expires.
        """
        plan = Plan.of(self._script.batch_of(provider), self.now(provider), len(rows))
        if failure is not None:
            plan = plan.failing()
        elif fate in ("expires", "stuck"):
            plan = plan.slowed(fate, self._script.batch_of(provider))
        plan = plan.until_expiry(keeps_when_expired)
        ordered = _shuffled(rows, self._script.seed)
        has_answer = (isinstance(row.outcome, Answer) for row in ordered)
        batch = Batch(
            id=batch_id,
            provider=provider,
            owner=owner,
            key=key,
            model=rows[0].model if rows else "",
            rows=ordered,
            ends=plan.ends,
            answered=list(accumulate(has_answer, initial=0)),
            created_s=plan.created_s,
            runs_s=plan.runs_s,
            finalizes_s=plan.finalizes_s,
            ends_s=plan.ends_s,
            expires_s=plan.expires_s,
            end=plan.end,
            failure=failure,
        )
        self._batches.append(batch)
        self._by_id[batch.id] = batch
        return batch

    def get(self, batch_id: str, owner: str) -> Batch | None:
        """A batch of this owner's; `None` when there is none, or none any more."""
        batch = self._by_id.get(batch_id)
        return batch if batch and batch.owner == owner and not batch.deleted else None

    def of(self, provider: Wire, owner: str) -> list[Batch]:
        """An owner's batches, newest first."""
        return [
            batch
            for batch in reversed(self._batches)
            if (batch.provider, batch.owner) == (provider, owner) and not batch.deleted
        ]

    def cancel(self, batch: Batch) -> bool:
        """Ask for its end; `False` when it has ended."""
        now_s = self.now(batch.provider)
        batch.cancels += 1
        state = batch.state(now_s)
        if state in ("ended", "cancelling"):
            return state == "cancelling"
        done = batch.done(now_s)
        if now_s < batch.runs_s:
            batch.ends[done:] = [math.inf] * (len(batch.ends) - done)
        batch.cancel_s = now_s
        batch.ends_s = now_s + self._script.batch_of(batch.provider).cancel_takes_s
        batch.end = "cancelled"
        return True

    def settle(self) -> None:
        """Bill what has been answered by now."""
        for batch in self._batches:
            done = batch.done(self.now(batch.provider))
            clock = self._clocks[batch.provider]
            for at in range(batch.settled, done):
                self._bill(batch, batch.rows[at], batch.ends[at], clock)
            batch.settled = max(batch.settled, done)

    def _bill(self, batch: Batch, row: Row, end_s: float, clock: Clock) -> None:
        answer = row.outcome
        if isinstance(answer, Trouble):
            return
        batch.billed += 1
        self._ledger.answered_in_batch(
            BatchAnswer(
                batch=batch.id,
                provider=batch.provider,
                model=row.model,
                prompt=row.prompt,
                key=batch.key,
                fate=_BILLED_AS[answer.finish],
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
                arrived_s=clock.monotonic(batch.created_s),
                ended_s=min(clock.monotonic(end_s), self._machine()),
            )
        )

    def entries(self) -> Iterator[BatchEntry]:
        """All batches, in order of submission."""
        return map(self._entry, self._batches)

    def _entry(self, batch: Batch) -> BatchEntry:
        now_s = self.now(batch.provider)
        state = batch.state(now_s)
        answered, failed = batch.tally(now_s)
        over = state == "ended"
        return BatchEntry(
            id=batch.id,
            provider=batch.provider,
            model=batch.model,
            account=self._ledger.account(batch.provider, batch.key),
            requests=len(batch.rows),
            answered=answered,
            failed=failed,
            state=state,
            end=batch.end if over else None,
            created_at=batch.created_s,
            ended_at=batch.ends_s if over else None,
            expires_at=batch.expires_s,
            cancelled_at=batch.cancel_s,
            cancels=batch.cancels,
            looks=batch.looks,
            fetches=batch.fetches,
            deleted=batch.deleted,
            queries=_fingerprint(batch),
        )

    def summary(self) -> BatchSummary:
        """What tests ask for most."""
        entries = list(self.entries())
        return BatchSummary(
            batches=len(entries),
            requests=sum(entry.requests for entry in entries),
            answered=sum(entry.answered for entry in entries),
            failed=sum(entry.failed for entry in entries),
            by_state=dict(Counter(entry.state for entry in entries)),
            by_end=dict(Counter(entry.end for entry in entries if entry.end)),
            by_provider=dict(Counter(entry.provider for entry in entries)),
            same_queries_max=max(Counter(e.queries for e in entries).values(), default=0),
            open_max=_most_at_once(self._batches),
            cancels=sum(entry.cancels for entry in entries),
            fetches=sum(entry.fetches for entry in entries),
            calls=dict(self.calls),
        )


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Rows in an order that is not the one of submission, and the same for the same rows."""
    return sorted(rows, key=lambda row: xxhash.xxh3_64_intdigest(row.custom_id.encode(), seed))


def _input_tokens(rows: Sequence[Row]) -> int:
    return sum(row.outcome.input_tokens for row in rows if isinstance(row.outcome, Answer))


def _fingerprint(batch: Batch) -> str:
    hashed = xxhash.xxh3_64(batch.model.encode())
    for prompt in sorted(row.prompt for row in batch.rows):
        hashed.update(prompt.to_bytes(8, "little"))
    return hashed.hexdigest()


def _most_at_once(batches: Sequence[Batch]) -> int:
    steps = [(batch.created_s, 1) for batch in batches]
    steps += [(batch.ends_s, -1) for batch in batches]
    most = now = 0
    for _, change in sorted(steps):
        now += change
        most = max(most, now)
    return most
