"""May a router go live, by what it would have earned on one's own traffic?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from moa.evaluation.calibration import Calibration
from moa.evaluation.gate import (
    NOT_MEASURED,
    Check,
    Gate,
    most,
    proven,
    signed,
    told,
    worst_calibrated,
)
from moa.evaluation.off_policy import Difference, Value
from moa.intervals import Interval
from moa.toml_file import Section

NOTHING_IN_USE = "no router is in use yet"


class TrafficGate(Section):
    """What a router must reach on one's own traffic; what is left out is not asked."""

    worth_usd: float | None = Field(
        default=None,
        description="What it must be worth more than the best constant, in USD per 1,000 queries, "
        "by the lower bound of its 95 % interval",
    )
    grade_difference: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="What its grade less the best constant's must exceed by the lower bound of its "
        "95 % interval; -1 to 1, below 0 for not worse by more than that",
    )
    saving_usd: float | None = Field(
        default=None,
        description="What it must save against the best constant, in USD per 1,000 queries, by the "
        "lower bound of its 95 % interval",
    )
    loss_usd: float | None = Field(
        default=None,
        ge=0,
        description="Most that it may be worth less than the current router, in USD per 1,000 "
        "queries, by the upper bound of its 95 % interval; ≥ 0",
    )
    grade_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Most by which its grade may be below the current router's, by the upper bound "
        "of its 95 % interval; 0 to 1",
    )
    domain_fall: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Most by which the grade may fall in any domain against the current router "
        "(without one, the best constant), where that is not chance by intervals that hold for all "
        "domains at once; 0 to 1",
    )
    ece: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Most calibration error, over all answers and of any model with 200 or more; "
        "0 to 1",
    )
    flip_rate: float | None = Field(
        default=None, ge=0, le=1, description="Most flips under perturbation, of all kinds; 0 to 1"
    )
    out_of_reach: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the queries whose chosen model the log had no chance to ask, above "
        "which nothing that rests on answers counts as measured; 0 to 1",
    )


def traffic_gate(
    config: TrafficGate,
    candidate: Value,
    constant: Difference,
    current: Difference | None,
    domains: Mapping[str, Difference],
    calibrations: Sequence[Calibration],
    flip_rate: Interval | None,
    *,
    nothing_in_use: bool,
) -> Gate:
    """Hold figures of logged traffic against thresholds.

    Args:
        config: what is asked.
        candidate: what the router would have earned.
        constant: less the best constant.
        current: less the router in use; `None` without one.
        domains: less the router in use, or without one the best constant.
        calibrations: of all answers, and of the models that have enough.
        flip_rate: if it was looked at.
        nothing_in_use: no router was ever promoted, so that there is none to be worse than.
    """
    reached = candidate.out_of_reach <= config.out_of_reach
    against_constant = constant if reached and constant.measured else None
    against_current = current if reached and current is not None and current.measured else None
    checks = [
        *_against_constant(config, against_constant),
        *_against_current(config, against_current, nothing_in_use=nothing_in_use),
    ]
    if config.domain_fall is not None:
        checks.append(_of_domains(config.domain_fall, domains, measured=reached))
    if config.ece is not None:
        checks.append(worst_calibrated(config.ece, calibrations))
    if config.flip_rate is not None:
        checks.append(most("flip rate", config.flip_rate, flip_rate))
    return Gate(tuple(checks))


def _against_constant(config: TrafficGate, found: Difference | None) -> Iterator[Check]:
    worth, grade, saving = (
        (found.worth_usd, found.grade, _negative(found.cost_usd)) if found else (None, None, None)
    )
    asked = (
        ("worth more than the best constant, USD per 1,000 queries", config.worth_usd, worth),
        ("grade less the best constant's", config.grade_difference, grade),
        ("saving against the best constant, USD per 1,000 queries", config.saving_usd, saving),
    )
    for what, bound, figure in asked:
        if bound is not None:
            yield proven(what, bound, figure)


def _against_current(
    config: TrafficGate, found: Difference | None, *, nothing_in_use: bool
) -> Iterator[Check]:
    worth, grade = (found.worth_usd, found.grade) if found else (None, None)
    asked = (
        ("worth less than the current router, USD per 1,000 queries", config.loss_usd, worth),
        ("grade below the current router's", config.grade_loss, grade),
    )
    for what, bound, figure in asked:
        if bound is None:
            continue
        wanted = f"interval up to {signed(bound)} at most"
        if nothing_in_use:
            yield Check(what, wanted, NOTHING_IN_USE, True)
        elif figure is None:
            yield Check(what, wanted, NOT_MEASURED, False)
        else:
            loss = _negative(figure)
            yield Check(what, wanted, told(loss), loss.high <= bound)


def _of_domains(bound: float, domains: Mapping[str, Difference], *, measured: bool) -> Check:
    """The domain that has fallen furthest beyond chance, or else the lowest."""
    wanted = f"no fall beyond {bound:g} that is not chance"
    unknown = [name for name, one in domains.items() if not one.measured]
    if unknown or not measured or not domains:
        return Check(f"fall of {', '.join(unknown) or 'domains'}", wanted, NOT_MEASURED, False)
    name = min(domains, key=lambda one: (domains[one].grade.high >= 0, domains[one].grade.value))
    grade = domains[name].grade
    fallen = grade.value < -bound and grade.high < 0
    return Check(f"change of grade in {name}, the lowest", wanted, told(grade), not fallen)


def _negative(found: Interval) -> Interval:
    """A gain as a loss. Adding nothing makes of a negative nothing a nothing."""
    return Interval(-found.value + 0.0, -found.high + 0.0, -found.low + 0.0)
