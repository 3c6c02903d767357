"""Functions that misbehave, for processes of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any


def obey(what: list[Any]) -> object:
    """Do what the test asks for."""
    return getattr(Orders, what[0])(*what[1:])


class Orders:
    """All that may be asked for."""

    @staticmethod
    def echo(value: object) -> object:
        return value

    @staticmethod
    def pid() -> int:
        return os.getpid()

    @staticmethod
    def environ() -> list[str]:
        return list(os.environ)

    @staticmethod
    def hang() -> None:
        signal.pause()

    @staticmethod
    def compute() -> None:
        while True:
            pass

    @staticmethod
    def exit(code: int) -> None:
        os._exit(code)

    @staticmethod
    def crash() -> None:
        ctypes.string_at(0)

    @staticmethod
    def leave() -> None:
        raise SystemExit(3)

    @staticmethod
    def fail() -> None:
        raise LookupError("not here")

    @staticmethod
    def allocate(megabytes: int) -> int:
        return len(bytearray(megabytes << 20))

    @staticmethod
    def shout() -> str:
        print("out loud")  # noqa: T201 -- what a library may do
        sys.stderr.write("louder")
        return "said"

    @staticmethod
    def is_main_thread() -> bool:
        return threading.current_thread() is threading.main_thread()

    @staticmethod
    def alarm_rings() -> bool:
        """Whether a signal's handler runs while the function is at work."""
        rang: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not rang:
            time.sleep(0.001)
        return True

    @staticmethod
    def interrupt(caller: int) -> str:
        """Interrupt who is waiting, and answer nevertheless."""
        os.kill(caller, signal.SIGUSR1)
        return "late"

    @staticmethod
    def start_child() -> int:
        return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid

    @staticmethod
    def return_bytes() -> bytes:
        return b"no JSON"

    @staticmethod
    def flood(megabytes: int) -> str:
        return "x" * (megabytes << 20)
