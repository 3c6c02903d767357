"""A function in a process of its own: it may hang, crash or eat memory, and costs one call.

`python -m moa.grading.processes MODULE:FUNCTION FD MEMORY_BYTES` is the other side. The function
runs in the main thread there, where signals work, whatever thread or event loop calls it from here.
What it prints is dropped. A process that outlives its caller reads the end of its socket and
leaves; one that is busy then is ended by its limit of CPU time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import weakref
from typing import Any, NamedTuple

_LONGEST_REPLY = 1 << 20
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_READY = b'"ready"\n'


class Reply(NamedTuple):
    """What one call gave."""

    value: Any
    lost: str = ""
    """Why there is no value, in a few words; "" where there is one."""


class IsolatedFunction:
    """Calls a function of a module in another process; one call at a time.

    The process starts with the first call, and again after one that it did not survive.

    Args:
        function: `module:name`; takes one value that JSON can hold, and returns one.
        limit_s: what a call may take; then the process is killed.
        memory_bytes: address space of the process.
        start_limit_s: what starting may take, imports included.
        knows_all: it sees this process's environment, keys included; else what Python needs.
    """

    def __init__(
        self,
        function: str,
        *,
        limit_s: float,
        memory_bytes: int = 2 << 30,
        start_limit_s: float = 120,
        knows_all: bool = False,
    ) -> None:
        self._function = function
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._start_limit_s = start_limit_s
        self._knows_all = knows_all
        self._running: _Running | None = None

    def __call__(self, argument: object) -> Reply:
        """Call it. Never raises for what the function does; the reply says why it has no value."""
        if self._running is None:
            running = _Running(self._function, self._memory_bytes, _environment(self._knows_all))
            if running.line(self._start_limit_s) != _READY:
                return Reply(None, f"{self._function} did not start: {running.end()}")
            self._running = running
        question = json.dumps([argument, self._limit_s]).encode() + b"\n"
        try:
            line = self._running.line(self._limit_s, question)
        except BaseException:  # interrupted: its answer is not to be taken for the next one's
            self._running.kill()
            self._running = None
            raise
        if line is None:
            lost = self._running.end()
            self._running = None
            return Reply(None, lost)
        value, error = json.loads(line)
        return Reply(value, error)

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._running is not None:
            self._running.end()
            self._running = None


def _environment(whole: bool) -> dict[str, str]:
    """Ours, or what Python needs, and no key of anybody's."""
    kept = {name: text for name, text in os.environ.items() if whole or name in _KEPT}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class _Running:
    """One process and the socket to it."""

    def __init__(self, function: str, memory_bytes: int, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable, "-m", "moa.grading.processes",
            function, str(theirs.fileno()), str(memory_bytes),
        ]  # fmt: skip
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the job
            )
        self._socket = ours
        self._late = False
        self._limit_s = 0.0
        self._finalizer = weakref.finalize(self, _kill, self._process, ours)

    def line(self, limit_s: float, question: bytes = b"") -> bytes | None:
        """The next line of the process within a time limit; `None`: there is none."""
        deadline = time.monotonic() + limit_s
        self._limit_s = limit_s
        received = b""
        try:
            self._socket.settimeout(limit_s)
            self._socket.sendall(question)
            while not received.endswith(b"\n"):
                self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
                piece = self._socket.recv(1 << 16)
                if not piece or len(received) > _LONGEST_REPLY:
                    return None
                received += piece
        except TimeoutError:
            self._late = True
            return None
        except OSError:  # it died while we wrote
            return None
        return received

    def end(self) -> str:
        """Kill it, and say in a few words why it had to end."""
        if self._late:
            reason = f"took longer than {self._limit_s:g} s"
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # its socket is closed: it is about to end by itself
            reason = _ending(self._process.poll())
        self.kill()
        return reason

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._finalizer()


def _ending(code: int | None) -> str:
    if code is None:
        return "its process hung up"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def _kill(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _serve(function: str, connection: socket.socket, memory_bytes: int) -> None:
    """The other side: answer one line after another until there is nobody to answer."""
    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    connection.sendall(_READY)
    for line in connection.makefile("rb"):
        argument, limit_s = json.loads(line)
        _limit_cpu_time(limit_s)
        try:
            reply = [call(argument), ""]
        except Exception as error:  # whatever it is: it costs this call
            reply = [None, f"raised {type(error).__name__}: {error}"[:200]]
        connection.sendall(json.dumps(reply).encode() + b"\n")


def _limit_cpu_time(limit_s: float) -> None:
    """So that a process whose caller was killed does not compute for ever."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[2])) as connection:
        _serve(sys.argv[1], connection, int(sys.argv[3]))
