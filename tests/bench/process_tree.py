"""What a process and all that descends from it take: memory at most, CPU together."""

from __future__ import annotations

import threading
from typing import NamedTuple

import psutil

SAMPLE_EVERY_S = 0.5


class Taken(NamedTuple):
    """By the whole tree."""

    peak_pss_mb: float
    """Most at one moment; what processes share is counted once."""
    largest_process_mb: float
    cpu_s: float
    """User and system. Of a process that ended, what the last sample saw."""


class Watch:
    """Samples a process and its descendants.

    Args:
        pid: the root.
        apart: processes with this word on their command line are left out.
    """

    def __init__(self, pid: int, *, apart: str | None = None) -> None:
        self._root = psutil.Process(pid)
        self._apart = apart
        self._left_out: dict[psutil.Process, bool] = {}
        self._peak = self._largest = 0
        self._cpu_s: dict[psutil.Process, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> Taken:
        """What was taken so far."""
        self._ended.set()
        self._thread.join()
        return Taken(self._peak / 1e6, self._largest / 1e6, sum(self._cpu_s.values()))

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            sizes = []
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    if self._is_apart(process):
                        continue
                    spent = process.cpu_times()
                    self._cpu_s[process] = spent.user + spent.system
                    sizes.append(process.memory_full_info().pss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self._peak = max(self._peak, sum(sizes))
            self._largest = max(self._largest, *sizes, 0)

    def _is_apart(self, process: psutil.Process) -> bool:
        if self._apart is None:
            return False
        if process not in self._left_out:
            self._left_out[process] = self._apart in process.cmdline()
        return self._left_out[process]
