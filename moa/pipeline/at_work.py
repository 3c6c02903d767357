"""When the starts of a run were at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from moa.storage.run_folder import RunFolder

NOTE_EVERY_S = 30.0
"""How often the run folder is told; in the first seconds oftener."""

log = structlog.get_logger()


class AtWork:
    """Keeps in the run folder when this start was at work, so that pauses between starts are known.

    A killed start is known to half of its time, or to the last `NOTE_EVERY_S`.
    """

    def __init__(self, run: RunFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._router_s: Callable[[], float] = lambda: 0.0
        earlier = run.starts()
        self._number = len(earlier)
        self._earlier_router_s = sum(start.get("router_s", 0.0) for start in earlier)
        self._started_at = datetime.now(UTC)
        self._ended = threading.Event()
        self._noter = threading.Thread(target=self._keep_noting, name="at work", daemon=True)

    def __enter__(self) -> AtWork:
        self._note()
        self._noter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._noter.join()
        self._try_to_note()

    @property
    def all_router_s(self) -> float:
        """For how long all starts of the run, with this one, have held the router's machines."""
        return float(self._earlier_router_s + self._router_s())

    def router_begins(self, replicas: int) -> None:
        """From now on the router's machines are held."""
        started = self._clock()
        self._router_s = lambda: (self._clock() - started) * replicas

    def router_ends(self) -> None:
        """The router's machines are free again."""
        held_s = self._router_s()
        self._router_s = lambda: held_s

    def _note(self) -> None:
        facts = {
            "from": self._started_at.isoformat(),
            "to": datetime.now(UTC).isoformat(),
            "router_s": round(self._router_s(), 3),
        }
        self._run.note_start(self._number, facts)

    def _keep_noting(self) -> None:
        wait_s = 1.0
        while not self._ended.wait(wait_s):
            self._try_to_note()
            wait_s = min(NOTE_EVERY_S, 2 * wait_s)

    def _try_to_note(self) -> None:
        try:
            self._note()
        except Exception as error:  # whatever the store raises: a time is not worth a run
            log.warning("run.not_noted", error=type(error).__name__)
