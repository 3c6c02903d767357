"""An event loop whose time jumps to the next timer: an hour of pacing takes a second."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

STARTS_AT_S = 1000.0
STEP_S = 1e-6
"""What one turn of the loop takes. Were it nothing, a timer that rounding has set a hair too early
would be set again and again at the same moment.
"""

T = TypeVar("T")


class Stuck(Exception):
    """Somebody waits for what nobody will ever do."""


class _Jump(selectors.SelectSelector):
    """Waits for nothing: it lets as much time pass as it was told to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = STARTS_AT_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("no task is ready and no timer is set")
        self.now_s += max(0.0, timeout) + STEP_S
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its `time` is the clock to give to whatever runs on it. Of the world outside it hears nothing:
    no sockets, no threads.
    """

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, in no time.

    Raises:
        Stuck: nothing would ever go on, where a loop with real time would wait for ever.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
