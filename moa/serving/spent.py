"""The day's spend of all tenants, kept where it outlives its owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import structlog

from moa.errors import Refusal
from moa.serving.tenant_limits import NOTHING, Need, Returned, TenantLimits, Verdict
from moa.serving.tenants import Tenant
from moa.storage.object_store import Folder

EVERY_S = 1.0
"""Between two writes: what a crash forgets."""

log = structlog.get_logger()


class KeptLimits(TenantLimits):
    """`TenantLimits` that begin with what was spent before, and write down what is spent.

    Args:
        folder: a path, s3://… or gs://…; `None` keeps nothing.
        clock: seconds since 1970.
    """

    def __init__(self, folder: str | None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._folder = None if folder is None else Folder(folder)
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        """See `LimitOwner.lease`. Nothing is granted before what was spent has been read."""
        if self._folder is None:
            return await super().lease(tenant, needed, returned)
        if self._reading is None or _failed(self._reading):
            self._reading = asyncio.create_task(self._read(self._folder))
        try:
            await asyncio.shield(self._reading)
        except Exception as error:  # whatever the store's is: it is read again by the next
            log.error("spent.not_read", error=repr(error))
            raise Refusal(
                "what this key has spent today cannot be read",
                status=503,
                kind="api_error",
                code="limits_out",
                retry_after_s=5.0,
            ) from None
        verdict = await super().lease(tenant, needed, returned)
        if needed == NOTHING:  # who tells and wants nothing is about to end
            if self._writing is not None:
                await asyncio.wait({self._writing})
            await self._put(self._folder)
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._folder))
        return verdict

    async def _read(self, folder: Folder) -> None:
        found = await asyncio.to_thread(folder.read, self._name())
        for name, usd in orjson.loads(found or b"{}").items():
            self.begin(name, Decimal(usd))

    async def _write(self, folder: Folder) -> None:
        await asyncio.sleep(EVERY_S)
        await self._put(folder)

    async def _put(self, folder: Folder) -> None:
        document = {name: str(usd) for name, usd in self.spent().items()}
        try:
            await asyncio.to_thread(folder.put, self._name(), orjson.dumps(document))
        except Exception as error:  # a store that is away must not stop the endpoint
            log.error("spent.not_written", error=repr(error))

    def _name(self) -> str:
        return f"spent/{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%d}.json"


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
