"""What ours is held against: a bare loop, which is the floor, and the SDKs used the plain way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp
import orjson
from aiolimiter import AsyncLimiter

from moa.replay.server import provider_path
from tests.bench.dispatch.vendors import VENDORS, Post
from tests.bench.dispatch.work import Tally, Work, key_of

FIRST_BACKOFF_S = 0.5
"""Of the bare loop; doubled with every further try, as in the SDKs."""


class Bare:
    """As many loops as calls in flight, which post prepared bytes and read the answer's JSON."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._vendor = VENDORS[work.wire]
        self._base_url = work.server_url + provider_path(work.wire)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=work.timeout_s),
        )
        self._posts: list[Post] = []

    def prepare(self, prompts: Sequence[str]) -> None:
        """See `Side.prepare`."""
        post, model = self._vendor.post, self._vendor.api_name
        self._posts = [post(self._base_url, key_of(0), model, prompt) for prompt in prompts]

    async def run(self) -> Tally:
        """See `Side.run`."""
        tally, left = Tally(), iter(self._posts)

        async def loop() -> None:
            for post in left:
                error = await self._ask(post)
                if error is None:
                    tally.answered += 1
                else:
                    tally.failed[error] += 1

        await asyncio.gather(*[loop() for _ in range(self._work.in_flight)])
        return tally

    async def _ask(self, post: Post) -> str | None:
        """What went wrong the last time, if nothing went right."""
        error = ""
        for attempt in range(self._work.attempts):
            if attempt:
                await asyncio.sleep(FIRST_BACKOFF_S * 2 ** (attempt - 1))
            try:
                async with self._session.post(
                    post.url, data=post.body, headers=post.headers
                ) as answer:
                    body = await answer.read()
                if answer.status == 200:
                    self._vendor.text(orjson.loads(body))
                    return None
                error = str(answer.status)
            except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as failure:
                error = type(failure).__name__
        return error

    async def close(self) -> None:
        """See `Side.close`."""
        await self._session.close()


class Sdk:
    """The official SDK as anybody would use it: all calls gathered, a semaphore, its own retries.

    Args:
        work: what to do.
        on_aiohttp: by the transport that the SDK has besides its default one.
        limiter_s: where there is a limit, the time of aiolimiter's `AsyncLimiter(rate, time)`: with
            60 a minute's calls, as its documentation has it, may go at once.
    """

    def __init__(self, work: Work, *, on_aiohttp: bool = False, limiter_s: float = 60) -> None:
        vendor = VENDORS[work.wire]
        base_url = work.server_url + provider_path(work.wire)
        self._work = work
        self._clients = [
            vendor.open_client(
                base_url, key_of(n), name, on_aiohttp=on_aiohttp, timeout_s=work.timeout_s
            )
            for n, name in enumerate(work.api_names(vendor.api_name))
        ]
        self._limiters = [
            AsyncLimiter(work.rpm / 60 * limiter_s, limiter_s) if work.rpm else None
            for _ in self._clients
        ]
        self._prompts: list[str] = []

    def prepare(self, prompts: Sequence[str]) -> None:
        """See `Side.prepare`."""
        self._prompts = list(prompts)

    async def run(self) -> Tally:
        """See `Side.run`."""
        slots = [asyncio.Semaphore(self._work.in_flight) for _ in self._clients]

        async def ask(number: int, prompt: str) -> str:
            account = number % len(self._clients)
            limiter = self._limiters[account]
            async with slots[account]:
                if limiter is not None:
                    await limiter.acquire()
                return await self._clients[account].ask(prompt)

        calls = [ask(number, prompt) for number, prompt in enumerate(self._prompts)]
        tally = Tally()
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, str) and answer:
                tally.answered += 1
            else:
                tally.failed[type(answer).__name__] += 1
        return tally

    async def close(self) -> None:
        """See `Side.close`."""
        for client in self._clients:
            await client.close()
