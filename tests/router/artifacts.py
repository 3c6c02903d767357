"""Routers that differ from the embedded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moa.router.artifact import CARDS, read_artifact, write_artifact
from moa.router.facts import installed


def another_router(folder: Path, *, seed: int = 1) -> str:
    """Write the embedded router with other heads, which decides otherwise; its version."""
    artifact = read_artifact(installed("moa/router/embedded"))
    random = np.random.default_rng(seed)
    heads = artifact.tensors["heads.grade"]
    tensors = {**artifact.tensors, "heads.grade": heads + random.normal(0, 0.5, heads.shape)}
    description = artifact.description.model_dump(exclude={"format", "sha256"})
    cards = [(Path(artifact.url) / name).read_text() for name in CARDS]
    return write_artifact(folder, description, tensors, cards)
