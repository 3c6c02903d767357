"""What a router was made of and how good it is, for people who are to rely on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.evaluation.calibration import Calibration, calibration
from moa.intervals import Interval
from moa.storage.object_store import Folder
from moa.training.dataset import Dataset, read_grades
from moa.training.fit import Fitted

Floats = NDArray[np.float64]

VERSIONS = ("moa-router", "numpy", "scikit-learn")


def figures(data: Dataset, expected_grade: Floats) -> dict[str, Calibration]:
    """Model → how well its grades were foreseen.

    Args:
        data: n queries and m models.
        expected_grade: by routers that had not seen the query, shape (n, m).
    """
    told = {}
    for column, model in enumerate(data.models):
        known = ~np.isnan(data.grade[:, column])
        told[model] = calibration(
            model, expected_grade[known, column], data.grade[known, column], replicates=500
        )
    return told


def values(one: Calibration) -> dict[str, float]:
    """The figures without their intervals."""
    found = {
        "brier": one.brier.value,
        "brier_of_mean": one.brier_of_mean,
        "log_loss": one.log_loss.value,
        "ece": one.ece.value,
    }
    return {name: round(value, 4) for name, value in found.items()}


def model_card(
    backbone: Mapping[str, Any],
    data: Dataset,
    fitted: Fitted,
    told: Mapping[str, Calibration],
    *,
    folds: int,
    note: str | None = None,
) -> str:
    """Markdown."""
    rows = [
        f"| {model} | {one.queries:,} | {_told(one.brier)} | {one.brier_of_mean:.4f} | "
        f"{_told(one.log_loss)} | {_told(one.ece)} | {one.ece_of_perfect:.4f} | {kind} |"
        for (model, one), kind in zip(told.items(), fitted.calibration, strict=True)
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return "\n".join(
        [
            "# Model card",
            "",
            "A router: from the text of a query, and before any call is made, it expects of each "
            "model below a grade in [0, 1] and a number of output tokens. It knows no price.",
            "",
            f"- Backbone: {_backbone(backbone)}.",
            f"- Domains: {', '.join(fitted.domains)}. Within each, a linear map from features to "
            "how easy a query is; heads of each model on domain and ease.",
            f"- Fitted on {len(data.query_ids):,} queries; ease also from the grades of "
            f"{data.other_grade.shape[1]} other models. See the data card.",
            "- Not for queries unlike the training data: give `policy.max_novelty`, and they go to "
            "the best single model.",
            f"- Made with {versions}.",
            *([f"- Mind: {note}."] if note else []),
            "",
            f"Cross-validated in {folds} folds of near-duplicate groups, everything but the "
            "backbone fitted anew in each; 95 % intervals by bootstrap over queries. `of the mean` "
            "is the Brier score of expecting the mean grade of every query; `of exact ones` is the "
            "calibration error that exact probabilities would show by chance.",
            "",
            "| model | outcomes | Brier | of the mean | log loss | calibration error | of exact "
            "ones | curve |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def data_card(data: Dataset, folder: Path | str, look: Sequence[str] = ()) -> str:
    """Markdown.

    Args:
        data: what was learnt from.
        folder: as `read_dataset`.
        look: at it, of a log of one's own: `data_look`.
    """
    sources = sorted(set(data.sources))
    known = ~np.isnan(data.grade)
    of = np.array(data.sources)
    rows = []
    for source in sources:
        mine = of == source
        graded = [str(int(known[mine, n].sum())) for n in range(len(data.models))]
        rows.append(f"| {source} | {int(mine.sum()):,} | {' | '.join(graded)} |")
    return "\n".join(
        [
            "# Data card",
            "",
            f"- From `{folder}`, split `train` only; a missing grade is missing, never 0.",
            f"- {len(data.query_ids):,} queries in {len(set(data.groups)):,} groups of near "
            "duplicates; a group is never on both sides of a fold.",
            f"- Graded by {', '.join(_graders(folder))}.",
            f"- Sources and licences: {_licences(folder)}",
            *look,
            "",
            f"| source | queries | {' | '.join(data.models)} |",
            "|---" * (len(data.models) + 2) + "|",
            *rows,
            "",
        ]
    )


def _backbone(spec: Mapping[str, Any]) -> str:
    if spec["kind"] == "hashing":
        return f"hashed character n-grams, {spec['buckets']} buckets; no weights"
    return (
        f"{spec['name']}, {spec['pooling']} pooling, {spec['dtype']}, up to {spec['max_tokens']} "
        f"tokens; weights {spec['weights_sha256'][:12]}…"
    )


def _graders(folder: Path | str) -> list[str]:
    """Of the grades that count; where none was asked there is none."""
    return sorted(one for one in read_grades(folder).column("grader").unique().to_pylist() if one)


def _licences(folder: Path | str) -> str:
    """A recordings folder explains itself in its README; a log of one's own need not."""
    if Folder(str(folder)).has("README.md"):
        return f"`{folder}/README.md`."
    return "not stated: the folder has no README.md."


def _told(one: Interval) -> str:
    return f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"
