"""Expected grades beside those that were measured, model by model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moa.reports.comparisons import FEWEST_GRADED
from moa.reports.matched import Matched

BINS = 10


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """Queries of about the same expected grade."""

    queries: int
    expected: float
    measured: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far one model's expected grades are from those measured."""

    model: str
    queries: int
    """Whose grade by this model is known, of those that were looked at."""
    error: float | None
    """Mean distance of expected and measured grade over the points; `None` below
    `FEWEST_GRADED` queries."""
    points: tuple[CalibrationPoint, ...]


def calibrations(matched: Matched) -> tuple[Calibration, ...]:
    """Of each model of the pool, in its order."""
    return tuple(_of_model(matched, column) for column in range(len(matched.pool)))


def _of_model(matched: Matched, column: int) -> Calibration:
    """Bins of equally many queries, by expected grade."""
    expected, measured = matched.expected_grade[:, column], matched.grade[:, column]
    known = np.flatnonzero(np.isfinite(expected) & np.isfinite(measured))
    if len(known) < FEWEST_GRADED:
        return Calibration(matched.pool[column], len(known), None, ())
    order = known[np.argsort(expected[known], kind="stable")]
    points = tuple(
        CalibrationPoint(len(part), float(expected[part].mean()), float(measured[part].mean()))
        for part in np.array_split(order, BINS)
    )
    gaps = sum(abs(p.expected - p.measured) * p.queries for p in points)
    return Calibration(matched.pool[column], len(known), gaps / len(known), points)
