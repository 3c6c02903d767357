"""Runs whose queries are scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.scored_run import (
    BOTH,
    ScoredRun,
    scored_run,
)


@pytest.fixture
def both(tmp_path: Path) -> ScoredRun:
    """Queries with wishes, live or in batches."""
    return scored_run(tmp_path, BOTH, wishes=True)


@pytest.fixture
def live(tmp_path: Path) -> ScoredRun:
    """Queries without wishes, live."""
    return scored_run(tmp_path, "plan.lanes=['live']")
