"""A router on one's own traffic, against the best constant and the router in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.calibration import Calibration, calibration
from moa.evaluation.gate import Gate
from moa.evaluation.off_policy import (
    LEAST_EVIDENCE,
    MOST_WEIGHT,
    Difference,
    Draws,
    Floats,
    Ints,
    Logged,
    Value,
    by_domain,
    difference,
    value,
    worths,
)
from moa.evaluation.traffic_gate import TrafficGate, traffic_gate
from moa.intervals import Interval
from moa.reports.wording import better, better_bounds, gain

EVERY_MODEL = "all models"
LEAST_CALIBRATED = 200
"""Answers of one model for a calibration of its own: ten bins of twenty, of which exact grades
would show 0.08 by chance. What has fewer counts among all answers."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is compared: models by their places in the pool."""

    candidate: Ints
    """Shape (n,)."""
    best_constant: int
    current: Ints | None
    """Of the router in use, shape (n,); `None` without one."""
    nothing_in_use: bool = False
    """No router was ever promoted."""


@dataclass(frozen=True, slots=True)
class TrafficEvaluation:
    """One pool on logged traffic."""

    name: str
    pool: tuple[str, ...]
    queries: int
    answers: int
    """With a grade."""
    best_constant: str
    """Catalog id."""
    candidate: Value
    current: Value | None
    constants: Mapping[str, Value]
    """Each model of the pool, for every query."""
    against_best_constant: Difference
    against_current: Difference | None
    by_domain: Mapping[str, Difference]
    """Against the router in use, without one against the best constant."""
    calibration: tuple[Calibration, ...]
    """Of all answers together, then of each model with `LEAST_CALIBRATED` of them: where the log's
    own router has sent them."""
    flip_rate: Interval | None
    gate: Gate

    @property
    def verdict(self) -> str:
        """What the log says of the router, in a sentence."""
        found, than = self.against_best_constant, f"{self.best_constant} for every query"
        if not found.measured:
            first, second = found.evidence
            return (
                f"The log does not tell whether the router is worth more than {than}: of the "
                f"queries that it sends elsewhere {first:,} answers of its models are known, and "
                f"{second:,} of {self.best_constant}; {LEAST_EVIDENCE} of each are needed. Explore "
                "more, or wait for more nights."
            )
        figure = found.grade if found.worth_usd is None else found.worth_usd
        proven = (
            "is proven better" if figure.low > 0 else "is proven worse" if figure.high < 0
            else "is not proven better"
        )  # fmt: skip
        worth = found.worth_usd
        money = f", {_usd(worth)} per 1,000 queries" if worth else ""
        return (
            f"By the log the router {proven} than {than}: answers are "
            f"{better(found.grade.value)} ({better_bounds(found.grade)}){money}."
        )


def evaluate_traffic(
    name: str,
    logged: Logged,
    choices: Choices,
    expected_grade: Floats,
    policy: PolicyConfig,
    *,
    asked: TrafficGate,
    flip_rate: Interval | None = None,
    most_weight: float = MOST_WEIGHT,
    seed: int = 0,
    replicates: int = 1000,
) -> TrafficEvaluation:
    """Measure one pool.

    Args:
        name: of the pool.
        logged: its queries, at least one.
        choices: of the same queries.
        expected_grade: by the candidate, shape (n, m).
        policy: what a grade is worth.
        asked: thresholds.
        flip_rate: what `robustness` found, if it was looked at.
        most_weight: that one known answer may stand for.
        seed: of the bootstrap.
        replicates: sets that are drawn.
    """
    price = policy.willingness_to_pay
    draws = Draws(None if price is None else float(price), seed, replicates)
    found = worths(logged, most_weight=most_weight)
    always = [np.full(len(logged.domains), place, np.intp) for place in range(len(logged.pool))]
    constants = {model: value(found, always[n], draws) for n, model in enumerate(logged.pool)}
    constant = always[choices.best_constant]
    mine, current = choices.candidate, choices.current
    candidate = value(found, mine, draws)
    against_constant = difference(found, mine, constant, draws)
    against_current = None if current is None else difference(found, mine, current, draws)
    reference = constant if current is None else current
    domains = by_domain(found, logged.domains, mine, reference, draws)
    calibrated = _calibrations(logged, expected_grade, seed, replicates)
    return TrafficEvaluation(
        name=name,
        pool=logged.pool,
        queries=len(logged.domains),
        answers=int(found.known.sum()),
        best_constant=logged.pool[choices.best_constant],
        candidate=candidate,
        current=None if current is None else value(found, current, draws),
        constants=constants,
        against_best_constant=against_constant,
        against_current=against_current,
        by_domain=domains,
        calibration=calibrated,
        flip_rate=flip_rate,
        gate=traffic_gate(
            asked, candidate, against_constant, against_current, domains, calibrated, flip_rate,
            nothing_in_use=choices.nothing_in_use,
        ),
    )  # fmt: skip


def _usd(found: Interval) -> str:
    return f"worth {gain(found.value)} ({gain(found.low)} to {gain(found.high)})"


def _calibrations(
    logged: Logged, expected_grade: Floats, seed: int, replicates: int
) -> tuple[Calibration, ...]:
    known = logged.known
    parts = {EVERY_MODEL: known}
    for place, model in enumerate(logged.pool):
        mine = known & (np.arange(len(logged.pool)) == place)
        if mine.sum() >= LEAST_CALIBRATED:
            parts[model] = mine
    return tuple(
        calibration(
            model, expected_grade[mask], logged.grade[mask], seed=seed, replicates=replicates
        )
        for model, mask in parts.items()
        if mask.any()
    )
