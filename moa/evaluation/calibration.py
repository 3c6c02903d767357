"""Whether expected grades are to be believed: calibration error, Brier score, log loss.

The calibration error (ECE) is the mean distance between expected and measured grade over bins of
equally many queries. It is never below 0, so on few queries it is above 0 even for a router that
knows each probability exactly; what such a router would show is told beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moa.evaluation.bootstrap import drawn_means, interval
from moa.evaluation.judged import Floats, Ints
from moa.intervals import Interval

BINS = 10
PER_BIN = 10
"""Queries, at least; fewer bins where there are fewer."""
SIMULATIONS = 500


@dataclass(frozen=True, slots=True)
class Bin:
    """Queries of similar expected grade."""

    queries: int
    expected: float
    measured: Interval


@dataclass(frozen=True, slots=True)
class Calibration:
    """One model, on the queries that it has a grade on."""

    model: str
    queries: int
    mean_expected: float
    mean_measured: float
    bins: tuple[Bin, ...]
    """Of equally many queries, by expected grade."""
    ece: Interval
    """Over these bins. Drawing queries anew raises it by chance: the interval is shifted back by
    as much as it rises on average, to 0 at most."""
    ece_of_perfect: float
    """What the same expected grades would show on average were they exact, grades 0 or 1."""
    ece_of_perfect_high: float
    """What these would show in 19 of 20 cases at most."""
    brier: Interval
    brier_of_mean: float
    """Of expecting the mean grade everywhere."""
    log_loss: Interval


def calibration(
    model: str, expected: Floats, grade: Floats, *, seed: int = 0, replicates: int = 1000
) -> Calibration:
    """Measure one model.

    Args:
        model: its name.
        expected: grades in [0, 1], shape (n,), n ≥ 1.
        grade: measured, in [0, 1], same shape.
        seed: of the draws.
        replicates: sets that are drawn.
    """
    bins = equal_bins(expected)
    count = int(bins.max()) + 1
    member = bins[:, None] == np.arange(count)
    safe = np.clip(expected, 1e-6, 1 - 1e-6)
    columns = {
        "off": (expected - grade)[:, None] * member,
        "measured": grade[:, None] * member,
        "member": member,
        "brier": (expected - grade) ** 2,
        "log_loss": -(grade * np.log(safe) + (1 - grade) * np.log(1 - safe)),
    }
    rows = drawn_means(columns, seed=seed, replicates=replicates)
    perfect = _of_perfect(expected, member, seed)
    return Calibration(
        model=model,
        queries=len(grade),
        mean_expected=float(expected.mean()),
        mean_measured=float(grade.mean()),
        bins=tuple(
            Bin(
                int(member[:, n].sum()),
                float(expected[member[:, n]].mean()),
                _share(rows["measured"][:, n], rows["member"][:, n]),
            )
            for n in range(count)
        ),
        ece=_shifted(np.abs(rows["off"]).sum(axis=1)),
        ece_of_perfect=float(perfect.mean()),
        ece_of_perfect_high=float(np.quantile(perfect, 0.95)),
        brier=interval(rows["brier"]),
        brier_of_mean=float(((grade.mean() - grade) ** 2).mean()),
        log_loss=interval(rows["log_loss"]),
    )


def equal_bins(expected: Floats) -> Ints:
    """The bin of each query, from 0, shape (n,): `BINS` of equal size, fewer for few queries."""
    count = int(np.clip(len(expected) // PER_BIN, 1, BINS))
    bins = np.empty(len(expected), np.intp)
    for number, part in enumerate(np.array_split(np.argsort(expected, kind="stable"), count)):
        bins[part] = number
    return bins


def _share(above: Floats, below: Floats) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore"):
        return interval(above / below)


def _shifted(rows: Floats) -> Interval:
    """An interval of what is never below 0, without the bias of drawing."""
    return interval(np.concatenate([rows[:1], np.maximum(0, rows[1:] - rows[1:].mean() + rows[0])]))


def _of_perfect(expected: Floats, member: Floats, seed: int) -> Floats:
    """Calibration errors of exact probabilities, shape (SIMULATIONS,)."""
    random = np.random.default_rng(seed)
    grades = random.random((SIMULATIONS, len(expected))) < expected
    off = (expected - grades) @ member / len(expected)
    return np.asarray(np.abs(off).sum(axis=1))
