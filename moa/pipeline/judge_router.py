"""What a run has to expect of a judge: how long a verdict is. Nothing is chosen; so no router has
to have been trained on the judge.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.grading.judge import MOST_OUTPUT_TOKENS
from moa.router.artifact import Artifact, read_artifact, write_artifact
from moa.router.facts import NO_GRADE, installed
from moa.storage.object_store import Folder

SHIPPED = "moa/router/embedded"
VERDICT_TOKENS = 200
"""Of a few sentences and a line. Assumed; once answers come in, a run goes by what they really
have."""
_CARD = f"""\
# Model card

Made for a judge's run: it expects a verdict of {VERDICT_TOKENS} tokens, at most
{MOST_OUTPUT_TOKENS}, whatever the question, and knows nothing of grades.
"""


def write_judge_router(folder: Folder, name: str, judge: str) -> str:
    """Write it below a folder; equal bytes each time. Its version.

    Args:
        folder: of the judge's runs.
        name: of the router's folder.
        judge: catalog id.
    """
    shipped = read_artifact(installed(SHIPPED))
    description = shipped.description.model_dump(exclude={"format", "sha256"})
    description |= {"models": [judge], "training": _nothing(judge)}
    with tempfile.TemporaryDirectory() as made:
        version = write_artifact(
            Path(made), description, _tensors(shipped), (_CARD, "# Data card\n\nNone.\n")
        )
        for file in sorted(Path(made).iterdir()):
            folder.put(f"{name}/{file.name}", file.read_bytes())
    return version


def _nothing(judge: str) -> dict[str, Any]:
    """Facts of a training that never was."""
    return {
        "source": "nothing",
        "queries": 0,
        "outcomes": {judge: 0},
        "mean_grade": {},
        "other_models": 0,
        "cross_validation": {},
        "calibration": {judge: "as_it_is"},
    }


def _tensors(shipped: Artifact) -> dict[str, NDArray[Any]]:
    """The shipped router's, which has to read questions for nothing but their length; its heads are
    one that gives the same to all of them."""
    kept = {
        name: tensor
        for name, tensor in shipped.tensors.items()
        if not name.startswith("calibration.") or name.startswith("calibration.0.")
    }
    tokens = np.zeros_like(kept["heads.log_tokens"][:, :, :1])
    tokens[-1] = np.log1p(VERDICT_TOKENS)
    domains = tokens.shape[1]
    return kept | {
        "heads.grade": np.zeros_like(kept["heads.grade"][:, :1]),
        "heads.log_tokens": tokens,
        "heads.token_factor": np.ones((domains, 1)),
        "heads.token_spread": np.full((domains, 1), MOST_OUTPUT_TOKENS / VERDICT_TOKENS),
        "heads.token_limit": np.array([float(MOST_OUTPUT_TOKENS)]),
        "training.grades": np.full_like(kept["training.grades"][:, :1], NO_GRADE),
    }
