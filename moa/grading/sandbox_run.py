"""One run in a sandbox from its start to the death of its last process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal

_START_LIMIT_S = 30.0
"""Of bubblewrap, before the program begins: 6 ms, and more on a machine that is short of all."""
_END_LIMIT_S = 30.0
_PIECE = 1 << 16
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Streams:
    """Where a program's streams come from and go to."""

    stdin: bytes | int = b""
    """What it reads; or a file descriptor, which is closed here once the program has it."""
    stdout: int | None = None
    """A file descriptor, closed likewise; `None`: it is kept, as standard error always is."""
    stop: int | None = None
    """A file descriptor: the run is ended once it can be read."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a run. None of its processes is left."""

    ended: Literal["exited", "time", "output", "stopped", "sandbox"]
    """By itself; killed for its time, its output, or by `Streams.stop`; `sandbox`: it never ran, by
    no fault of the program."""
    exit_code: int | None
    """128 + the signal's number for one that a signal ended; `None` where it was killed."""
    stdout: bytes
    stderr: bytes
    wall_s: float
    """With the sandbox's start."""

    @property
    def succeeded(self) -> bool:
        """It came to its end and says that all is well."""
        return self.ended == "exited" and self.exit_code == 0

    def told(self) -> str:
        """In a few words."""
        last = self.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"{self.ended}, exit code {self.exit_code}" + "".join(f", {line}" for line in last)


def run_to_its_end(
    *,
    before: Sequence[str],
    options: Sequence[str],
    command: Sequence[str],
    files: Mapping[str, bytes],
    seccomp: bytes,
    streams: Streams,
    wall_s: float,
    output_bytes: int,
) -> Run:
    """Start bubblewrap, hold it to time and output, and end all that it has begun.

    Args:
        before: bubblewrap, and the commands that it is started through.
        options: bubblewrap's.
        command: what runs inside.
        files: name → content, put in `/program`.
        seccomp: a filter.
        streams: the program's.
        wall_s: from when the program may begin.
        output_bytes: of each stream that is kept.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as given, contextlib.ExitStack() as kept:
        for stream in (streams.stdin, streams.stdout):
            if isinstance(stream, int):
                given.callback(os.close, stream)
        status, told = _pipe(kept, given)
        held, hold = _pipe(given, kept)
        stdin = streams.stdin
        if isinstance(stdin, bytes):
            stdin = _sealed(stdin, given)
        inherited = [told.fileno(), held.fileno(), _sealed(seccomp, given)]
        arguments = [*before, *options]
        for name, content in files.items():
            inherited.append(_sealed(content, given))
            arguments += ["--perms", "0555", "--file", str(inherited[-1]), f"/program/{name}"]
        arguments += [
            "--remount-ro", "/", "--json-status-fd", str(inherited[0]),
            "--block-fd", str(inherited[1]), "--seccomp", str(inherited[2]), "--",
        ]  # fmt: skip
        process = subprocess.Popen(
            [*arguments, *command],
            stdin=stdin,
            stdout=subprocess.PIPE if streams.stdout is None else streams.stdout,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            env={},
            cwd="/",
        )
        kept.enter_context(process)
        kept.callback(process.kill)
        given.close()
        return _Watch(process, status, streams.stop, output_bytes).until_its_end(
            hold, began, wall_s
        )


class _Watch:
    """Over one process of bubblewrap and all that is inside.

    Args:
        process: bubblewrap, which waits to be let go.
        status: what it tells: the first process inside, and at the end the program's exit code.
        stop: as in `Streams`.
        output_bytes: of each stream.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        status: IO[bytes],
        stop: int | None,
        output_bytes: int,
    ) -> None:
        self._process = process
        self._status = status
        self._stop = stop
        self._output_bytes = output_bytes
        pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
        self._output = {pipe.fileno(): bytearray() for pipe in pipes}

    def until_its_end(self, hold: IO[bytes], began: float, wall_s: float) -> Run:
        """Let it go; wait for its end, or bring it about."""
        inside = self._first_process()
        if inside is None:
            self._process.kill()
            self._process.wait()
            return self._run("sandbox", began)
        try:
            hold.write(b"go")
            hold.close()
            ended = self._wait(inside, time.monotonic() + wall_s)
            if ended != "exited":
                signal.pidfd_send_signal(inside, signal.SIGKILL)
            # The first process is gone only when the kernel has ended all others.
            if not select.select([inside], [], [], _END_LIMIT_S)[0]:
                raise TimeoutError(f"the kernel has not ended a killed sandbox in {_END_LIMIT_S} s")
        finally:
            os.close(inside)
        self._process.wait()
        return self._run(ended, began)

    def _first_process(self) -> int | None:
        """A pidfd of the process that all others inside die with; `None`: it did not start.

        It waits to be let go, so that its number cannot have passed to another.
        """
        if not select.select([self._status], [], [], _START_LIMIT_S)[0]:
            return None
        line = self._status.readline()
        try:
            return os.pidfd_open(json.loads(line)["child-pid"])
        except (ValueError, KeyError, ProcessLookupError):
            return None

    def _wait(self, inside: int, deadline: float) -> Literal["exited", "time", "output", "stopped"]:
        """Read until all is over, or too much."""
        poll = select.poll()
        for each in (inside, *self._output, *([] if self._stop is None else [self._stop])):
            poll.register(each, select.POLLIN)
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return "time"
            for ready, _ in poll.poll(left_s * 1000):
                if ready == inside:
                    return "exited" if self._drain() else "output"
                if ready == self._stop:
                    return "stopped"
                piece = os.read(ready, _PIECE)
                if not piece:
                    poll.unregister(ready)
                elif not self._keep(ready, piece):
                    return "output"

    def _keep(self, stream: int, piece: bytes) -> bool:
        """Whether it still fits; what does not is cut."""
        kept = self._output[stream]
        kept += piece
        fits = len(kept) <= self._output_bytes
        del kept[self._output_bytes :]
        return fits

    def _drain(self) -> bool:
        """Read what is left in the pipes of dead processes; whether it fits."""
        for stream in self._output:
            os.set_blocking(stream, False)
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(stream, _PIECE):
                    if not self._keep(stream, piece):
                        return False
        return True

    def _run(
        self, ended: Literal["exited", "time", "output", "stopped", "sandbox"], began: float
    ) -> Run:
        if ended == "sandbox":
            self._drain()
        code = self._exit_code() if ended == "exited" else None
        if ended == "exited" and code is None:
            ended = "sandbox"
        error = self._process.stderr
        out = self._process.stdout
        return Run(
            ended=ended,
            exit_code=code,
            stdout=b"" if out is None else bytes(self._output[out.fileno()]),
            stderr=b"" if error is None else bytes(self._output[error.fileno()]),
            wall_s=time.monotonic() - began,
        )

    def _exit_code(self) -> int | None:
        """Bubblewrap tells it only of a program that it got to start."""
        for line in self._status:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if "exit-code" in said:
                    return int(said["exit-code"])
        return None


def _pipe(
    reading: contextlib.ExitStack, writing: contextlib.ExitStack
) -> tuple[IO[bytes], IO[bytes]]:
    """Both ends, unbuffered, each closed with its stack."""
    read, write = os.pipe()
    reader = reading.enter_context(os.fdopen(read, "rb", buffering=0))
    writer = writing.enter_context(os.fdopen(write, "wb", buffering=0))
    return reader, writer


def _sealed(content: bytes, until: contextlib.ExitStack) -> int:
    """A file descriptor that gives `content`; whoever gets it cannot change or grow it."""
    fd = os.memfd_create("given", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    until.callback(os.close, fd)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd
