"""The cost report's figures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import matplotlib.dates
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from moa.reports.comparisons import Comparison
from moa.reports.cost_report import CostReport
from moa.reports.drawing import (
    HALF,
    INK,
    MOST_TICKS,
    NARROW,
    OURS,
    PALE,
    WIDE,
    axes_of,
    both,
    colour,
    money_axis,
    readable_on,
)
from moa.reports.labels import Label, place

SHORT_S = 600
"""A run up to this long is shown by seconds since its start."""
Draw = Callable[[CostReport, bool], Figure | None]
"""Draws for a wide or a narrow window; `None` when there is nothing to be seen."""


def figures(report: CostReport) -> dict[str, list[tuple[str, str]]]:
    """Name → (class of the page, SVG) for wide and for narrow windows; empty without a figure."""
    draws: dict[str, Draw] = {
        "cost_and_grade": cost_and_grade,
        "spend": spend_by_model,
        "throughput": throughput,
        "calibration": calibration,
        "novelty": novelty,
    }
    return {name: both(partial(draw, report)) for name, draw in draws.items()}


def cost_and_grade(report: CostReport, wide: bool) -> Figure | None:
    """Each single model and this run: cost against grade; `None` without grades.

    Every model is measured on the queries within its reach, which is said by a hollow mark where
    these are not all. So that such marks can be compared, a grade is this run's plus the
    difference on common queries, and a cost likewise. What costs nothing stands at the left edge.
    """
    known = [c for c in report.comparisons if c.grade_difference and c.our_cost_usd]
    if not known or report.grade is None:
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 4.3 if wide else 3.9)
    ours = float(report.cost_usd) / max(1, report.answered + report.refused) * 1000
    costs = [ours * float(one.cost_usd / one.our_cost_usd) for one in known]
    least = min([cost for cost in (ours, *costs) if cost], default=1.0) / 3
    labels = []
    for one, cost in zip(known, costs, strict=True):
        grade = _placed_grade(report.grade.value, one)
        tint = colour(report.pool, one.model)
        fill = tint if one.queries == one.of_queries else "none"
        axes.plot(cost or least, grade, "o", ms=9, color=tint, mfc=fill, mew=2)
        name = one.model if wide else one.model.split("/")[-1]
        labels.append(Label(name if cost else f"{name}: free", cost or least, grade, INK))
    low, high = report.grade.value - report.grade.low, report.grade.high - report.grade.value
    axes.errorbar(
        ours or least, report.grade.value, [[low], [high]], fmt="D", ms=10, color=OURS, lw=1.5
    )
    labels.append(Label("this run", ours or least, report.grade.value, OURS, bold=True))
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.15)
    money_axis(axes, MOST_TICKS[wide])
    of = "answers" if report.dead_letters else "queries"
    axes.set_xlabel(f"USD per 1,000 {of}, logarithmic")
    axes.set_ylabel("mean grade")
    place(figure, axes, labels, size=9, bars=[(ours or least, report.grade.low, report.grade.high)])
    return figure


def _placed_grade(ours: float, one: Comparison) -> float:
    assert one.grade_difference is not None
    return ours - one.grade_difference.value


def spend_by_model(report: CostReport, wide: bool) -> Figure | None:
    """Share of the answered queries and of the bill, per model; `None` when nothing was spent."""
    models = list(dict.fromkeys(s.model for s in report.spend if s.model is not None))
    if not models or not report.cost_usd:
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 1.5)
    for row, of_bill in ((1, False), (0, True)):
        left = 0.0
        for model in models:
            mine = [s.sums for s in report.spend if s.model == model]
            amount = (
                float(sum(s.cost_usd for s in mine) / report.cost_usd)
                if of_bill
                else sum(s.queries for s in mine) / max(1, report.answered + report.refused)
            )
            tint = colour(report.pool, model)
            axes.barh(row, amount, left=left, color=tint, height=0.66)
            if amount > (0.04 if wide else 0.09):
                where = left + amount / 2
                ink = readable_on(tint)
                axes.text(where, row, f"{amount * 100:.0f} %", ha="center", va="center", color=ink)
            left += amount
    axes.set_yticks([1, 0], ["answers" if report.dead_letters else "queries", "bill"])
    axes.set_xlim(0, 1)
    axes.xaxis.set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure


def throughput(report: CostReport, wide: bool) -> Figure | None:
    """Queries finished a second over the run; `None` when it was over at once, and when none was.

    A dashed line stands for each pause between starts: it has no width.
    """
    if len(report.throughput) < 3 or not any(one.queries for one in report.throughput):
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 2.3)
    length_s = report.throughput[0].length_s
    rate = [moment.queries / length_s for moment in report.throughput]
    started_at = report.throughput[0].starts_at
    at: Any = [moment.starts_at for moment in report.throughput]
    if report.pauses or length_s * len(rate) <= SHORT_S:
        unit, unit_s = _unit(length_s * len(rate))
        at = [n * length_s / unit_s for n in range(len(rate) + 1)]
        day = f"{started_at:%Y-%m-%d} " if report.pauses else ""
        of = f"{unit} of work" if report.pauses else unit
        axes.set_xlabel(f"{of} from {day}{started_at:%H:%M:%S} UTC")
        for number in report.pauses:
            axes.axvline(at[number], ls="--", color=INK, lw=1)
    else:
        at.append(datetime.fromtimestamp(at[-1].timestamp() + length_s, at[-1].tzinfo))
        concise: Any = matplotlib.dates.ConciseDateFormatter
        axes.xaxis.set_major_formatter(concise(axes.xaxis.get_major_locator()))
    rate.append(rate[-1])
    axes.fill_between(at, rate, step="post", color=OURS, alpha=0.25, lw=0)
    axes.step(at, rate, where="post", color=OURS)
    axes.set_ylabel("queries/s")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    return figure


def _unit(seconds: float) -> tuple[str, float]:
    """In what a time of work is told."""
    if seconds <= SHORT_S:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds <= 3 * 3600 else ("hours", 3600.0)


def calibration(report: CostReport, wide: bool) -> Figure | None:
    """Measured against expected grade, per model; `None` without grades."""
    known = [one for one in report.calibration if one.points]
    if not known:
        return None
    figure, axes = axes_of(HALF if wide else NARROW, 3.9)
    axes.plot([0, 1], [0, 1], "--", color=PALE)
    for one in known:
        tint = colour(report.pool, one.model)
        expected = [p.expected for p in one.points]
        axes.plot(expected, [p.measured for p in one.points], "o-", ms=4, color=tint, lw=1.2)
    axes.set_xlabel("expected grade, before any call")
    axes.set_ylabel("measured grade")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    return figure


def novelty(report: CostReport, wide: bool) -> Figure | None:
    """How many queries were how unlike the training data; `None` without queries."""
    total = sum(report.novelty)
    if not total:
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 2.5)
    width = 1 / len(report.novelty)
    left = [n * width for n in range(len(report.novelty))]
    axes.bar(left, [n / total for n in report.novelty], width * 0.9, align="edge", color=OURS)
    axes.axhline(width, ls="--", color=INK, lw=1)
    axes.set_xlabel("novelty: 0 as the training data, 1 unlike all of it")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylabel("queries")
    axes.margins(x=0.01)
    return figure
