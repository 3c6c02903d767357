"""Where Ray is. Imports no Ray, which reads its environment when it is imported."""

from __future__ import annotations

import os

LOCAL = "local"
"""A Ray of the process's own."""


def ray_address() -> str:
    """What `RAY_ADDRESS` names, as under `ray job submit`; `LOCAL` where it names nothing."""
    return os.environ.get("RAY_ADDRESS") or LOCAL
