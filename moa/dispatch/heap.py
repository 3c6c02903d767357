"""Python's collector of cycles, calmed for a process that does nothing but make calls."""

from __future__ import annotations

import gc

THRESHOLDS = (20_000, 20, 20)
"""Objects made before the collector looks: a call makes a few dozen, and hardly ever a cycle."""


def calm_collector() -> None:
    """Have it never again walk what is there now: the vendors' SDKs are a heap of types that live
    for ever, and walking it took a quarter of a call's CPU. Call it when they have been imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
