"""What could be done at best, by the ledger of what was done."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def schedule_s(latencies_s: Iterable[float], slots: int) -> float:
    """Time until the last of these calls ends: each begins, in this order, when a slot is free."""
    ends = [0.0] * slots
    for latency_s in latencies_s:
        heapq.heapreplace(ends, ends[0] + latency_s)
    return max(ends)


def latencies_s(ledger: Sequence[Mapping[str, Any]]) -> list[float]:
    """How long each query's first whole answer took, in the order in which they arrived."""
    seen: set[str] = set()
    taken = []
    for entry in ledger:
        if entry["fate"] == "ok" and entry["prompt"] not in seen:
            seen.add(entry["prompt"])
            taken.append(entry["ended_s"] - entry["arrived_s"])
    return taken


def wall_s(summary: Mapping[str, Any]) -> float:
    """From the first call's arrival to the last answer's end."""
    return float(summary["last_end_s"] - summary["first_arrival_s"])
