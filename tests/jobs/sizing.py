"""A sizing as tests ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moa.pipeline.sized import size_run
from moa.pipeline.sizing_config import SizeRunConfig
from moa.reports.sizing import document
from moa.toml_file import read_toml
from tests.jobs.conftest import KEYS, RAY, ROOT

SHIPPED = "jobs/configs/size_run.toml"
SHARES = '[{ model = "openai/gpt-4o", share = 0.4 }, { model = "openai/gpt-4o-mini", share = 0.6 }]'


def command(*arguments: str) -> tuple[int, str, str]:
    found = subprocess.run(
        [sys.executable, "jobs/size_run.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **KEYS, **RAY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return found.returncode, found.stdout, found.stderr


def asked(folder: Path, text: str, overrides: Sequence[str] = ()) -> SizeRunConfig:
    path = folder / "size.toml"
    path.write_text(text)
    return read_toml(SizeRunConfig, path, overrides)


def found(config: SizeRunConfig) -> dict[str, Any]:
    """What is found for the first number of queries."""
    sizes: list[dict[str, Any]] = document(size_run(config))["sizes"]
    return sizes[0]


def demo(folder: Path, text: str, *, days: str = "prices.as_of=2026-11-26") -> SizeRunConfig:
    """Of the demo's job."""
    return asked(folder, f'job = "jobs/configs/demo.toml"\njob_overrides = ["{days}"]\n{text}')
