"""The package registry, for tests that ask it something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UV = Path(sys.executable).with_name("uv")


def need_registry() -> None:
    """Skip the test where no registry answers."""
    done = subprocess.run(
        [str(UV), "--no-config", "--no-cache", "pip", "compile", "--quiet", "-"],
        input="six", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"no package registry in reach: {done.stderr.strip().splitlines()[-1]}")
