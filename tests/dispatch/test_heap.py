"""The collector of cycles, in a process of its own: what is calmed stays so."""

from __future__ import annotations

import subprocess
import sys

CALMED = """
import gc
import openai
from moa.dispatch.heap import THRESHOLDS, calm_collector

calm_collector()
assert gc.get_freeze_count() > 10_000, gc.get_freeze_count()
assert gc.get_threshold() == THRESHOLDS
ring = []
ring.append(ring)
del ring
assert gc.collect() >= 1
"""


def test_what_is_there_is_never_walked_again_and_new_cycles_are_found() -> None:
    subprocess.run([sys.executable, "-c", CALMED], check=True, timeout=120)
