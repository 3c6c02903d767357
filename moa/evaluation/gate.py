"""May a router be shipped, by thresholds? And is routing worth it, in one sentence?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pydantic import Field

from moa.evaluation.calibration import Calibration
from moa.evaluation.left_out import LeftOut
from moa.evaluation.metrics import Against, Metrics
from moa.evaluation.robustness import Robustness
from moa.intervals import Interval
from moa.reports.wording import better, better_bounds, cheaper, cheaper_bounds, gain, money, price
from moa.toml_file import Section

NOT_MEASURED = "was not measured"


class GateConfig(Section):
    """What a router must reach; what is left out is not asked."""

    aiq: float | None = Field(default=None, ge=0, le=1, description="Least AIQ; 0 to 1")
    aiq_gain: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="What AIQ less that of a random mix of the single models must exceed by the "
        "lower bound of its 95 % interval; -1 to 1",
    )
    gap_captured: float | None = Field(
        default=None,
        le=1,
        description="Least share captured of the gap between best constant and oracle; ≤ 1",
    )
    gap_captured_proven: bool = Field(
        default=False, description="Its 95 % interval must be above 0 as well"
    )
    saving: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least saving at the best constant's grade less 0.01; 0 to 1",
    )
    grade_difference: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least grade of the configured policy less the best constant's; -1 to 1",
    )
    worth_usd: float | None = Field(
        default=None,
        description="What the configured policy must be worth more than the best constant, in USD "
        "per 1,000 queries, by the lower bound of its 95 % interval",
    )
    ece: float | None = Field(
        default=None, ge=0, le=1, description="Most calibration error of any model; 0 to 1"
    )
    left_out: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least grade less the best constant's, with abstention, on each source that "
        "was left out of training; -1 to 1",
    )
    flip_rate: float | None = Field(
        default=None, ge=0, le=1, description="Most flips under perturbation, of all kinds; 0 to 1"
    )


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was asked."""

    what: str
    wanted: str
    measured: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What was asked of a router on one pool."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all was reached."""
        return all(check.passed for check in self.checks)


def gate(
    config: GateConfig,
    found: Metrics,
    calibrations: Sequence[Calibration],
    robust: Robustness | None,
    strangers: Sequence[LeftOut],
) -> Gate:
    """Hold figures against thresholds. What is asked and was not measured is not passed."""
    return Gate((*_of_frontier(config, found), *_of_rest(config, calibrations, robust, strangers)))


def _of_frontier(config: GateConfig, found: Metrics) -> Iterator[Check]:
    against = found.against_best_constant
    if config.aiq is not None:
        yield _least("AIQ", config.aiq, found.aiq)
    if config.aiq_gain is not None:
        yield proven("AIQ less that of a random mix", config.aiq_gain, found.aiq_gain)
    if config.gap_captured is not None:
        yield _least("share of the gap captured", config.gap_captured, against.gap_captured)
    if config.gap_captured_proven:
        yield proven("share of the gap captured", 0, against.gap_captured)
    if config.saving is not None:
        yield _least(
            "saving at the best constant's grade less 0.01",
            config.saving,
            against.saving_with_slack.value,
        )
    if config.grade_difference is not None:
        yield _least(
            "grade less the best constant's", config.grade_difference, against.grade_difference
        )
    if config.worth_usd is not None:
        what = "worth more than the best constant, USD per 1,000 queries"
        yield proven(what, config.worth_usd, against.worth_usd)


def _of_rest(
    config: GateConfig,
    calibrations: Sequence[Calibration],
    robust: Robustness | None,
    strangers: Sequence[LeftOut],
) -> Iterator[Check]:
    if config.ece is not None:
        yield worst_calibrated(config.ece, calibrations)
    if config.left_out is not None:
        lowest = min(strangers, key=lambda one: one.difference.value, default=None)
        what = f"grade less the best constant's on {lowest.source}" if lowest else "left-out source"
        wanted = f"at least {signed(config.left_out)}"
        measured = told(lowest.difference) if lowest else NOT_MEASURED
        passed = lowest is not None and lowest.difference.value >= config.left_out
        yield Check(f"{what}, untaught", wanted, measured, passed)
    if config.flip_rate is not None:
        yield most("flip rate", config.flip_rate, robust.overall.rate if robust else None)


def worst_calibrated(bound: float, calibrations: Sequence[Calibration]) -> Check:
    """Whether the model whose expected grades are furthest off is near enough."""
    worst = max(calibrations, key=lambda one: one.ece.value, default=None)
    what = f"calibration error of {worst.model}" if worst else "calibration error"
    return most(what, bound, worst.ece if worst else None)


def _least(what: str, bound: float, found: Interval) -> Check:
    return Check(what, f"at least {signed(bound)}", told(found), found.value >= bound)


def most(what: str, bound: float, found: Interval | None) -> Check:
    """Whether a figure is small enough; one that is not there is not."""
    measured = told(found) if found else NOT_MEASURED
    return Check(what, f"at most {bound:g}", measured, bool(found and found.value <= bound))


def proven(what: str, bound: float, found: Interval | None) -> Check:
    """Whether all of an interval is above a bound; one that is not there is not."""
    measured = told(found) if found else NOT_MEASURED
    return Check(
        what, f"interval above {signed(bound)}", measured, bool(found and found.low > bound)
    )


def told(found: Interval) -> str:
    """`0.123 (0.100 to 0.150)`."""
    value, low, high = (f"{one:.3f}" for one in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def signed(bound: float) -> str:
    """`0.05`, with a true minus."""
    return f"{bound:g}".replace("-", "\N{MINUS SIGN}")


def worth_it(found: Metrics, willingness_to_pay: float | None) -> str:
    """Is routing worth it here? One sentence with its figures; no more is said than is proven."""
    against = found.against_best_constant
    figures = (
        f"{_cost(found, against)}, and answers are {better(against.grade_difference.value)} "
        f"({better_bounds(against.grade_difference)})"
    )
    if against.worth_usd is None or willingness_to_pay is None:
        return (
            "Whether routing is worth it here depends on what a right answer is worth: it is "
            f"{figures}."
        )
    worth = against.worth_usd
    verdict = (
        "Routing is worth it here"
        if worth.low > 0
        else "Routing is not worth it here"
        if worth.high < 0
        else "It is not proven that routing is worth it here"
    )
    return (
        f"{verdict}: it is {figures}, which at {price(Decimal(str(willingness_to_pay)))} for a "
        f"right instead of a wrong answer comes to {gain(worth.value)} ({gain(worth.low)} to "
        f"{gain(worth.high)}) per 1,000 queries."
    )


def _cost(found: Metrics, against: Against) -> str:
    every = f"{found.best_constant} for every query"
    if math.isnan(against.cost_saving.value):
        return (
            f"{money(found.configured.cost_usd.value)} per 1,000 queries against nothing, {every}"
        )
    what = cheaper(against.cost_saving.value)
    than = "as" if what.endswith("as dear") else "than"
    return f"{what} ({cheaper_bounds(against.cost_saving)}) {than} {every}"
