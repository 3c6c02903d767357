"""An event loop whose time jumps to the next timer: an hour of pacing takes a second."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

STARTS_AT_S = 1000.0
STEP_S = 1e-6
"""What one turn of the loop takes. Were it nothing, a timer that rounding has set a hair too early
would be set again and again at the same moment.
"""

P = ParamSpec("P")
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
    """Its `time` is the clock to give to whatever runs on it. It hears nothing of the outside: no
    sockets, no threads.
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


def virtually(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A test that runs so."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(test(*args, **kwargs))

    return run


def now_s() -> float:
    """Of the running loop: a clock for owners and leases."""
    return asyncio.get_running_loop().time()


class Passing:
    """Seconds that have passed since it was made."""

    def __init__(self) -> None:
        self._from_s = now_s()

    @property
    def s(self) -> float:
        return now_s() - self._from_s
