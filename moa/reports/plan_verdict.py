"""Forecast and fact of a planned run, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from moa.reports.cost_report import CostReport
from moa.reports.planned import Against, Planned, Replan
from moa.reports.wording import counted, duration, moment, money, queries, share

MOST_NAMED = 3
"""Models whose use was learnt to be other, in one sentence."""


def plan_sentences(report: CostReport) -> list[str]:
    """What was forecast, what came of it, and why it was planned again; none without a plan."""
    one = report.planned
    if one is None:
        return []
    so_far = report.ended < report.backlog
    held = " so far" if so_far else _held(one.cost_usd, "more", "less")
    return [
        f"The plan was expected to cost {_told(one.cost_usd, money)}, and its calls have cost "
        f"{money(one.cost_usd.fact)}{held}.",
        *([] if so_far else [_end(one, replayed=report.replayed), *_grade(one)]),
        *plan_notes(report),
    ]


def plan_notes(report: CostReport) -> list[str]:
    """What a table of forecast and fact does not say; nothing without a plan."""
    one = report.planned
    if one is None:
        return []
    late = [] if report.ended < report.backlog else [*_deadline(one)]
    return [*_limit(one), *late, *_batches(one), *_replans(one)]


def _told(one: Against, form: Callable[[float], str]) -> str:
    return f"{form(one.expected)} ({form(one.low)} to {form(one.high)})"


def _held(one: Against, above: str, below: str) -> str:
    if one.within:
        return ", within the interval"
    return f", {above if one.fact > one.high else below} than the interval holds"


def _limit(one: Planned) -> Iterator[str]:
    if one.limit_usd is not None:
        over = one.cost_usd.fact - one.limit_usd
        kept = "was kept" if over <= 0 else f"was exceeded by {money(over)}"
        yield f"The limit of {money(one.limit_usd)} on the calls {kept}."


def _deadline(one: Planned) -> Iterator[str]:
    if one.finish_by is not None:
        kept = "before" if one.in_time else "after"
        yield f"The last answer was there {kept} the deadline, {moment(one.finish_by)}."


def _end(one: Planned, *, replayed: bool) -> str:
    # How long vendors take is what was expected; a server on localhost takes what it takes.
    held = ", replayed" if replayed else _held(one.seconds, "later", "earlier")
    return (
        f"It was expected to end after {_told(one.seconds, duration)}, and ended after "
        f"{duration(one.seconds.fact)}{held}."
    )


def _grade(one: Planned) -> Iterator[str]:
    if one.grade is not None:
        yield (
            f"The expected mean grade was {_told(one.grade, '{:.3f}'.format)}, the measured one is "
            f"{one.grade.fact:.3f}{_held(one.grade, 'higher', 'lower')}."
        )


def _batches(one: Planned) -> Iterator[str]:
    if one.to_batches:
        yield (
            f"{queries(one.to_batches)} went to batches: {one.by_batches:,} were answered so, "
            f"{one.left_for_live:,} were left for the live lane."
        )


def _replans(one: Planned) -> Iterator[str]:
    if not one.replans:
        return
    last = one.replans[-1]
    yield (
        f"What was left was planned again {counted(len(one.replans), 'time')}, last for "
        f"{queries(last.queries)}{why(last)}."
    )


def why(replan: Replan) -> str:
    """What the run had learnt by then, the furthest off first."""
    found = sorted(replan.learnt, key=lambda one: -max(abs(one[1] - 1), abs(one[2] - 1)))
    if not found:
        return ": tokens came out as expected"
    told = ", ".join(
        f"{model} {share(into)} of the expected input and {share(out)} of the output"
        for model, into, out in found[:MOST_NAMED]
    )
    more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f": it had used, by model, {told}{more}"
