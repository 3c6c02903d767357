"""The report's figures, as SVG that takes its colours from the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from moa.reports.cost_report import CostReport

INK, PALE, OURS = "#010203", "#040506", "#070809"
"""Stand-ins that `_svg` replaces by the page's own colours, light and dark."""
_CSS = {INK: "var(--ink)", PALE: "var(--line)", OURS: "var(--accent)"}
MODELS = ("#4e79a7", "#f28e2b", "#76b7b2", "#e15759", "#59a14f", "#b07aa1", "#9c755f", "#edc948")
"""By place in the pool, over again when there are more."""
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moa",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def colour(pool: Sequence[str], model: str) -> str:
    """The colour of a model in every figure."""
    return MODELS[pool.index(model) % len(MODELS)] if model in pool else PALE


def cost_and_grade(report: CostReport) -> str | None:
    """Each single model and this run: cost against grade; `None` without grades.

    Every model is measured on the queries within its reach, which is said by a hollow mark where
    these are not all. So that such marks can be compared, a grade is this run's plus the
    difference on common queries, and a cost likewise.
    """
    known = [c for c in report.comparisons if c.grade_difference and c.our_cost_usd]
    if not known or report.grade is None:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 3.9)
        ours = float(report.cost_usd) / max(1, report.queries) * 1000
        for one in known:
            assert one.grade_difference is not None
            cost = ours * float(one.cost_usd / one.our_cost_usd)
            grade = report.grade.value - one.grade_difference.value
            tint = colour(report.pool, one.model)
            whole = one.queries == one.of_queries
            axes.plot(cost, grade, "o", ms=9, color=tint, mfc=tint if whole else "none", mew=2)
            _name(axes, one.model, cost, grade, INK)
        low, high = report.grade.value - report.grade.low, report.grade.high - report.grade.value
        axes.errorbar(ours, report.grade.value, [[low], [high]], fmt="D", ms=10, color=OURS, lw=1.5)
        _name(axes, "this run", ours, report.grade.value, OURS, beside=True)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"${value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlabel("USD per 1,000 queries, logarithmic")
        axes.set_ylabel("mean grade")
        axes.margins(x=0.22, y=0.15)
        return _svg(figure)


def spend_by_model(report: CostReport) -> str | None:
    """Share of queries and share of the bill, per model; `None` when nothing was spent."""
    models = [m for m in report.pool if any(s.model == m for s in report.spend)]
    if not models or not report.cost_usd:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 1.5)
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
                axes.barh(row, amount, left=left, color=tint, height=0.62)
                if amount > 0.055:
                    where = left + amount / 2
                    axes.text(where, row, f"{amount:.0%}", ha="center", va="center", color="white")
                left += amount
        axes.set_yticks([1, 0], ["queries", "bill"])
        axes.set_xlim(0, 1)
        axes.xaxis.set_visible(False)
        for side in ("bottom", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure)


def throughput(report: CostReport) -> str | None:
    """Queries finished a second over the run; `None` when it was over at once."""
    if len(report.throughput) < 3:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 2.2)
        at: Any = [moment.starts_at for moment in report.throughput]
        rate = [moment.queries / moment.length_s for moment in report.throughput]
        axes.fill_between(at, rate, step="post", color=OURS, alpha=0.25, lw=0)
        axes.step(at, rate, where="post", color=OURS)
        concise: Any = matplotlib.dates.ConciseDateFormatter
        axes.xaxis.set_major_formatter(concise(axes.xaxis.get_major_locator()))
        axes.set_ylabel("queries/s")
        axes.set_ylim(bottom=0)
        return _svg(figure)


def calibration(report: CostReport) -> str | None:
    """Measured against expected grade, per model; `None` without grades."""
    known = [(model, points) for model, points in report.calibration if points]
    if not known:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(4.6, 3.6)
        axes.plot([0, 1], [0, 1], "--", color=PALE)
        for model, points in known:
            tint = colour(report.pool, model)
            expected = [p.expected for p in points]
            axes.plot(expected, [p.measured for p in points], "o-", ms=4, color=tint, lw=1.2)
        axes.set_xlabel("expected grade, before any call")
        axes.set_ylabel("measured grade")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        return _svg(figure)


def novelty(report: CostReport) -> str | None:
    """How many queries were how unlike the training data; `None` without queries."""
    if not sum(report.novelty):
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(4.6, 3.6)
        width = 1 / len(report.novelty)
        total = sum(report.novelty)
        left = [n * width for n in range(len(report.novelty))]
        shares = [n / total for n in report.novelty]
        axes.bar(left, shares, width * 0.9, align="edge", color=OURS)
        axes.set_xlabel("novelty: 0 as the training data, 1 unlike all of it")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("queries")
        return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _name(axes: Axes, text: str, x: float, y: float, tint: str, *, beside: bool = False) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(-11, -3) if beside else (0, 9),
        textcoords="offset points",
        color=tint,
        ha="right" if beside else "center",
        fontsize=9,
        weight="bold" if beside else "normal",
    )


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
    for stand_in, own in _CSS.items():
        text = text.replace(stand_in, own)
    return text
