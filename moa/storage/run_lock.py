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

from moa.errors import RunError
from moa.storage.object_store import Folder

_LOCK = "lock.json"


class Patience(NamedTuple):
    """How a lock in a bucket is kept alive."""

    renew_s: float = 10.0
    stale_s: float = 45.0
    """After which nobody is believed to hold it any more; a few renewals."""


PATIENT = Patience()


@contextmanager
def run_lock(url: str, on_lost: Callable[[], None], patience: Patience = PATIENT) -> Iterator[None]:
    """Hold a run, or say who does.

    Args:
        url: the run's folder.
        on_lost: called from another thread when somebody else took the run over, which happens to
            a process that could not reach its bucket for long.
        patience: of a lock in a bucket.

    Raises:
        RunError: another process works on the run.
    """
    folder = Folder(url)
    lock = _hold_file(folder.local) if folder.local else _hold_object(folder, on_lost, patience)
    with lock:
        yield


@contextmanager
def _hold_file(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 1000).decode() or "another process"
            raise RunError(
                f"{folder} is worked on by {owner}: wait for it, end it, or start a run of its "
                "own with --set run.id=…"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, _who().encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _hold_object(folder: Folder, on_lost: Callable[[], None], patience: Patience) -> Iterator[None]:
    ours = secrets.token_hex(8)
    _take(folder, ours, patience)
    ended = threading.Event()
    renewer = threading.Thread(
        target=_renew,
        args=(folder, ours, ended, on_lost, patience.renew_s),
        name="run lock",
        daemon=True,
    )
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        if _owner(folder.read(_LOCK)) == ours:
            folder.remove(_LOCK)


def _take(folder: Folder, ours: str, patience: Patience) -> None:
    """Create the file, or replace one that nobody renews."""
    if folder.create(_LOCK, _document(ours)):
        return
    seen = folder.read(_LOCK)
    stale_at = time.monotonic() + patience.stale_s
    while (now := folder.read(_LOCK)) is not None:
        if now != seen:
            raise RunError(
                f"{folder.url} is worked on by {orjson.loads(now)['who']}: wait for it, end it, "
                "or start a run of its own with --set run.id=…"
            )
        if time.monotonic() > stale_at:
            folder.remove(_LOCK)
            break
        time.sleep(patience.renew_s / 5)
    if not folder.create(_LOCK, _document(ours)):
        raise RunError(
            f"{folder.url} has just been taken over by another process: it goes on there"
        )


def _renew(
    folder: Folder,
    ours: str,
    ended: threading.Event,
    on_lost: Callable[[], None],
    renew_s: float,
) -> None:
    while not ended.wait(renew_s):
        try:
            if _owner(folder.read(_LOCK)) != ours:
                on_lost()
                return
            folder.put(_LOCK, _document(ours))
        except Exception:
            continue


def _owner(document: bytes | None) -> str | None:
    return None if document is None else str(orjson.loads(document)["lock"])


def _document(ours: str) -> bytes:
    return orjson.dumps({"lock": ours, "who": _who(), "renewed": time.time()})


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
