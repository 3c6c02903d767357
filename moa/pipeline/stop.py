"""SIGINT and SIGTERM: the run is asked to stop, and decides when."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from moa.errors import Interrupted, RunError
from moa.storage.run_lock import run_lock

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What a run is asked by its first signal; a second SIGINT ends it at once.

    A signal does not interrupt by itself: one that comes while Ray starts would tear down what is
    half up. `check` says whether there was one, and inside `at_once` it interrupts.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.lost = False
        """Another process works on the run by now."""
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in _SIGNALS:
            self._before[number] = signal.getsignal(number)
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals; again, after somebody else (`ray.init`) has taken them."""
        for number in _SIGNALS:
            signal.signal(number, self._told)

    def lose(self) -> None:
        """The run is another process's: from whatever thread."""
        self.lost = True
        self.asked.set()

    def check(self) -> None:
        """Raise if the run was asked to stop.

        Raises:
            Interrupted: it was.
        """
        if self.asked.is_set():
            raise Interrupted("stopped on request")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Nothing is out meanwhile that would have to come back."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def _told(self, number: int, frame: FrameType | None) -> None:
        again = self.asked.is_set() and number == signal.SIGINT
        self.asked.set()
        if self._at_once or again:
            raise Interrupted("stopped at once: what was answered and kept is not asked again")


@contextmanager
def held(url: str, stop: Stop, *, remedy: str | None = None) -> Iterator[None]:
    """Hold a run, or another folder that one process at a time writes to; stop when another process
    takes it over.

    Args:
        url: the folder.
        stop: of this process.
        remedy: see `run_lock`.

    Raises:
        RunError: another process works on it, or does so by now.
    """
    try:
        with run_lock(url, on_lost=stop.lose, remedy=remedy):
            yield
    except Interrupted:
        if stop.lost:
            raise RunError(
                f"{url} was taken over by another process, since this one could not reach it for "
                "long: it goes on there"
            ) from None
        raise
