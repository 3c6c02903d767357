"""Fixtures of the providers' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from moa.catalog import Wire
from tests.providers.batch_vendor import BatchVendor, batch_vendor
from tests.providers.dialects import DIALECTS, KEY, Dialect
from tests.providers.vendor_server import Scripted, VendorServer

pytest.register_assert_rewrite("tests.providers.provider_contract")

from tests.providers.provider_contract import Says  # noqa: E402 - after it is registered


class ScriptedSide:
    """The contract's other side, played by `VendorServer`."""

    def __init__(self, server: VendorServer, dialect: Dialect) -> None:
        self.server = server
        self.dialect = dialect
        self.base_url = server.base_url + dialect.suffix
        self.account = dialect.account
        self.environ = dialect.environ
        self.model = dialect.model
        self.key = KEY

    def script(self, *says: Says) -> None:
        self.server.script(*map(self._scripted, says))

    @property
    def bodies(self) -> Sequence[dict[str, Any]]:
        return [request.body for request in self.server.requests]

    @property
    def urls(self) -> Sequence[str]:
        return [request.path for request in self.server.requests]

    def tool_round(self, body: dict[str, Any]) -> tuple[tuple[str, Any], str]:
        return self.dialect.tool_round(body)

    async def reached(self) -> None:
        await self.server.reached.wait()

    async def left(self) -> None:
        await self.server.hung_up.wait()

    def _scripted(self, says: Says) -> Scripted:
        ok = self.dialect.ok(says.text)
        halves = (says.text[:2], says.text[2:])
        events = self.dialect.stream(*halves)
        error = self.dialect.stream_error()
        match says.kind:
            case "ok":
                return ok
            case "tool_call":
                return self.dialect.tool_call("weather", {"city": "Paris"})
            case "refusal":
                return self.dialect.refusal()
            case "cut_by_limit":
                return self.dialect.cut_by_limit(says.text)
            case "error":
                return self._error(says)
            case "reset":
                return Scripted(body=ok.body, cut_after=len(ok.body) // 2)
            case "cut_json":
                return Scripted(body=ok.body[:-10])
            case "hang":
                return Scripted(body=ok.body, hang=True)
            case "stream":
                return Scripted(events=events)
            case "tool_stream":
                return Scripted(events=self.dialect.tool_stream('{"city": ', '"Paris"}'))
            case "broken_stream":
                return Scripted(events=events, cut_after=len(events) - 2)
            case "hanging_stream":
                return Scripted(events=events, cut_after=len(events) - 1, hang=True)
            case "error_in_stream":
                return Scripted(events=(*events[:-2], error))
            case "error_before_stream":
                return Scripted(events=(error,))
            case "error_after_thoughts":
                return Scripted(events=(*self.dialect.thoughts(), error))
            case "error_in_tool_call":
                return Scripted(events=(*self.dialect.begun_tool_call(), error))
            case "stream_without_end":
                return Scripted(events=self.dialect.stream_without_end())

    def _error(self, says: Says) -> Scripted:
        headers = {}
        if says.retry_after_s is not None:
            headers["retry-after"] = f"{says.retry_after_s:g}"
        return self.dialect.error(says.status, says.message, says.code, **headers)


@pytest.fixture
async def vendor_server() -> AsyncIterator[VendorServer]:
    async with VendorServer() as server:
        yield server


@pytest.fixture
def side(vendor_server: VendorServer, wire: Wire) -> ScriptedSide:
    """For test files that have a fixture `wire`."""
    return ScriptedSide(vendor_server, DIALECTS[wire])


@pytest.fixture
async def vendor() -> AsyncIterator[BatchVendor]:
    """A vendor's batches, which answer as they are told."""
    async with batch_vendor() as vendor:
        yield vendor
