"""The wire below the vendors' formats: one aiohttp session an account, and what can go wrong on it.

The SDKs' own clients cost 0.8-2 ms of CPU a call and retry behind the caller's back; posting bytes
over a shared session costs 0.1-0.15 ms. Nothing here retries, follows a redirect or logs; but a GET
or DELETE that finds its kept connection closed aiohttp sends again, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from yarl import URL

from moa.errors import ConfigError, KeyRefused, ProviderError, TransientError
from moa.providers.bodies import JSON, Noting, body_of

Method = Literal["GET", "POST", "DELETE"]

CONNECT_TIMEOUT_S = 30.0
"""Hundreds of TLS handshakes at once take seconds on a small machine."""

KEEP_ALIVE_S = 15.0
"""An unused connection is dropped after this; vendors' load balancers keep them longer."""

DRAIN_S = 0.2
"""How long the end of a finished stream is waited for, so that its connection can be used again."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_PROXY_SCHEMES = ("http", "https")


class Reply(NamedTuple):
    """A whole answer: nothing of it is left on the wire."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class EventStream:
    """An answer that is still coming in, read as server-sent events or line by line."""

    def __init__(self, response: aiohttp.ClientResponse, timeout_s: float) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._timeout_s = timeout_s

    async def read(self) -> bytes:
        """The whole body: what an answer that is no stream consists of.

        Raises:
            TransientError: the connection broke, or time is up.
        """
        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, self._timeout_s, sent=True) from None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The data of each event, as it comes; names, ids and comments are left out.

        Raises:
            TransientError: the connection broke, or time is up.
        """
        data: list[bytes] = []
        async for line in self.lines():
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
        if data:
            yield b"\n".join(data)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Each line as it comes, without its line break.

        Raises:
            TransientError: the connection broke, or time is up.
        """
        pending = b""
        while True:
            try:
                piece = await self._response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise failure(error, self._timeout_s, sent=True) from None
            if not piece:
                break
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
        if pending:
            yield pending

    async def drain(self) -> None:
        """Read what may follow the last event that matters, if it comes at once."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(DRAIN_S):
                while await self._response.content.readany():
                    pass


class Transport:
    """One account's connections. It opens them in the running event loop, at the first call.

    Args:
        headers: sent with every call.
        proxy: where the environment says that calls must go through; see `proxy_for`.
    """

    def __init__(self, headers: Mapping[str, str], *, proxy: str | None = None) -> None:
        self._headers = {
            "Content-Type": JSON,
            "Accept": JSON,
            "User-Agent": "moa-router",
            **headers,
        }
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def post(
        self, url: URL, body: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send `body` and read the whole answer, whatever its status.

        Raises:
            TransientError: no connection, no answer in time, or only a part of one.
            KeyRefused: a proxy on the way, or the address itself, lets nothing through.
        """
        return await self._whole("POST", url, body_of(body), timeout_s, headers)

    async def send(
        self,
        method: Method,
        url: URL,
        pieces: Sequence[bytes] = (),
        *,
        content_type: str = JSON,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a call of any method and read the whole answer, whatever its status.

        Args:
            method: of the call.
            url: of the call.
            pieces: of the body, one after the other; none: there is no body.
            content_type: of the body.
            timeout_s: for all of it, the body's way included.
            headers: besides the account's own, which they overrule.

        Raises:
            ProviderError: as `post`.
        """
        payload = body_of(pieces) if pieces else None
        headers = {**(headers or {}), "Content-Type": content_type}  # a session's goes before it
        return await self._whole(method, url, payload, timeout_s, headers)

    async def _whole(
        self,
        method: Method,
        url: URL,
        payload: Noting | None,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        try:
            async with self._request(method, url, payload, timeout_s, headers) as response:
                return Reply(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, timeout_s, sent=payload is None or payload.sent) from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        url: URL,
        body: bytes | None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[EventStream, None]:
        """Send `body`, or get what is there where it is `None`; leaving the context before the
        answer's end closes the connection.

        Raises:
            TransientError: no connection, or no answer in time.
            KeyRefused: a proxy on the way, or the address itself, lets nothing through.
        """
        payload = None if body is None else body_of(body)
        method: Method = "GET" if body is None else "POST"
        try:
            response = await self._request(method, url, payload, timeout_s, headers).__aenter__()
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, timeout_s, sent=payload is None or payload.sent) from None
        try:
            yield EventStream(response, timeout_s)
        finally:
            response.release()  # closes it, unless all of the answer was read

    async def close(self) -> None:
        """Close the connections; calls that are out fail, and so do later ones."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _request(
        self,
        method: Method,
        url: URL,
        payload: Noting | None,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._closed:
            raise TransientError("the provider was closed before the call", code="closed")
        session = self._session or self._open()
        return session.request(
            method,
            url,
            data=payload,
            headers=headers,
            timeout=self._timeout(timeout_s),
            allow_redirects=False,
        )

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        """`connect` covers a proxy's answer too, and sets a timer for each call. Without one the
        socket is all there is to wait for.
        """
        if self._proxy is not None:
            return aiohttp.ClientTimeout(total=total_s, connect=CONNECT_TIMEOUT_S)
        return aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_TIMEOUT_S)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            proxy=self._proxy,
        )
        return self._session


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that shows signs of life: gateways cut what is silent for minutes."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60)
    return made


