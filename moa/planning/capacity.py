"""What a plan is made of: a backlog, the limits on it, and what is wanted. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["usd", "queries", "input_tokens", "output_tokens", "tokens"]
"""What a limit counts; `tokens` are input and output together."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Choice = NDArray[np.int16]
"""Option of each query, `model * lanes + lane`, or `NO_OPTION`."""

NO_OPTION = -1
"""No option may be taken."""
TARGET_GRADE = "target_grade"
"""The name under which the price of `Objective.target_grade` is told."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A limit on a sum over all queries of what the chosen options use."""

    name: str
    """Unique among a plan's capacities: "budget", "openai/gpt-4o rpm"."""
    measure: Measure
    options: Bools
    """Whose use counts, shape (m, L)."""
    limit: float
    """Of the whole backlog, in the measure's unit."""
    at_least: bool = False
    """A minimum instead of a maximum."""
    per_time: bool = False
    """Grows in proportion to the time until the deadline."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """n queries, m models and L lanes: what can be expected of each option.

    Single precision, so that ten million queries of six models fit into 1.2 GB.
    """

    grade: Singles
    """Expected, in [0, 1], shape (n, m)."""
    cost_usd: Singles
    """Expected, at least 0, shape (n, m, L); inf where the option may not be taken."""
    input_tokens: Singles | None = None
    """Expected, shape (n, m); `None` when no capacity counts them."""
    output_tokens: Singles | None = None
    """Expected, shape (n, m); `None` when no capacity counts them."""

    @property
    def rows(self) -> int:
        """How many queries."""
        return len(self.cost_usd)

    @property
    def shape(self) -> tuple[int, int]:
        """How many models and lanes."""
        return (int(self.cost_usd.shape[1]), int(self.cost_usd.shape[2]))

    def take(self, rows: slice | NDArray[np.intp]) -> Backlog:
        """Some of its queries: a view for a slice, else a copy."""
        return Backlog(
            self.grade[rows],
            self.cost_usd[rows],
            None if self.input_tokens is None else self.input_tokens[rows],
            None if self.output_tokens is None else self.output_tokens[rows],
        )


@dataclass(frozen=True, slots=True)
class Objective:
    """What an answer is worth: `usd_per_grade * grade - usd_weight * cost`, in USD.

    With a floor, grade that an answer lacks below it costs `BELOW_FLOOR_USD` per unit besides;
    `usd_per_grade` is then 0, as the policy with a quality floor has it.
    """

    usd_per_grade: float
    usd_weight: float = 1.0
    floor: float | None = None
    """Expected grade in [0, 1] that each query shall reach."""
    target_grade: float | None = None
    """Mean expected grade that the backlog shall reach, of the queries that have an option."""


def with_limits(capacities: Sequence[Capacity], factor: float) -> list[Capacity]:
    """The same capacities for a backlog `factor` times as large."""
    return [
        Capacity(c.name, c.measure, c.options, c.limit * factor, c.at_least, c.per_time)
        for c in capacities
    ]
