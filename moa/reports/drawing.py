"""What every figure of a page has in common: sizes, colours, money axes, and SVG that takes its
colours from the page it stands in.

Each figure is drawn twice, for wide and for narrow windows: scaled down, its letters could not be
read.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK, PALE, OURS = "#010203", "#040506", "#070809"
"""Stand-ins that `svg` replaces by the page's own colours, light and dark."""
_CSS = {INK: "var(--ink)", PALE: "var(--line)", OURS: "var(--accent)"}
MODELS = ("#4e79a7", "#f28e2b", "#76b7b2", "#e15759", "#59a14f", "#b07aa1", "#9c755f", "#edc948")
"""By place in the pool, over again when there are more."""
OTHER = "#8a94a0"
"""Of a model outside the pool, that a redrive has asked."""
WIDE, HALF, NARROW = 10.6, 5.1, 4.4
"""Widths in inches of a figure across the page, of one of two, and of one on a telephone."""
MOST_TICKS = {True: 12, False: 8}
"""Of a cost axis, wide and narrow."""
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

Draw = Callable[[bool], Figure | None]
"""Draws for a wide (`True`) or a narrow window; `None` when there is nothing to be seen."""


def both(draw: Draw) -> list[tuple[str, str]]:
    """(Class of the page, SVG) for wide and for narrow windows; empty without a figure."""
    drawn = []
    for size, wide in (("large", True), ("small", False)):
        # Salted apart, so that neither refers to a part of the other, which may be hidden.
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": size}):
            figure = draw(wide)
            if figure is not None:
                drawn.append((size, svg(figure)))
    return drawn


def colour(pool: Sequence[str], model: str) -> str:
    """The colour of a model in every figure."""
    return MODELS[pool.index(model) % len(MODELS)] if model in pool else OTHER


def money_axis(axes: Axes, most: int) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten; at these alone when they would be many, at more
    when they would be one or two."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def ticks(digits: Sequence[float]) -> list[float]:
        return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]

    found = ticks((1, 2, 5))
    if len(found) > most:
        found = ticks((1,))
    elif len(found) < 3:
        found = ticks((1, 1.5, 2, 3, 4, 5, 7))
    if not found or len(found) > most:
        found = [10.0**p for p in powers]
    axes.xaxis.set_major_locator(FixedLocator(found))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda usd, _: "$" + f"{usd:,.9f}".rstrip("0").rstrip("."))
    )
    axes.set_xlim(low, high)


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this many inches with axes that let the page through."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def readable_on(tint: str) -> str:
    """Black or white, whichever stands out more (WCAG 2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
              for c in matplotlib.colors.to_rgb(tint)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111111" if (luminance + 0.05) / 0.0555 > 1.05 / (luminance + 0.05) else "#ffffff"


def svg(figure: Figure) -> str:
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