def failure(error: BaseException, timeout_s: float, *, sent: bool) -> ProviderError:
    """What a failure below HTTP means.

    Args:
        error: aiohttp's or the system's.
        timeout_s: what the call was given.
        sent: whether any of the request may have reached the vendor, which may then bill it.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _of_proxy(error)
    if isinstance(error, aiohttp.InvalidURL):
        return KeyRefused("the account's address is no URL that can be called", code="url")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransientError(f"no connection within {CONNECT_TIMEOUT_S:g} s", code="connect")
    if isinstance(error, TimeoutError) and not sent:
        return TransientError(f"no connection within {timeout_s:g} s", code="connect")
    if isinstance(error, TimeoutError):
        detail = f"no whole answer within {timeout_s:g} s"
        return TransientError(detail, code="timeout", maybe_billed=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return TransientError(f"no connection: {error.os_error}"[:300], code="connect")
    detail = f"the connection broke: {type(error).__name__}"
    return TransientError(detail, code="connection", maybe_billed=sent)


def _of_proxy(error: aiohttp.ClientHttpProxyError) -> ProviderError:
    """A proxy's answer to CONNECT: nothing has reached the vendor."""
    status = error.status
    if status == 407:
        detail = "the proxy wants a user and a password: set http://user:password@host:port"
        return KeyRefused(f"HTTP 407: {detail} in HTTPS_PROXY", status=status, code="proxy")
    detail = f"HTTP {status}: the proxy opens no way to the vendor"
    if 400 <= status < 500 and status not in (408, 425, 429):
        return KeyRefused(detail, status=status, code="proxy")
    return TransientError(detail, status=status, code="proxy")


def base_url(text: str, *, where: str) -> URL:
    """A base URL without its last slash.

    Raises:
        ConfigError: it is no absolute http or https URL, or holds a password or a query.
    """
    try:
        url = URL(text.strip().rstrip("/"))
        url.port  # noqa: B018 - raises where there is none
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"{where}: base URL {masked(text)!r} is not of the form https://host/path"
        )
    if url.user or url.password or url.query_string or url.fragment:
        raise ConfigError(
            f"{where}: base URL {masked(text)!r} has more than host and path: put a key into the "
            "variable that api_key_env names, and leave out user, query and fragment"
        )
    return url


def masked(url: str) -> str:
    """A URL to be shown: without user, password, and the values of its query."""
    shown = re.sub(r"(?<=//)[^/@]*@", "***@", url)
    return re.sub(r"([?#]).*", r"\1***", shown, flags=re.DOTALL)


def credential(environ: Mapping[str, str], variable: str, *, where: str) -> str:
    """The key that a variable holds, without space around it; `""` when it is not set.

    Raises:
        ConfigError: it holds what no header can carry, such as a line break.
    """
    key = environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{where}: {variable} holds a line break or another character that no key has; "
            "set it to the key alone"
        )
    return key


def proxy_for(url: URL, environ: Mapping[str, str]) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name for `url`.

    Never one for this machine itself, where the replay server is. Without a scheme it is an http
    proxy, as for curl.

    Raises:
        ConfigError: it is of a kind that cannot be used here.
    """
    names = {k[:-6].lower(): k for k, v in environ.items() if k.lower().endswith("_proxy") and v}
    host = url.host or ""
    bypassed = {kind: environ[name] for kind, name in names.items()}
    if host in _LOOPBACK or proxy_bypass_environment(host, bypassed):
        return None
    name = names.get(url.scheme) or names.get("all")
    return None if name is None else _proxy(name, environ[name].strip())


def _proxy(name: str, value: str) -> str:
    text = value if "://" in value else f"http://{value}"
    try:
        proxy = URL(text)
    except ValueError:
        proxy = URL()
    if proxy.scheme not in _PROXY_SCHEMES or not proxy.host:
        raise ConfigError(
            f"{name}={masked(text)!r} is no proxy that can be used: set it to one of the form "
            "http://host:port, or put the vendors' hosts into NO_PROXY"
        )
    return text


def header_lines(text: str) -> dict[str, str]:
    """Headers as the SDKs read them from an environment variable: a `Name: value` per line."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon and name.strip()}
