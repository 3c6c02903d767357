"""What a graded night has to say, in lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.grading.agreement import agreement as judges_agreement
from moa.grading.grader import RIGHT
from moa.intervals import Resamples
from moa.schema import GRADED_OUTCOMES, agree
from moa.storage.object_store import filesystem_of

SEED = 0
EQUAL = 1e-6
"""Grades no further apart are one grade."""

Floats = NDArray[np.float64]


def summary(graded: pa.Table, *, usd_per_hour: float = 0.0) -> list[str]:
    """Counts, means and what the grading took.

    Args:
        graded: `GRADED` of a whole run.
        usd_per_hour: of one CPU.
    """
    known = graded.filter(pc.is_valid(graded.column("grade")))
    missing = Counter(_short(one) for one in _missing(graded).column("reason").to_pylist())
    grading_s = pc.sum(graded.column("grading_s")).as_py() or 0.0
    usd = Decimal(str(usd_per_hour)) * Decimal(str(grading_s)) / 3600
    bill = f", ${usd:.4f} at ${usd_per_hour:g} an hour" if usd_per_hour else ""
    return [
        f"{len(graded):,} completions: {len(known):,} graded, {len(graded) - len(known):,} without "
        "a grade",
        *(f"  {count:>6,} without: {reason}" for reason, count in missing.most_common()),
        *_by_model(known),
        *(f"graded by {name}" for name in sorted(known.column("grader").unique().to_pylist())),
        f"grading took {grading_s:.1f} s of one CPU{bill}",
    ]


def agreement(graded: pa.Table, path: str) -> list[str]:
    """How far these grades are those that were recorded of the same queries and models.

    Args:
        graded: `GRADED` of a whole run.
        path: `GRADED_OUTCOMES`, by the queries' own ids: a path, s3://… or gs://….

    Raises:
        ConfigError: there is no such file.
    """
    recorded = _recorded(path)
    ours = _by_query_and_model(graded, prefix=True)
    theirs = _by_query_and_model(recorded, prefix=False)
    pairs = [(ours[key], theirs[key]) for key in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return [f"none of these grades is known to {path}"]
    mine, other = np.array(pairs, np.float64).T
    equal = np.abs(mine - other) <= EQUAL
    drawn = Resamples({"equal": equal}, seed=SEED).interval(lambda means: means["equal"])
    differ = int((~equal).sum())
    share = f"{_percent(drawn.value)} ({_percent(drawn.low)} to {_percent(drawn.high)})"
    return [
        f"agreement with {path}: {share} of {len(pairs):,} grades, {differ:,} differ; "
        f"{_beyond_chance(mine, other)}"
    ]


def _beyond_chance(mine: Floats, other: Floats) -> str:
    """Of two judges on whether an answer is right."""
    said = list(zip((mine >= RIGHT).tolist(), (other >= RIGHT).tolist(), strict=True))
    found = judges_agreement(said).kappa
    if found is None:
        return "Cohen's kappa cannot be told: all are right, or none is"
    return f"Cohen's kappa {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _by_model(known: pa.Table) -> Iterator[str]:
    """The mean grade of each model, over the queries that it was chosen for."""
    for model in sorted(known.column("model").unique().to_pylist()):
        grades = known.filter(pc.equal(known.column("model"), model)).column("grade").to_numpy()
        drawn = Resamples({"grade": grades}, seed=SEED).interval(lambda means: means["grade"])
        yield (
            f"  {model:28} {len(grades):>7,} graded, mean {drawn.value:.3f} "
            f"({drawn.low:.3f} to {drawn.high:.3f})"
        )


def _missing(graded: pa.Table) -> pa.Table:
    return graded.filter(pc.is_null(graded.column("grade")))


def _short(reason: str | None) -> str:
    """What is in front of the particulars."""
    return (reason or "not said").partition(":")[0][:80]


def _recorded(path: str) -> pa.Table:
    filesystem, name = filesystem_of(path)
    try:
        return agree(pq.read_table(name, filesystem=filesystem), GRADED_OUTCOMES, where=path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"recorded: {path} cannot be read ({error}): correct it, or leave it out"
        ) from None


def _by_query_and_model(graded: pa.Table, *, prefix: bool) -> dict[tuple[str, str], float]:
    """Known grades. Ids of a night begin with the run's."""
    rows = graded.select(["query_id", "model", "grade"]).to_pylist()
    return {
        (row["query_id"].partition("/")[2] if prefix else row["query_id"], row["model"]): row[
            "grade"
        ]
        for row in rows
        if row["grade"] is not None
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
