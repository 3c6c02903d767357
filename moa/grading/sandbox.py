"""A place where a program that nobody has read may run: bubblewrap's namespaces, limits, a filter.

What is in it: the compilers and interpreters of `/usr`, read-only, nothing else of this machine's
files; `/tmp` of its own, with a size; no network but a loopback of its own; no `/proc`; an empty
environment; a user without rights, no way to get any, processes that end with the run. Limits are
those of a process, so what a run can hold in memory is `processes` times `memory_mb`, and `tmp_mb`.

Not held: inodes of `/tmp` (an empty file costs the kernel about 1 KB while the run lasts), the load
on shared caches and disks, and faults of the kernel that let a program out.

Source: bwrap(1), prlimit(1), user_namespaces(7), pid_namespaces(7).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from moa.errors import ConfigError
from moa.grading.sandbox_run import Run, Streams, run_to_its_end
from moa.grading.seccomp import program_filter

NOBODY = 65534
"""Whose processes are counted: the kernel holds root to no number of them."""
TOOLS = ("bwrap", "prlimit", "choom", "setpriv")
REMEDY = "install bubblewrap and util-linux (`apt-get install bubblewrap util-linux`)"
SEEN = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include")
ALSO_SEEN = ("/usr/share/zoneinfo", "/etc/alternatives")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program that prints a set prints it alike in every run
    "OPENBLAS_NUM_THREADS": "1",  # threads count as processes
    "OMP_NUM_THREADS": "1",
}


class Limits(BaseModel):
    """What one run may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall_s: float = Field(10, gt=0, le=600)
    cpu_s: int = Field(10, ge=1, le=600)
    """Of each process."""
    memory_mb: int = Field(512, ge=16, le=65_536)
    """Address space of each process."""
    processes: int = Field(8, ge=3, le=512)
    """Threads count; two are bubblewrap's own."""
    file_mb: int = Field(16, ge=1, le=4_096)
    """Of the largest file that it may write."""
    tmp_mb: int = Field(64, ge=1, le=16_384)
    open_files: int = Field(64, ge=16, le=4_096)
    output_kb: int = Field(1_024, ge=1, le=65_536)
    """Of standard output, and of standard error."""


class Interpreter(NamedTuple):
    """The Python that programs run on."""

    path: str
    folders: tuple[str, ...]
    """What of the machine it needs to see, beside `SEEN`."""


class Sandbox:
    """Runs programs; made by `open_sandbox`, which has tried it.

    Args:
        tools: name → path of each of `TOOLS`.
        folders: of the machine, shown read-only at their own paths, beside `SEEN`.
        python: path of the interpreter.
    """

    def __init__(self, tools: Mapping[str, str], folders: Sequence[str], python: str) -> None:
        self._tools = tools
        self._folders = tuple(folders)
        self._filter = program_filter()
        self.python = python

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, bytes] | None = None,
        streams: Streams | None = None,
        limits: Limits | None = None,
    ) -> Run:
        """Run `command` in a sandbox of its own and wait until nothing of it is left.

        Args:
            command: program and arguments, as seen from inside.
            files: name → content, read-only in `/program`, executable.
            streams: where its standard streams go; by default nothing is read, and both are kept.
            limits: by default those of `Limits`.
        """
        limits = limits or Limits()
        return run_to_its_end(
            before=self._as_nobody(),
            options=self._what_it_sees(limits),
            command=[*self._limited(limits), *command],
            files=files or {},
            seccomp=self._filter,
            streams=streams or Streams(),
            wall_s=limits.wall_s,
            output_bytes=limits.output_kb << 10,
        )

    def _as_nobody(self) -> list[str]:
        """The first to be killed when memory is short; and not root, even outside."""
        first = [self._tools["choom"], "-n", "1000", "--"]
        if os.geteuid() != 0:
            return [*first, self._tools["bwrap"]]
        user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
        return [*first, self._tools["setpriv"], *user, self._tools["bwrap"]]

    def _what_it_sees(self, limits: Limits) -> list[str]:
        """Bubblewrap's options. The root is sealed last: until then its mounts are made in it."""
        options = [
            "--unshare-all", "--unshare-user", "--disable-userns",
            "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox", "--clearenv",
        ]  # fmt: skip
        for name, value in ENVIRONMENT.items():
            options += ["--setenv", name, value]
        for folder in (*SEEN, *ALSO_SEEN):
            options += ["--ro-bind-try", folder, folder]
        for link in ("bin", "lib", "lib32", "lib64"):
            options += ["--symlink", f"usr/{link}", f"/{link}"]
        for device in ("null", "zero", "full", "random", "urandom"):
            options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        options += ["--size", str(limits.tmp_mb << 20), "--tmpfs", "/tmp"]
        for folder in self._folders:  # one of them may be below the machine's /tmp
            options += ["--ro-bind", folder, folder]
        # Locks of Python's multiprocessing are files there.
        return [*options, "--symlink", "/tmp", "/dev/shm", "--chdir", "/tmp"]

    def _limited(self, limits: Limits) -> list[str]:
        """Set inside: outside, the limit of processes would count those of all other runs."""
        return [
            "/usr/bin/prlimit",
            f"--nproc={limits.processes}",
            f"--as={limits.memory_mb << 20}",
            f"--cpu={limits.cpu_s}",
            f"--fsize={limits.file_mb << 20}",
            f"--nofile={limits.open_files}",
            "--core=0",
            "--memlock=65536",
            "--sigpending=256",
            "--",
        ]


def open_sandbox(folders: Sequence[str] = (), python: str | None = None) -> Sandbox:
    """A sandbox that has run a program.

    Args:
        folders: of this machine, which programs may read (a virtual environment with libraries).
        python: the interpreter that programs run on, in one of `folders` or in `/usr`; by default
            this process's own, or the system's where others than root cannot read that.

    Raises:
        ConfigError: there is no sandbox here, or none that works. Nothing is ever run without one.
    """
    tools = {name: shutil.which(name) for name in TOOLS}
    missing = [name for name, path in tools.items() if path is None]
    if missing:
        raise ConfigError(
            f"code is graded only in a sandbox, and {', '.join(missing)} cannot be found: {REMEDY}"
        )
    found = {name: path for name, path in tools.items() if path is not None}
    refusals = []
    for interpreter in [Interpreter(python, ())] if python else interpreters():
        sandbox = Sandbox(found, (*interpreter.folders, *folders), interpreter.path)
        run = sandbox.run([interpreter.path, "-c", "print('runs')"])
        if run.stdout == b"runs\n":
            return sandbox
        refusals.append(f"with {interpreter.path}: {run.told()}")
    raise ConfigError(
        f"code is graded only in a sandbox, and it runs nothing here ({'; '.join(refusals)}): "
        "bubblewrap 0.8 or newer, user namespaces (`sysctl user.max_user_namespaces`; a container "
        "needs them allowed) and a Python that all users can read (`apt-get install python3`)"
    )


def interpreters() -> list[Interpreter]:
    """Those to try, best first; the link of a virtual environment is followed."""
    own = os.path.realpath(sys.executable)
    prefix = str(Path(own).parents[1])
    system = Interpreter("/usr/bin/python3", ())
    if prefix == "/usr":
        return [Interpreter(own, ()), system]
    if not readable_by_all(Path(prefix)):
        return [system]
    return [Interpreter(own, (prefix,)), system]


def readable_by_all(folder: Path) -> bool:
    """Whether users without rights get into a folder."""
    return all(path.stat().st_mode & 0o005 == 0o005 for path in (folder, *folder.parents))
