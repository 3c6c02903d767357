"""Routers in processes of their own on Ray Serve: from within, and from the side of who asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from ray import serve
from ray.serve.handle import DeploymentHandle

from moa.errors import EngineError, Refusal
from moa.log import configure
from moa.serving.config import EndpointConfig
from moa.serving.routing import Scored
from moa.serving.scoring import PROBE, Ask, LocalScorer, check_scores
from moa.stages import ENGINE_FAILED

_ATTEMPTS = 3
"""Replicas that are asked the same: scoring costs nothing but time."""

log = structlog.get_logger()


class Scorings(NamedTuple):
    """What a router replica has done so far."""

    replica: str
    asks: int
    batches: int


class RouterReplica:
    """One process with a router, that scores together what several ingress replicas ask at once."""

    async def __init__(self, document: str) -> None:  # type: ignore[misc]  # Serve awaits it
        config = EndpointConfig.model_validate_json(document)
        configure(config.log.style)
        self._pool = tuple(config.pool)
        self._scorer = await asyncio.to_thread(LocalScorer.load, config.router, config.pool)
        self._asks = self._batches = 0
        self.score.set_max_batch_size(config.router.max_batch)  # type: ignore[attr-defined]
        self.score.set_batch_wait_timeout_s(config.router.batch_wait_s)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.004)
    async def score(self, asks: list[Ask]) -> list[Scored | None]:
        """See `LocalScorer.score_together`; one batch at a time, others gather meanwhile."""
        try:
            found = await asyncio.to_thread(self._scorer.score_together, asks)
        except EngineError as error:
            log.error("router.engine_failed", error=str(error))
            os._exit(ENGINE_FAILED)  # Serve starts another
        self._asks += len(asks)
        self._batches += 1
        return found

    async def scorings(self) -> Scorings:
        """So far, health checks included."""
        return Scorings(serve.get_replica_context().replica_tag, self._asks, self._batches)

    async def check_health(self) -> None:
        """The router works, not only the process; asked as others ask: an engine has one caller.

        Raises:
            RuntimeError: it does not.
        """
        ask: Any = Ask(PROBE, self._pool)
        scored: Any = await self.score(ask)
        check_scores(scored.scores)


class RemoteScorer:
    """The router replicas from the side of an ingress; see `moa.serving.routing.Scorer`.

    Args:
        handle: of their deployment.
        pool: catalog ids.
        max_wait_s: that scoring may take.
    """

    def __init__(
        self, handle: DeploymentHandle[Any], pool: Sequence[str], max_wait_s: float
    ) -> None:
        self._handle = handle
        self._pool = tuple(pool)
        self._max_wait_s = max_wait_s
        self._out = False
        self._waiting = 0

    async def score(self, texts: Sequence[str]) -> Scored:
        """See `Scorer.score`. While nobody answers, one request waits for it, and no others.

        Raises:
            Refusal: no replica has answered in time.
        """
        if self._out and self._waiting:
            raise _nobody()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                scored = await self._asked(Ask(tuple(texts), self._pool))
        except TimeoutError:
            scored = None
        finally:
            self._waiting -= 1
        self._out = scored is None
        if scored is None:
            raise _nobody()
        return scored

    async def _asked(self, ask: Ask) -> Scored | None:
        for _ in range(_ATTEMPTS):
            try:
                scored: Scored | None = await self._handle.score.remote(ask)
            except Exception as error:  # Ray's, Serve's or gRPC's, by when the replica died
                log.warning("router.ask_failed", error=type(error).__name__)
                continue
            if scored is not None:  # else it is of another pool: on its way out, or not here yet
                return scored
        return None


def _nobody() -> Refusal:
    return Refusal(
        "no router replica answers",
        status=503,
        kind="api_error",
        code="router_out",
        retry_after_s=5.0,
    )
