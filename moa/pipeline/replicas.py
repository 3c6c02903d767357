"""The dispatch actors, and the driver's side of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from moa.cluster.quotas import owners_of
from moa.config import RouteBatchConfig
from moa.decisions.decided import Decided
from moa.dispatch.batch_file import BatchNames
from moa.dispatch.batch_lane import BatchLane
from moa.dispatch.budget import Budget, Lease, Purse
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.heap import calm_collector
from moa.dispatch.piece import PieceResult, dispatch_piece
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import BatchSettings, DispatchSettings, HandedOver, Progress
from moa.dispatch.used import Used, summed
from moa.errors import KeyRefused
from moa.log import configure
from moa.pipeline.job import Job, batch_accounts
from moa.pipeline.load import Load, least
from moa.providers.accounts import fingerprint, open_batches, open_provider
from moa.storage.run_folder import PieceName, RunFolder

OPEN_ROWS = 3
"""Queries without an outcome that a replica has per provider, in multiples of its calls in flight:
enough that no call waits for the next piece to be read, few enough that memory stays flat."""
DEATHS = 4
"""Of its replica that a piece may see in one start: what kills a fifth one is the piece."""
CLOSE_S = 10.0


class DispatchReplica:
    """One process with a dispatcher for all accounts. A killed one is started again by Ray, and its
    pieces with it; the journals tell what need not be asked again.
    """

    def __init__(self, job: Job, purse: ActorHandle[Purse] | None) -> None:
        configure(job.config.log.style, run_id=job.config.run.id)
        self._job = job
        self._purse = purse
        self._run = RunFolder(job.run_folder)
        self._models = {model.id: model for model in job.models}
        self._dispatcher: Dispatcher | None = None
        self._lane: BatchLane | None = None
        self._handed_over: dict[str, HandedOver] = {}
        self._draining = False
        self._drainage: asyncio.Task[None] | None = None

    async def dispatch(self, name: str, rows: int) -> PieceResult:
        """See one piece through."""
        if self._draining:
            return PieceResult(name, finished=False)
        piece = PieceName.parse(name)
        policy = self._job.config.policy
        dispatcher = self._open()
        result = await dispatch_piece(
            piece, self._run, self._models, policy, dispatcher, self._lane, rows=rows
        )
        if result.finished:
            result = result._replace(rest=self._standing(dispatcher))
            self._handed_over[name] = result.handed_over
        return result

    async def progress(self, draining: bool, taken: Sequence[str]) -> Progress | None:
        """Where it stands, `None` before its first piece. It is told whether the run drains: one
        that was started again cannot know.

        Args:
            draining: whether it does.
            taken: finished pieces whose results have come: they are not told of any more.
        """
        for piece in taken:
            self._handed_over.pop(piece, None)
        if self._dispatcher is None:
            self._draining |= draining
            return None
        if draining and not self._draining:
            self._draining = True
            self._drainage = asyncio.get_running_loop().create_task(self._drain())
        return self._standing(self._dispatcher)

    async def close(self) -> None:
        """Drain, and close the connections."""
        self._draining = True
        if self._lane is not None:
            await self._lane.close()
        if self._dispatcher is not None:
            await self._dispatcher.close()

    def _standing(self, dispatcher: Dispatcher) -> Progress:
        in_batches = 0 if self._lane is None else self._lane.rows_out
        handed_over = dict(self._handed_over)
        return dispatcher.progress()._replace(in_batches=in_batches, handed_over=handed_over)

    async def _drain(self) -> None:
        if self._lane is not None:
            await self._lane.drain()
        if self._dispatcher is not None:
            await self._dispatcher.drain()

    def _open(self) -> Dispatcher:
        if self._dispatcher is None:
            job, environ = self._job, _environ(self._job)
            providers, identities = {}, {}
            for name, account in job.accounts.items():
                base_url = job.base_urls.get(name)
                providers[name] = open_provider(account, environ=environ, base_url=base_url)
                identities[name] = fingerprint(account, environ, base_url)
            budget = Budget(None if self._purse is None else _lease(self._purse))
            self._dispatcher = Dispatcher(
                providers,
                job.models,
                job.prices,
                settings(job.config),
                budget=budget,
                owners=owners_of(identities),
            )
            if in_batches := batch_accounts(job.config, job.models):
                self._lane = BatchLane(
                    {
                        name: open_batches(
                            job.accounts[name], environ=environ, base_url=job.base_urls.get(name)
                        )
                        for name in in_batches
                    },
                    job.prices,
                    batch_settings(job),
                    BatchNames(job.run_folder),
                    self._dispatcher,
                    budget,
                )
            calm_collector()
        return self._dispatcher


def _environ(job: Job) -> dict[str, str]:
    """The environment with the keys; the replay server takes any."""
    keys = {a.api_key_env: "replay" for a in job.accounts.values() if a.api_key_env}
    return {**os.environ, **(keys if job.base_urls else {})}


def _lease(purse: ActorHandle[Purse]) -> Lease:
    async def lease(least_usd: Decimal) -> Decimal:
        granted_usd: Decimal = await purse.lease.remote(least_usd)
        return granted_usd

    return lease


def settings(config: RouteBatchConfig) -> DispatchSettings:
    """What each of the dispatch replicas is told."""
    dispatch = config.dispatch
    return DispatchSettings(
        max_in_flight=dispatch.max_in_flight,
        total_timeout_s=dispatch.total_timeout_s,
        retry=RetryPolicy(dispatch.max_attempts, dispatch.give_up_after_s),
        fallback=dispatch.fallback,
        seed=config.run.seed,
        waiting_usd_per_hour=dispatch.waiting_usd_per_hour,
        max_usd_per_query=dispatch.max_usd_per_query,
        hold_unknown=dispatch.unknown_calls == "hold",
    )


def batch_settings(job: Job) -> BatchSettings:
    """What the batch lane of each of the dispatch replicas is told."""
    dispatch = job.config.dispatch
    queues = ((model.id, model.limits.batch_queue_tokens) for model in job.models)
    return BatchSettings(
        deadline_s=None if job.deadline is None else job.deadline.timestamp(),
        queue_tokens={name: most / dispatch.replicas for name, most in queues if most},
        max_in_flight=dispatch.max_in_flight * dispatch.replicas,
        replicas=dispatch.replicas,
        max_usd_per_query=dispatch.max_usd_per_query,
    )


class _Replica:
    """The driver's view of one dispatch replica."""

    def __init__(self, job: Job, purse: ActorHandle[Purse] | None) -> None:
        options: dict[str, Any] = {
            "num_cpus": job.config.dispatch.num_cpus,
            "max_restarts": -1,
            "max_task_retries": DEATHS,
            # Far above the pieces that are open at once: none waits, and neither does `drain`. Not
            # by concurrency groups: each would be a thread with an event loop of its own.
            "max_concurrency": 1000,
        }
        self.actor: Any = ray.remote(**options)(DispatchReplica).remote(job, purse)
        self.load = Load()
        self._asked: ObjectRef[Any] | None = None

    def hand_out(self, waiting: PieceRows) -> ObjectRef[Any]:
        """Give it a piece; the reference to its result."""
        self.load.add(waiting.piece.queue, waiting.rows)
        result: ObjectRef[Any] = self.actor.dispatch.remote(str(waiting.piece), waiting.rows)
        return result

    def look(self, *, draining: bool, not_taken: Set[str]) -> None:
        """Take the answer to the last question, if it is there, and ask the next one.

        Args:
            draining: whether the run does.
            not_taken: pieces that are out.
        """
        if self._asked is not None:
            done, _ = ray.wait([self._asked], timeout=0)
            if not done:
                return
            answer, self._asked = self._asked, None
            with suppress(RayActorError):  # a dead replica's pieces say so themselves
                self.load.answered(ray.get(answer))
        self.load.asked()
        self._asked = self.actor.progress.remote(draining, self.load.taken(not_taken))


