"""The three vendors as their documentation has them: a bare post, and the official SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import httpx2
import orjson
from yarl import URL

from moa.catalog import Wire

MOST_TOKENS = 1024
"""Anthropic demands a limit; no answer of the server's is that long."""


class Post(NamedTuple):
    """A request as bytes."""

    url: URL
    headers: dict[str, str]
    body: bytes


class Client(NamedTuple):
    """An SDK's client, for one model."""

    ask: Callable[[str], Awaitable[str]]
    """A prompt's completion."""
    close: Callable[[], Awaitable[None]]


class OpenClient(Protocol):
    """Opens an SDK's client inside an event loop."""

    def __call__(
        self, base_url: str, key: str, model: str, *, on_aiohttp: bool, timeout_s: float
    ) -> Client:
        """A client; `on_aiohttp` is the SDK's other transport."""
        ...


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor."""

    model: str
    """Catalog id in `jobs/configs/demo_catalog.toml`."""
    api_name: str
    post: Callable[[str, str, str, str], Post]
    """Base URL, key, model, prompt → what goes out."""
    text: Callable[[Any], str]
    """The completion in an answer's JSON."""
    open_client: OpenClient


def _openai_post(base_url: str, key: str, model: str, prompt: str) -> Post:
    document = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {key}"}
    return _post(f"{base_url}/chat/completions", headers, document)


def _anthropic_post(base_url: str, key: str, model: str, prompt: str) -> Post:
    document = {
        "model": model,
        "max_tokens": MOST_TOKENS,
        "messages": [{"role": "user", "content": prompt}],
    }
    headers = {"Authorization": f"Bearer {key}", "anthropic-version": "2026-10-21"}
    return _post(f"{base_url}/v1/messages", headers, document)


def _gemini_post(base_url: str, key: str, model: str, prompt: str) -> Post:
    document = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    url = f"{base_url}/v1beta/models/{model}:generateContent"
    return _post(url, {"x-goog-api-key": key}, document)


def _post(url: str, headers: dict[str, str], document: object) -> Post:
    # The URL is as it should be; parsing it once is what a careful bare loop does.
    whole = {"Content-Type": "application/json", **headers}
    return Post(URL(url, encoded=True), whole, orjson.dumps(document))


def _open_openai(
    base_url: str, key: str, model: str, *, on_aiohttp: bool, timeout_s: float
) -> Client:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    client = AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        timeout=timeout_s,
        http_client=DefaultAioHttpClient() if on_aiohttp else None,
    )

    async def ask(prompt: str) -> str:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}]
        )
        return answer.choices[0].message.content or ""

    return Client(ask, client.close)


def _open_anthropic(
    base_url: str, key: str, model: str, *, on_aiohttp: bool, timeout_s: float
) -> Client:
    from anthropic import AsyncAnthropic, DefaultAioHttpClient

    client = AsyncAnthropic(
        api_key=key,
        base_url=base_url,
        timeout=timeout_s,
        http_client=DefaultAioHttpClient() if on_aiohttp else None,
    )

    async def ask(prompt: str) -> str:
        answer = await client.messages.create(
            model=model,
            max_tokens=MOST_TOKENS,
            messages=[{"role": "user", "content": prompt}],
        )
        return "".join(block.text for block in answer.content if block.type == "text")

    return Client(ask, client.close)


def _open_gemini(
    base_url: str, key: str, model: str, *, on_aiohttp: bool, timeout_s: float
) -> Client:
    from google import genai
    from google.genai.types import HttpOptions

    # aiohttp is what it takes by itself where that is installed.
    options = HttpOptions(base_url=base_url, timeout=round(timeout_s * 1000))
    if not on_aiohttp:
        options.httpx_async_client = httpx2.AsyncClient(timeout=timeout_s)
    client = genai.Client(api_key=key, http_options=options)

    async def ask(prompt: str) -> str:
        answer = await client.aio.models.generate_content(model=model, contents=prompt)
        return answer.text or ""

    return Client(ask, client.aio.aclose)


VENDORS: dict[Wire, Vendor] = {
    "openai": Vendor(
        model="openai/gpt-4o-mini",
        api_name="gpt-4o-mini-2024-07-18",
        post=_openai_post,
        text=lambda answer: str(answer["choices"][0]["message"]["content"]),
        open_client=_open_openai,
    ),
    "anthropic": Vendor(
        model="anthropic/claude-3-haiku",
        api_name="claude-3-haiku-20240307",
        post=_anthropic_post,
        text=lambda answer: str(answer["content"][0]["text"]),
        open_client=_open_anthropic,
    ),
    "gemini": Vendor(
        model="google/gemini-1.5-flash",
        api_name="gemini-1.5-flash-002",
        post=_gemini_post,
        text=lambda answer: str(answer["candidates"][0]["content"]["parts"][0]["text"]),
        open_client=_open_gemini,
    ),
}
