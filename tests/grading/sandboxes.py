"""The sandbox that tests run programs in, and the programs that try to get out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moa.errors import ConfigError
from moa.grading.sandbox import Sandbox, open_sandbox

HOSTILE = Path(__file__).with_name("hostile")


def sandbox_here() -> Sandbox:
    """It, or a skipped test; with REQUIRE_SANDBOX set, a failed one."""
    try:
        return open_sandbox()
    except ConfigError as error:
        if os.environ.get("REQUIRE_SANDBOX"):
            raise
        pytest.skip(str(error))


def hostile(name: str) -> bytes:
    """A program of the corpus. None ends in `.py`: nobody runs one by mistake."""
    return (HOSTILE / f"{name}.py.txt").read_bytes()
