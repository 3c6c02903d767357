"""A report in a few sentences: what a manager should know, and how sure it is."""

from __future__ import annotations

from moa.intervals import Interval
from moa.reports.comparisons import Comparison
from moa.reports.cost_report import CostReport
from moa.reports.detours import Outage
from moa.reports.inputs import PolicyFacts
from moa.reports.wording import (
    better,
    better_bounds,
    cheaper,
    cheaper_bounds,
    count,
    extra,
    gain,
    money,
    price,
    queries,
    right_answers,
)


def verdict(report: CostReport) -> list[str]:
    """Cost, quality, and what both are worth, against the best single model. One sentence each; the
    first one says how many queries were answered, where some were not.
    """
    best = report.best
    if not report.answered:
        return ["Nothing was answered, so there is nothing to compare."]
    if best is None or not best.queries:
        spent = f"{money(report.cost_usd)} for {count(report.answered)} answers."
        return [_after_answered(report, spent)]
    cost = _after_answered(report, _cost(report, best))
    return [cost, _quality(report, best), *_worth(report, best)]


def _after_answered(report: CostReport, sentence: str) -> str:
    """A sentence on the queries that were answered, with their number before it when some are
    dead.
    """
    if not report.dead_letters:
        return sentence
    refused = f" and {count(report.refused)} refused" if report.refused else ""
    return (
        f"{count(report.answered)} of {queries(report.queries)} were answered{refused}; {sentence}"
    )


def which_queries(report: CostReport) -> str:
    """The queries that all comparisons are made on, in words."""
    return "the queries that were answered" if report.dead_letters else "every query"


def _cost(report: CostReport, best: Comparison) -> str:
    where = f"for {which_queries(report)}"
    if best.queries < best.of_queries:
        answered = "answered queries" if report.dead_letters else "queries"
        where = (
            f"on the {count(best.queries)} of {count(best.of_queries)} {answered} that it was "
            "asked or recorded on"
        )
    if best.net_saving is None:
        return f"{best.model} would have cost nothing {where}."
    what = cheaper(best.net_saving.value)
    than = "as" if what.endswith("as dear") else "than"
    if any(one.lane not in (None, "live") for one in report.spend):
        where += ", bought in the same lanes"
    return f"{what} {than} {best.model} {where} ({cheaper_bounds(best.net_saving)})."


def _quality(report: CostReport, best: Comparison) -> str:
    if best.grade_difference is None:
        return "Too few answers are graded to say how good they are."
    partly = ""
    if best.graded_queries < best.queries:
        partly = f", on the {count(best.graded_queries)} queries that are graded"
    return (
        f"Answers are {better(best.grade_difference.value)} "
        f"({better_bounds(best.grade_difference)}){partly}."
    )


def _worth(report: CostReport, best: Comparison) -> list[str]:
    policy, worth = report.policy, best.net_value_usd
    if policy.quality_floor is not None and report.grade is not None:
        return [
            f"The floor of the expected grade was {policy.quality_floor:g}; the mean of the "
            f"measured ones is {report.grade.value:.3f} ({report.grade.low:.3f} to "
            f"{report.grade.high:.3f})."
        ]
    if policy.willingness_to_pay is None or worth is None:
        return []
    return [
        f"At {price(policy.willingness_to_pay)} for a right instead of a wrong answer, that is "
        f"{_sureness(worth)}: {gain(worth.value)} ({gain(worth.low)} to {gain(worth.high)})."
    ]


def _sureness(worth: Interval) -> str:
    if worth.low > 0:
        return "a proven gain"
    if worth.high < 0:
        return "a proven loss"
    return "no proven gain" if worth.value >= 0 else "no gain, and no proven loss"


def astray(report: CostReport) -> list[str]:
    """What outages and redrives cost, in sentences: queries that went elsewhere, dead queries."""
    outage = report.outage
    if outage is None:
        return []
    return [*_detours(outage, report.policy), *_left_dead(outage)]


def _detours(outage: Outage, policy: PolicyFacts) -> list[str]:
    if not outage.queries:
        return []
    sentence = (
        f"{queries(outage.queries)} {'was' if outage.queries == 1 else 'were'} answered by another "
        f"model than decided on first: {extra(outage.extra_usd)} than expected of that one, "
        f"{right_answers(outage.grade_gain)} expected."
    )
    if outage.loss_usd is None or policy.willingness_to_pay is None:
        return [sentence]
    worth = price(policy.willingness_to_pay)
    what = "a loss" if outage.loss_usd >= 0 else "a gain"
    return [sentence, f"At {worth} each, that is {what} of {money(abs(outage.loss_usd))}."]


def _left_dead(outage: Outage) -> list[str]:
    if not outage.dead:
        return []
    by_reason = ", ".join(f"{number:,} {reason}" for reason, number in outage.dead_letters)
    return [f"Left dead by vendors: {queries(outage.dead)} ({by_reason}), to be sent again."]


def criterion(policy: PolicyFacts) -> str:
    """What the policy was told, as a sentence."""
    if policy.willingness_to_pay is not None:
        return (
            "Each query went to the model of the best value, where a right instead of a wrong "
            f"answer is worth {price(policy.willingness_to_pay)} (policy.willingness_to_pay)."
        )
    return (
        "Each query went to the cheapest model that was expected to reach a grade of "
        f"{policy.quality_floor:g} (policy.quality_floor)."
    )
