"""Figures, what was aimed at, and how both are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Target(NamedTuple):
    """What a figure of ours should be; `beyond` is better than anybody asks for."""

    reach: float
    beyond: float
    at_least: bool = False
    """Greater is better."""

    def verdict(self, value: float) -> str:
        """Which of the two a figure meets."""
        sign = -1 if self.at_least else 1
        if sign * value <= sign * self.beyond:
            return "beyond"
        return "reached" if sign * value <= sign * self.reach else "missed"

    def texts(self, digits: int) -> tuple[str, str]:
        """Both, as they stand in a table."""
        relation = "≥" if self.at_least else "≤"
        return f"{relation} {self.reach:.{digits}f}", f"{relation} {self.beyond:.{digits}f}"


class Figure(NamedTuple):
    """One line of a table."""

    name: str
    values: Mapping[str, float]
    """By side."""
    digits: int = 3
    target: Target | None = None
    judged: str = "dispatcher"
    """Whose value the target is for."""


class Result(NamedTuple):
    """What a workload came to."""

    title: str
    figures: Sequence[Figure]
    notes: Sequence[str] = ()
    """What a reader must know of these figures."""

    def show(self) -> None:
        """Print it."""
        sides = list(dict.fromkeys(side for figure in self.figures for side in figure.values))
        head = ["", *sides, "reach", "beyond", ""]
        table = [head, *(_cells(figure, sides) for figure in self.figures)]
        widths = [max(len(row[column]) for row in table) for column in range(len(head))]
        print(f"\n{self.title}")
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
        print(*(f"  {note}" for note in self.notes), sep="\n", end="\n" if self.notes else "")

    def document(self) -> dict[str, Any]:
        """As JSON holds it: figure → side → value."""
        return {
            figure.name: {side: round(value, 5) for side, value in figure.values.items()}
            for figure in self.figures
        }


def _cells(figure: Figure, sides: Sequence[str]) -> list[str]:
    values = [
        f"{figure.values[side]:,.{figure.digits}f}" if side in figure.values else ""
        for side in sides
    ]
    target = figure.target
    if target is None or figure.judged not in figure.values:
        return [figure.name, *values, "", "", ""]
    verdict = target.verdict(figure.values[figure.judged])
    return [figure.name, *values, *target.texts(figure.digits), verdict]
