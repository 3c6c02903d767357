"""One process at a time works on a run.

On a local disk the kernel's lock says who; it goes with the process, however that ends. In a
bucket a file says who, and is renewed while the process lives: another one waits until the file
has not changed for a while, and then takes it over.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
import structlog

from moa.errors import RunError
from moa.storage.object_store import Folder
from moa.storage.run_folder import is_redrive

_LOCK = "lock.json"

log = structlog.get_logger()


class Patience(NamedTuple):
    """How a lock in a bucket is kept alive."""

    renew_s: float = 10.0
    stale_s: float = 45.0
    """After which nobody is believed to hold it any more; a few renewals."""


PATIENT = Patience()


@contextmanager
def run_lock(
    url: str,
    on_lost: Callable[[], None],
    patience: Patience = PATIENT,
    *,
    remedy: str | None = None,
) -> Iterator[None]:
    """Hold a run, or say who does.

    Args:
        url: the run's folder, or another one that one process at a time writes to.
        on_lost: called from another thread when somebody else took the run over, which happens to
            a process that could not reach its bucket for long.
        patience: of a lock in a bucket.
        remedy: what to do when it is held; by default what helps with a run.

    Raises:
        RunError: another process works on the run.
    """
    folder = Folder(url)
    remedy = remedy or _remedy(folder.url)
    lock = (
        _hold_file(folder.local, remedy)
        if folder.local
        else _hold_object(folder, on_lost, patience, remedy)
    )
    with lock:
        yield


@contextmanager
def _hold_file(folder: Path, remedy: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 1000).decode() or "another process"
            raise RunError(f"{folder} is worked on by {owner}: {remedy}") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, _who().encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _hold_object(
    folder: Folder, on_lost: Callable[[], None], patience: Patience, remedy: str
) -> Iterator[None]:
    lock = _Lock(folder, remedy)
    lock.take(patience)
    ended = threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(lock, ended, on_lost, patience.renew_s), name="run lock", daemon=True
    )
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        try:
            if lock.is_ours():
                folder.remove(_LOCK)
        except Exception as error:  # whatever the store raises: it goes stale by itself
            log.warning("run.lock_left", error=type(error).__name__)


class _Lock:
    """The file that says who works on a run. It only ever changes by one holder's known step."""

    def __init__(self, folder: Folder, remedy: str) -> None:
        self._folder, self._remedy = folder, remedy
        self._name = secrets.token_hex(8)
        self._written = self._document()

    def take(self, patience: Patience) -> None:
        """Create the file, or replace one that nobody renews.

        Raises:
            RunError: somebody else has it.
        """
        if self._folder.create(_LOCK, self._written):
            return
        seen = self._folder.read(_LOCK)
        log.info("run.lock_found", folder=self._folder.url, waiting_s=patience.stale_s)
        stale_at = time.monotonic() + patience.stale_s
        while time.monotonic() < stale_at:
            time.sleep(patience.renew_s / 5)
            now = self._folder.read(_LOCK)
            if now is None:
                break
            if now != seen:
                raise RunError(f"{self._folder.url} is worked on by {_holder(now)}: {self._remedy}")
        taken = (
            self._folder.swap(_LOCK, seen, self._written)
            if seen is not None and self._folder.has(_LOCK)
            else self._folder.create(_LOCK, self._written)
        )
        if not taken:
            raise RunError(
                f"{self._folder.url} has just been taken over by another process: it goes on there"
            )

    def renew(self) -> bool:
        """Say that the holder is alive; false when the lock is another's by now."""
        fresh = self._document()
        if self._folder.swap(_LOCK, self._written, fresh):
            self._written = fresh
            return True
        return self.is_ours()

    def is_ours(self) -> bool:
        """Whether this process holds the run; what it finds is what it renews next."""
        found = self._folder.read(_LOCK)
        if found is None or orjson.loads(found)["lock"] != self._name:
            return False
        self._written = found
        return True

    def _document(self) -> bytes:
        return orjson.dumps({"lock": self._name, "who": _who(), "renewed": time.time()})


def _renew(
    lock: _Lock, ended: threading.Event, on_lost: Callable[[], None], renew_s: float
) -> None:
    while not ended.wait(renew_s):
        try:
            held = lock.renew()
        except Exception:  # whatever the store's client raises: the bucket may answer next time
            continue
        if not held:
            on_lost()
            return


def _remedy(url: str) -> str:
    """For who finds a run held. A redrive has no id that could be another."""
    if is_redrive(url):
        return "wait for it, or end it; then start this again for what is still dead"
    return "wait for it, end it, or start a run of its own with --set run.id=…"


def _holder(document: bytes) -> str:
    """Who wrote it; a read that met a write may be cut."""
    try:
        return str(orjson.loads(document)["who"])
    except (orjson.JSONDecodeError, KeyError):
        return "another process"


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
