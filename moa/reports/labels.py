"""Names beside the marks of a figure, where they hide neither a mark nor each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_GAP = 9.0
"""Points between a mark's middle and its name."""
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Above, below, right, left, and the corners: tried in this order."""


@dataclass(frozen=True, slots=True)
class Label:
    """A name and the mark that it belongs to."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def over(self, other: _Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)


def place(
    figure: Figure,
    axes: Axes,
    labels: Sequence[Label],
    *,
    size: float,
    bars: Sequence[tuple[float, float, float]] = (),
) -> None:
    """Write each name on the side of its mark where it hides least.

    Args:
        figure: that is drawn on.
        axes: whose scales and limits are set.
        labels: the names.
        size: of the letters, in points.
        bars: upright ones that no name shall hide: x, lower and upper y.
    """
    figure.draw_without_rendering()
    points = axes.transData.transform([(one.x, one.y) for one in labels]) * 72 / figure.dpi
    taken = [_Box(x - 6, y - 6, x + 6, y + 6) for x, y in points.tolist()]
    for x, low, high in bars:
        ends = axes.transData.transform([(x, low), (x, high)]) * 72 / figure.dpi
        taken.append(_Box(ends[0][0] - 2, ends[0][1], ends[1][0] + 2, ends[1][1]))
    frame = axes.get_window_extent()
    left, right = frame.x0 * 72 / figure.dpi, frame.x1 * 72 / figure.dpi
    for one, (x, y) in zip(labels, points.tolist(), strict=True):
        choices = list(_choices(one, x, y, size))
        box, (across, up) = min(
            choices,
            key=lambda choice: (
                sum(choice[0].over(other) for other in taken)
                + 1000 * max(0, left - choice[0].left, choice[0].right - right),
                choices.index(choice),
            ),
        )
        taken.append(box)
        axes.annotate(
            one.text,
            (one.x, one.y),
            xytext=(across * _GAP, up * _GAP),
            textcoords="offset points",
            color=one.colour,
            ha=("right", "center", "left")[across + 1],
            va=("top", "center", "bottom")[up + 1],
            fontsize=size,
            weight="bold" if one.bold else "normal",
            annotation_clip=False,
        )


def _choices(one: Label, x: float, y: float, size: float) -> Iterator[tuple[_Box, tuple[int, int]]]:
    width, height = 0.58 * size * len(one.text), 1.2 * size
    for across, up in _SIDES:
        left = x + across * _GAP - (width / 2, 0, width)[across]
        bottom = y + up * _GAP - (height / 2, 0, height)[up]
        yield _Box(left, bottom, left + width, bottom + height), (across, up)
