"""The report's figures, as SVG that takes its colours from the page it stands in.

Each is drawn twice, for wide and for narrow windows: scaled down, its letters could not be read.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from moa.reports.comparisons import Comparison
from moa.reports.cost_report import CostReport
from moa.reports.labels import Label, place

INK, PALE, OURS = "#010203", "#040506", "#070809"
"""Stand-ins that `_svg` replaces by the page's own colours, light and dark."""
_CSS = {INK: "var(--ink)", PALE: "var(--line)", OURS: "var(--accent)"}
MODELS = ("#4e79a7", "#f28e2b", "#76b7b2", "#e15759", "#59a14f", "#b07aa1", "#9c755f", "#edc948")
"""By place in the pool, over again when there are more."""
WIDE, HALF, NARROW = 10.6, 5.1, 4.4
"""Widths in inches of a figure across the page, of one of two, and of one on a telephone."""
MOST_TICKS = {True: 12, False: 8}
"""Of a cost axis, wide and narrow."""
SHORT_S = 600
"""A run up to this long is shown by seconds since its start."""
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}

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
    return {name: list(_both(draw, report)) for name, draw in draws.items()}


def _both(draw: Draw, report: CostReport) -> Sequence[tuple[str, str]]:
    drawn = []
    for size, wide in (("large", True), ("small", False)):
        # Salted apart, so that neither refers to a part of the other, which may be hidden.
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": size}):
            figure = draw(report, wide)
            if figure is not None:
                drawn.append((size, _svg(figure)))
    return drawn


def colour(pool: Sequence[str], model: str) -> str:
    """The colour of a model in every figure."""
    return MODELS[pool.index(model) % len(MODELS)] if model in pool else PALE


def cost_and_grade(report: CostReport, wide: bool) -> Figure | None:
    """Each single model and this run: cost against grade; `None` without grades.

    Every model is measured on the queries within its reach, which is said by a hollow mark where
    these are not all. So that such marks can be compared, a grade is this run's plus the
    difference on common queries, and a cost likewise. What costs nothing stands at the left edge.
    """
    known = [c for c in report.comparisons if c.grade_difference and c.our_cost_usd]
    if not known or report.grade is None:
        return None
    figure, axes = _axes(WIDE if wide else NARROW, 4.3 if wide else 3.9)
    ours = float(report.cost_usd) / max(1, report.queries) * 1000
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
    _money_axis(axes, MOST_TICKS[wide])
    axes.set_xlabel("USD per 1,000 queries, logarithmic")
    axes.set_ylabel("mean grade")
    place(figure, axes, labels, size=9, bars=[(ours or least, report.grade.low, report.grade.high)])
    return figure


def _placed_grade(ours: float, one: Comparison) -> float:
    assert one.grade_difference is not None
    return ours - one.grade_difference.value


def _money_axis(axes: Axes, most: int) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, or at these alone when they would be many."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [
        one
        for digits in ((1, 2, 5), (1,))
        if len(one := [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high])
        <= most
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks[0] if ticks else [10.0**p for p in powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda usd, _: "$" + f"{usd:,.9f}".rstrip("0").rstrip("."))
    )
    axes.set_xlim(low, high)


def spend_by_model(report: CostReport, wide: bool) -> Figure | None:
    """Share of queries and share of the bill, per model; `None` when nothing was spent."""
    models = [m for m in report.pool if any(s.model == m for s in report.spend)]
    if not models or not report.cost_usd:
        return None
    figure, axes = _axes(WIDE if wide else NARROW, 1.5)
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
                axes.text(where, row, f"{amount:.0%}", ha="center", va="center", color=ink)
            left += amount
    axes.set_yticks([1, 0], ["queries", "bill"])
    axes.set_xlim(0, 1)
    axes.xaxis.set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure


def readable_on(tint: str) -> str:
    """Black or white, whichever stands out more (WCAG 2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
              for c in matplotlib.colors.to_rgb(tint)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111111" if (luminance + 0.05) / 0.0555 > 1.05 / (luminance + 0.05) else "#ffffff"


def throughput(report: CostReport, wide: bool) -> Figure | None:
    """Queries finished a second over the run; `None` when it was over at once."""
    if len(report.throughput) < 3:
        return None
    figure, axes = _axes(WIDE if wide else NARROW, 2.3)
    length_s = report.throughput[0].length_s
    rate = [moment.queries / length_s for moment in report.throughput]
    started_at = report.throughput[0].starts_at
    at: Any = [moment.starts_at for moment in report.throughput]
    if length_s * len(rate) <= SHORT_S:
        at = [n * length_s for n in range(len(rate) + 1)]
        axes.set_xlabel(f"seconds from {started_at:%H:%M:%S} UTC")
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


def calibration(report: CostReport, wide: bool) -> Figure | None:
    """Measured against expected grade, per model; `None` without grades."""
    known = [one for one in report.calibration if one.points]
    if not known:
        return None
    figure, axes = _axes(HALF if wide else NARROW, 3.9)
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
    figure, axes = _axes(WIDE if wide else NARROW, 2.5)
    width = 1 / len(report.novelty)
    left = [n * width for n in range(len(report.novelty))]
    axes.bar(left, [n / total for n in report.novelty], width * 0.9, align="edge", color=OURS)
    axes.axhline(width, ls="--", color=INK, lw=1)
    axes.set_xlabel("novelty: 0 as the training data, 1 unlike all of it")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("queries")
    axes.margins(x=0.01)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an element of a page: no declaration, no fixed size, the page's colours."""
    out = io.StringIO()
    figure.patch.set_alpha(0)
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # names of groups, alike in all figures
    for stand_in, own in _CSS.items():
        text = text.replace(stand_in, own)
    return text
