"""Where figures go: a line of JSON on the terminal and in `results.jsonl`."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moa.pipeline.provenance import git_commit, versions

RESULTS = Path(__file__).with_name("results.jsonl")


def record(bench: str, figures: dict[str, Any]) -> None:
    """Print the figures with what they were measured on; append them to `results.jsonl`."""
    line = json.dumps(
        {
            "bench": bench,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "versions": versions(),
            **figures,
        }
    )
    print(line)
    with RESULTS.open("a") as file:
        file.write(line + "\n")
