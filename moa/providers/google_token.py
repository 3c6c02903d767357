"""A Google access token that is fresh when it is needed, and fetched without stopping the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from moa.errors import KeyRefused, ProviderError, TransientError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_PASSING = (408, 429)


class GoogleToken:
    """The bearer token of a service account, or of what else `google.auth` finds.

    Args:
        credentials_path: a service account's JSON file. `None`, or a file of another kind, leaves
            it to `google.auth.default`, which looks at the process's own environment, at gcloud's
            file and at the metadata server.

    google.auth is imported and called in a thread: it reads files and calls synchronously.
    """

    def __init__(self, credentials_path: str | None) -> None:
        self._path = credentials_path
        self._credentials: Credentials | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._headers: dict[str, str] = {}

    async def headers(self) -> Mapping[str, str]:
        """`Authorization`, and the quota project where the credentials name one.

        A token near its end is still used while the next one is fetched, once for all callers. A
        caller that stops waiting does not stop the others.

        Raises:
            KeyRefused: no credentials, or the token server refused them.
            TransientError: the token server could not be reached, or failed.
        """
        state = "INVALID" if self._credentials is None else self._credentials.token_state.name
        if state == "FRESH":
            return self._headers
        if self._refresh is None:
            self._refresh = asyncio.get_running_loop().create_task(self._renew())
            self._refresh.add_done_callback(self._renewed)
        if state == "INVALID":
            await asyncio.shield(self._refresh)
        return self._headers

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._refresh = None
        if not task.cancelled():
            task.exception()  # whoever awaited it has it; a stale token's next caller tries again

    async def _renew(self) -> None:
        self._credentials = await asyncio.to_thread(_renew, self._credentials, self._path)
        self._headers = {"Authorization": f"Bearer {self._credentials.token}"}
        if getattr(self._credentials, "quota_project_id", None):
            self._headers["x-goog-user-project"] = self._credentials.quota_project_id


def _renew(credentials: Credentials | None, path: str | None) -> Credentials:
    credentials = credentials or _found(path)
    request = _Request()
    try:
        refresh: Any = credentials.refresh  # untyped
        refresh(request)
    except Exception as error:  # besides its own errors google.auth raises what a body makes it
        raise failure(error, request.status) from None
    return credentials


class _Request:
    """google.auth's own transport, which remembers the last status: its errors do not have it."""

    def __init__(self) -> None:
        import google.auth.transport.requests

        self._send: Any = google.auth.transport.requests.Request()
        self.status: int | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        response = self._send(*args, **kwargs)
        self.status = response.status
        return response


def failure(error: Exception, status: int | None) -> ProviderError:
    """What a failed refresh means: only what the token server says of us refuses the key."""
    from google.auth import exceptions

    passing = (
        not isinstance(error, exceptions.GoogleAuthError)
        or error.retryable
        or isinstance(error, exceptions.TransportError)
        or isinstance(error.__cause__, exceptions.TransportError)
        or (status is not None and (status >= 500 or status in _PASSING))
    )
    detail = f"no Google token: {type(error).__name__}"
    if passing:
        return TransientError(detail, code="token")
    return KeyRefused(f"{detail}: {error}"[:300], code="token")


def _found(path: str | None) -> Credentials:
    """The credentials, without a token as yet.

    Raises:
        KeyRefused: there are none, or they cannot be read.
    """
    from google.auth import exceptions

    try:
        return _find(path)
    except exceptions.GoogleAuthError as error:
        detail = f"no Google token: {type(error).__name__}: {error}"[:300]
        raise KeyRefused(detail, code="token") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        where = path or "the default credentials"
        detail = f"no Google token: {where} cannot be read: {type(error).__name__}"
        raise KeyRefused(detail, code="token") from None


def _find(path: str | None) -> Credentials:
    import google.auth
    from google.oauth2 import service_account

    credentials: Credentials
    if path is not None and _kind(path) == "service_account":
        load: Any = service_account.Credentials.from_service_account_file  # untyped
        credentials = load(path, scopes=_SCOPES)
    else:
        credentials, _ = google.auth.default(scopes=_SCOPES)
    return credentials


def _kind(path: str) -> str:
    return str(orjson.loads(Path(path).read_bytes()).get("type"))
