"""The dispatch actors, and the driver's side of them."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import ray

from moa.config import RouteBatchConfig
from moa.dispatch.dispatcher import Dispatcher, DispatchSettings, Progress
from moa.dispatch.piece import PieceResult, dispatch_piece
from moa.dispatch.retry import RetryPolicy
from moa.errors import AccountRefused
from moa.log import configure
from moa.pipeline.job import Job
from moa.providers.accounts import open_provider
from moa.storage.run_folder import PieceName, RunFolder

OPEN_ROWS = 3
"""Queries that a replica holds per provider, in multiples of its calls in flight: enough that no
call waits for the next piece to be read, few enough that memory stays flat."""


class DispatchReplica:
    """One process of dispatchers for all accounts. A killed one is started again by Ray, and its
    pieces with it; the journals tell what need not be asked again.
    """

    def __init__(self, job: Job, spent_usd: Decimal) -> None:
        configure(job.config.log.style, run_id=job.config.run.id)
        self._job = job
        self._spent_usd = spent_usd
        self._run = RunFolder(job.run_folder)
        self._models = {model.id: model for model in job.models}
        self._dispatcher: Dispatcher | None = None

    async def dispatch(self, name: str) -> PieceResult:
        """See one piece through."""
        piece = PieceName.parse(name)
        return await dispatch_piece(piece, self._run, self._models, self._open())

    async def progress(self) -> Progress | None:
        """Where it stands; `None` before its first piece."""
        return None if self._dispatcher is None else self._dispatcher.progress()

    async def drain(self) -> None:
        """Send nothing new; return when what is out has come back."""
        if self._dispatcher is not None:
            await self._dispatcher.drain()

    def _open(self) -> Dispatcher:
        if self._dispatcher is None:
            job = self._job
            providers = {
                name: open_provider(
                    account, environ=_environ(job), base_url=job.base_urls.get(name)
                )
                for name, account in job.accounts.items()
            }
            self._dispatcher = Dispatcher(
                providers, job.models, job.prices, settings(job.config, self._spent_usd)
            )
        return self._dispatcher


def _environ(job: Job) -> dict[str, str]:
    """The environment with the keys; the replay server takes any."""
    keys = {a.api_key_env: "replay" for a in job.accounts.values() if a.api_key_env}
    return {**os.environ, **(keys if job.base_urls else {})}


def settings(config: RouteBatchConfig, spent_usd: Decimal) -> DispatchSettings:
    """What one of the dispatch replicas is told; earlier starts have spent `spent_usd`."""
    dispatch = config.dispatch
    budget_usd = None
    if dispatch.budget_usd is not None:
        budget_usd = max(Decimal(0), dispatch.budget_usd - spent_usd) / dispatch.replicas
    return DispatchSettings(
        max_in_flight=dispatch.max_in_flight,
        total_timeout_s=dispatch.total_timeout_s,
        retry=RetryPolicy(dispatch.max_attempts, dispatch.give_up_after_s),
        fallback=dispatch.fallback,
        replicas=dispatch.replicas,
        budget_usd=budget_usd,
        seed=config.run.seed,
    )


class _Replica:
    """The driver's view of one dispatch replica."""

    def __init__(self, job: Job, spent_usd: Decimal) -> None:
        remote = ray.remote(
            num_cpus=job.config.dispatch.num_cpus, max_restarts=-1, max_task_retries=-1
        )(DispatchReplica)
        self.actor: Any = remote.options(max_concurrency=1000).remote(job, spent_usd)
        self.open_rows: dict[str, int] = defaultdict(int)

    def has_room(self, provider: str, most_rows: int) -> bool:
        return self.open_rows[provider] < most_rows


@dataclass(slots=True)
class _Waiting:
    """A piece that no replica has taken yet."""

    piece: PieceName
    rows: int


class Dispatch:
    """Hands pieces to the replicas as they are decided, and takes their results."""

    def __init__(self, job: Job, *, spent_usd: Decimal) -> None:
        self._job = job
        self._replicas = [_Replica(job, spent_usd) for _ in range(job.config.dispatch.replicas)]
        self._waiting: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._open: dict[Any, tuple[_Replica, _Waiting]] = {}
        self._draining = False

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is out."""
        return not self._open and (self._draining or not any(self._waiting.values()))

    def put(self, piece: PieceName, rows: int) -> None:
        """A piece has been decided."""
        self._waiting[piece.provider].append(_Waiting(piece, rows))
        self._submit()

    def turn(self, wait_s: float) -> None:
        """Take what has ended within so long, and hand out what follows.

        Raises:
            AccountRefused: an account's key was refused at its first call.
        """
        if not self._open:
            time.sleep(wait_s)
            return
        ended, _ = ray.wait(list(self._open), num_returns=1, timeout=wait_s)
        for ref in ended:
            replica, waiting = self._open.pop(ref)
            replica.open_rows[waiting.piece.provider] -= waiting.rows
            result = ray.get(ref)
            if result.refused is not None:
                self.drain()  # what is out at other vendors is paid for: keep it
                raise AccountRefused(result.refused)
        self._submit()

    def drain(self) -> None:
        """Send nothing new, and wait for what is out."""
        self._draining = True
        ray.get([replica.actor.drain.remote() for replica in self._replicas])
        ray.get(list(self._open))

    def progress(self) -> list[Progress]:
        """Where the replicas stand, of those that have begun."""
        answers = ray.get([replica.actor.progress.remote() for replica in self._replicas])
        return [answer for answer in answers if answer is not None]

    def _submit(self) -> None:
        most_rows = OPEN_ROWS * self._job.config.dispatch.max_in_flight
        for provider, waiting in self._waiting.items():
            for replica in self._replicas:
                while waiting and not self._draining and replica.has_room(provider, most_rows):
                    self._hand_out(waiting.popleft(), replica)

    def _hand_out(self, waiting: _Waiting, replica: _Replica) -> None:
        replica.open_rows[waiting.piece.provider] += waiting.rows
        self._open[replica.actor.dispatch.remote(str(waiting.piece))] = (replica, waiting)
