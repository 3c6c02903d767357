"""The evaluation's figures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moa.evaluation.calibration import Calibration
from moa.evaluation.evaluation import PoolEvaluation
from moa.reports.drawing import (
    INK,
    MOST_TICKS,
    NARROW,
    OURS,
    PALE,
    WIDE,
    axes_of,
    colour,
    money_axis,
)
from moa.reports.labels import Label, place


def frontier(one: PoolEvaluation, pool: Sequence[str], wide: bool) -> Figure | None:
    """Cost against grade: what the router can reach, the oracle, the random mix, single models.

    Args:
        one: the pool.
        pool: all models of the page, for their colours.
        wide: for a wide window.
    """
    curves, found = one.curves, one.metrics
    if min(curves.cost_usd) <= 0:
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 5.0 if wide else 4.6)
    at = curves.at_cost_usd
    banded = [n for n, cost in enumerate(at) if cost >= curves.begins_usd]
    axes.fill_between(
        [at[n] for n in banded],
        [curves.hull[n].low for n in banded],
        [curves.hull[n].high for n in banded],
        color=OURS,
        alpha=0.16,
        lw=0,
    )
    corners = [(curves.cost_usd[n], curves.grade[n]) for n in curves.corners]
    corners.append((max(at[-1], corners[-1][0]), corners[-1][1]))
    axes.plot([x for x, _ in corners], [y for _, y in corners], color=OURS, lw=2)
    axes.plot(curves.cost_usd, curves.grade, ".", color=OURS, ms=4, alpha=0.7)
    cheapest = min(point.cost_usd.value for point in found.models)
    mixed = [n for n, cost in enumerate(at) if cost >= cheapest]
    axes.plot([at[n] for n in mixed], [curves.random_mix[n] for n in mixed], ":", color=INK, lw=1.2)
    axes.plot([at[n] for n in mixed], [curves.oracle[n] for n in mixed], "--", color=INK, lw=1.2)
    labels = [*_models(axes, one, pool)]
    bars = _dots(one)
    ours = found.configured
    axes.errorbar(
        ours.cost_usd.value, ours.grade.value,
        [[ours.grade.value - ours.grade.low], [ours.grade.high - ours.grade.value]],
        fmt="D", ms=9, color=OURS, lw=1.5,
    )  # fmt: skip
    bars.append((ours.cost_usd.value, ours.grade.low, ours.grade.high))
    labels.append(Label("as configured", ours.cost_usd.value, ours.grade.value, OURS, bold=True))
    labels += _names(one)
    axes.set_xscale("log")
    axes.margins(x=0.16 if wide else 0.1, y=0.1)
    money_axis(axes, MOST_TICKS[wide])
    axes.set_xlabel("USD per 1,000 queries, logarithmic")
    axes.set_ylabel("mean grade")
    place(figure, axes, labels, size=9, bars=bars)
    return figure


def _models(axes: Axes, one: PoolEvaluation, pool: Sequence[str]) -> list[Label]:
    labels = []
    for point in one.metrics.models:
        best = point.name == one.metrics.best_constant
        x, y = point.cost_usd.value, point.grade.value
        if best:
            axes.plot(x, y, "o", ms=15, color=INK, mfc="none", mew=1.2)
        axes.plot(x, y, "o", ms=9, color=colour(pool, point.name))
        labels.append(Label(point.name.split("/")[-1], x, y, INK, bold=best))
    return labels


def _dots(one: PoolEvaluation) -> list[tuple[float, float, float]]:
    """The lines as short bars, so that no name is written on them."""
    curves = one.curves
    dots = list(zip(curves.cost_usd, curves.grade, strict=True))
    for line in (curves.oracle, curves.random_mix):
        dots += zip(curves.at_cost_usd, line, strict=True)
    return [(x, y - 0.003, y + 0.003) for x, y in dots]


def _names(one: PoolEvaluation) -> list[Label]:
    """Of the lines, each at a place on it."""
    curves = one.curves
    places = {"oracle": (curves.oracle, 0.3), "random mix": (curves.random_mix, 0.62)}
    labels = []
    for name, (line, part) in places.items():
        n = int(part * (len(curves.at_cost_usd) - 1))
        labels.append(Label(name, curves.at_cost_usd[n], line[n], INK))
    return labels


def reliability(
    calibrations: Sequence[Calibration], pool: Sequence[str], wide: bool
) -> Figure | None:
    """Measured against expected grade, a panel per model; `None` without grades."""
    if not calibrations:
        return None
    columns = min(3 if wide else 2, len(calibrations))
    rows = -(-len(calibrations) // columns)
    side = (WIDE if wide else NARROW) / columns
    figure = Figure(figsize=(side * columns, side * 0.92 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(calibrations):
            axes.set_visible(False)
            continue
        one = calibrations[number]
        tint = colour(pool, one.model)
        axes.patch.set_alpha(0)
        axes.plot([0, 1], [0, 1], "--", color=PALE)
        expected = [part.expected for part in one.bins]
        measured = [part.measured.value for part in one.bins]
        below = [part.measured.value - part.measured.low for part in one.bins]
        above = [part.measured.high - part.measured.value for part in one.bins]
        axes.errorbar(expected, measured, [below, above], fmt="o-", ms=4, color=tint, lw=1.2)
        axes.set_title(one.model.split("/")[-1], fontsize=9.5, color=INK)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
    figure.supxlabel("expected grade, before any call", fontsize=9.5, color=INK)
    figure.supylabel("measured grade", fontsize=9.5, color=INK)
    return figure
