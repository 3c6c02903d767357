"""Rows that become Parquet files in a folder, many at once, without holding up a request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import structlog

from moa.errors import SchemaError
from moa.storage.object_store import Folder

MOST_HELD = 100_000
"""Rows that wait for a store that is away; newer ones are dropped, and counted."""

log = structlog.get_logger()


class RowLog:
    """One kind of row. Close it in `finally`."""

    def __init__(
        self, folder: str, name: str, schema: pa.Schema, *, rows: int, every_s: float
    ) -> None:
        self._folder = Folder(folder)
        self._name = name
        self._schema = schema
        self._most = rows
        self._every_s = every_s
        self._held: list[Mapping[str, Any]] = []
        self._written: asyncio.Future[None] | None = None
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.dropped = 0

    def add(self, row: Mapping[str, Any]) -> asyncio.Future[None]:
        """Keep a row; what comes back is done once it is written, or fails when it is not."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        if len(self._held) >= MOST_HELD:
            self.dropped += 1
            dropped = _promise()
            dropped.set_exception(OSError(f"{MOST_HELD} rows wait for a store that is away"))
            return dropped
        if self._written is None:
            self._written = _promise()
        self._held.append(row)
        if len(self._held) >= self._most:
            self._full.set()
        return self._written

    async def close(self) -> None:
        """Write what is held."""
        self._closing = True
        self._full.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._closing or self._held:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if self._held:
                await self._write()

    async def _write(self) -> None:
        rows, self._held = self._held, []
        written, self._written = self._written, None
        table = self._table(rows)
        odd = len(rows) - len(table)
        # Who reads the folder reads the files by their names: later rows come later.
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{self._name}/{stamp}-{secrets.token_hex(4)}.parquet"
        try:
            await asyncio.to_thread(self._folder.put_table, name, table)
        except Exception as error:  # a store that is away must not end the endpoint
            log.error("rows.not_written", log=self._name, rows=len(rows), error=repr(error))
            if self._closing:
                self.dropped += len(rows)
            else:
                self._held = [*rows, *self._held]
            if written is not None and not written.done():
                written.set_exception(error)
            return
        if written is None or written.done():
            return
        if odd:
            words = f"{self._name}: {odd} of {len(rows)} rows do not fit their columns"
            written.set_exception(SchemaError(words))
        else:
            written.set_result(None)

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Without rows that do not fit: one of them must not keep the others from being written."""
        try:
            return pa.Table.from_pylist([dict(row) for row in rows], schema=self._schema)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if len(rows) == 1:
                self.dropped += 1
                log.error("row.dropped", log=self._name, error=type(error).__name__)
                return self._schema.empty_table()
        half = len(rows) // 2
        return pa.concat_tables([self._table(rows[:half]), self._table(rows[half:])])


def _promise() -> asyncio.Future[None]:
    made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made.add_done_callback(_seen)
    return made


def _seen(written: asyncio.Future[None]) -> None:
    """Not everybody waits; the failure was logged."""
    if not written.cancelled():
        written.exception()