@dataclass(frozen=True, slots=True)
class PieceRows:
    """A piece, and how many queries it has."""

    piece: PieceName
    rows: int
    decided: Mapping[Decided, int] = field(default_factory=dict, compare=False)
    """How many alike; nothing, if an earlier start has decided on it."""


@dataclass(slots=True)
class Counts:
    """What finished pieces came to."""

    queries: int = 0
    dead: int = 0
    cost_usd: Decimal = Decimal(0)
    used: dict[str, Used] = field(default_factory=dict)
    """By catalog id."""

    def add(self, result: PieceResult) -> None:
        """Add one piece."""
        self.queries += result.queries
        self.dead += result.dead
        self.cost_usd += result.cost_usd
        self.used = summed(self.used, result.used)


class Dispatch:
    """Hands pieces to the replicas as they are decided, and takes their results.

    Args:
        job: checked.
        left_usd: what may still be spent; `None` is without a limit.
    """

    def __init__(self, job: Job, *, left_usd: Decimal | None) -> None:
        replicas = job.config.dispatch.replicas
        self._most_rows = OPEN_ROWS * job.config.dispatch.max_in_flight
        purse: ActorHandle[Purse] | None = None
        if left_usd is not None:
            make: Any = ray.remote(num_cpus=0)(Purse)
            purse = make.remote(left_usd, replicas)
        self._purse = purse  # it ends with the last reference, and must outlive its holders
        self._replicas = [_Replica(job, purse) for _ in range(replicas)]
        self._waiting: dict[str, deque[PieceRows]] = defaultdict(deque)
        self._open: dict[ObjectRef[Any], tuple[_Replica, PieceRows, float]] = {}
        """With when each was handed out."""
        self._draining = False
        self.finished = Counts()

    @property
    def pieces_out(self) -> int:
        """With the replicas."""
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Nothing new is sent any more."""
        return self._draining

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is out."""
        return not self._open and (self._draining or not any(self._waiting.values()))

    def put(self, decided: PieceRows) -> None:
        """A piece has been decided."""
        self._waiting[decided.piece.queue].append(decided)
        self._hand_out()

    def set_aside(self, usd: Decimal) -> None:
        """So much of the budget is for something else than calls."""
        if self._purse is not None:
            self._purse.set_aside.remote(usd)

    def is_hungry(self, queue: str) -> bool:
        """Whether nothing of a queue waits to be handed out."""
        return not self._waiting[queue]

    def turn(self, wait_s: float) -> list[PieceResult]:
        """Take what has ended within so long, and hand out what follows; the pieces that are
        finished.

        Raises:
            KeyRefused: an account's key was refused at its first call.
        """
        out = self._pieces_out()
        for replica in self._replicas:
            replica.look(draining=self._draining, not_taken=out)
        self._hand_out()
        if not self._open:
            time.sleep(wait_s)
            return []
        done = []
        ended, _ = ray.wait(list(self._open), num_returns=1, timeout=wait_s)
        for ref in ended:
            replica, waiting, _ = self._open.pop(ref)
            replica.load.remove(waiting.piece.queue)
            result: PieceResult = ray.get(ref)
            replica.load.learn(result.rest)
            if result.finished:
                self.finished.add(result)
                done.append(result)
            if result.refused is not None:
                raise KeyRefused(result.refused)
        self._hand_out()
        return done

    def begin_to_drain(self) -> None:
        """Have nothing new sent. `turn` takes what is out until it is `idle`."""
        self._draining = True

    def close(self) -> None:
        """Close the replicas' connections."""
        ray.wait(
            [replica.actor.close.remote() for replica in self._replicas],
            num_returns=len(self._replicas),
            timeout=CLOSE_S,
        )

    def progress(self) -> list[Progress]:
        """Where the replicas stand, of those that have begun, without what is `finished`."""
        out = self._pieces_out()
        found = [replica.load.standing(out) for replica in self._replicas]
        return [standing for standing in found if standing is not None]

    def oldest_s(self, *, in_batches: bool) -> float:
        """For how long the oldest piece has been with a replica; 0 when none is."""
        now = time.monotonic()
        out = (now - at for _, one, at in self._open.values() if one.piece.in_batches == in_batches)
        return max(out, default=0.0)

    def _pieces_out(self) -> set[str]:
        return {str(waiting.piece) for _, waiting, _ in self._open.values()}

    def _hand_out(self) -> None:
        """Each piece goes to the replica that has the least to do for its provider."""
        loads = [replica.load for replica in self._replicas]
        for waiting in self._waiting.values():
            while waiting and not self._draining:
                number = least(loads, waiting[0].piece, self._most_rows)
                if number is None:
                    break
                piece, replica = waiting.popleft(), self._replicas[number]
                self._open[replica.hand_out(piece)] = (replica, piece, time.monotonic())
