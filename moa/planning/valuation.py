"""What each option is worth at given prices, and what the best ones use.

All that counts of an option is linear in six quantities: one query, USD, input tokens, output
tokens, grade, and grade that is lacking below the floor. So worth, limits and prices are
coefficients of these, and the sums of the six over the chosen queries, option by option, say
everything about a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import sched_getaffinity
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moa.planning.capacity import (
    NO_OPTION,
    TARGET_GRADE,
    Backlog,
    Bools,
    Capacity,
    Choice,
    Floats,
    Objective,
)
from moa.planning.policy import BELOW_FLOOR_USD

T = TypeVar("T")

QUERIES, USD, INPUT, OUTPUT, GRADE, LACKING = range(6)
QUANTITIES = 6
COUNTED = {
    "usd": (USD,),
    "queries": (QUERIES,),
    "input_tokens": (INPUT,),
    "output_tokens": (OUTPUT,),
    "tokens": (INPUT, OUTPUT),
}
CHUNK_ROWS = 8192
"""Rows that are valued at once: twelve options of them in double precision are 0.8 MB, a cache."""
GOLDEN = 0.6180339887498949
"""Multiples of it fall evenly into [0, 1), however few or regularly spaced they are."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A problem as coefficients. R capacities, K options; minima are negated maxima."""

    models: int
    lanes: int
    worth: Floats
    """USD per unit of each quantity and option, shape (6, K)."""
    use: Floats
    """Of each capacity per unit of quantity and option, shape (R, 6, K); negative for minima."""
    limit: Floats
    """Shape (R,); negative for minima. Sums of `use` stay at or below."""
    names: tuple[str, ...]
    floor: float | None

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        capacities: Sequence[Capacity],
        objective: Objective,
        open_rows: float,
    ) -> Terms:
        """Coefficients of a problem; `open_rows` have an option, and count for the target."""
        options = shape[0] * shape[1]
        worth = np.zeros((QUANTITIES, options))
        worth[USD], worth[GRADE] = -objective.usd_weight, objective.usd_per_grade
        worth[LACKING] = 0.0 if objective.floor is None else -BELOW_FLOOR_USD
        use = np.zeros((len(capacities), QUANTITIES, options))
        sign = np.array([-1.0 if c.at_least else 1.0 for c in capacities])
        for row, capacity in enumerate(capacities):
            for quantity in COUNTED[capacity.measure]:
                use[row, quantity] = sign[row] * np.asarray(capacity.options, bool).ravel()
        limit = sign * np.array([c.limit for c in capacities], np.float64)
        names = tuple(c.name for c in capacities)
        if objective.target_grade is not None:
            target = np.zeros((1, QUANTITIES, options))
            target[0, GRADE] = -1.0
            use = np.concatenate([use, target])
            limit = np.append(limit, -objective.target_grade * open_rows)
            names = (*names, TARGET_GRADE)
        return cls(*shape, worth, use, limit, names, objective.floor)

    @property
    def count(self) -> int:
        """How many capacities."""
        return len(self.limit)

    def with_joint(self, weights: Floats) -> Terms:
        """With a capacity more: the weighted sum of all."""
        if not weights.any():
            return self
        return replace(
            self,
            use=np.concatenate([self.use, self.joint_use(weights)[None]]),
            limit=np.append(self.limit, weights @ self.limit),
        )

    def joint_use(self, weights: Floats) -> Floats:
        """Of the weighted sum of all capacities, shape (6, K)."""
        return np.asarray(np.tensordot(weights, self.use, axes=1))

    def reduced(self, prices: Floats) -> Floats:
        """Worth less what is used at these prices, per quantity and option, shape (6, K)."""
        return self.worth - self.joint_use(prices)

    def used(self, sums: Floats) -> Floats:
        """Of each capacity, shape (R,), by sums of shape (6, K)."""
        return np.asarray(np.tensordot(self.use, sums, axes=2))


@dataclass(frozen=True, slots=True)
class Columns:
    """Some queries in double precision, a row per option or model: arithmetic runs along them."""

    first: int
    """Number of the first query in its backlog."""
    cost: Floats
    """Shape (K, n); 0 where barred."""
    barred: Bools | None
    """Shape (K, n); `None` when every option may be taken."""
    grade: Floats
    """Shape (m, n), as all below."""
    lacking: Floats | None
    input_tokens: Floats | None
    output_tokens: Floats | None

    @classmethod
    def of(cls, block: Backlog, start: int, stop: int, floor: float | None, first: int) -> Columns:
        """The block's queries from `start` to `stop`."""
        rows = slice(start, stop)
        cost = _doubles(block.cost_usd[rows].reshape(stop - start, block.shape[0] * block.shape[1]))
        grade = _doubles(block.grade[rows])
        barred: Bools | None = np.isinf(cost)
        if barred is not None and barred.any():
            cost[barred] = 0.0
        else:
            barred = None
        # The policy compares in single precision, in which 0.7 is a little less than 0.7.
        lacking = None if floor is None else np.maximum(float(np.float32(floor)) - grade, 0.0)
        tokens = [
            None if one is None else _doubles(one[rows])
            for one in (block.input_tokens, block.output_tokens)
        ]
        return cls(first, cost, barred, grade, lacking, *tokens)

    @property
    def rows(self) -> int:
        """How many queries."""
        return int(self.cost.shape[1])

    @property
    def open(self) -> Bools:
        """Which queries have an option."""
        if self.barred is None:
            return np.ones(self.rows, np.bool_)
        return np.asarray(~self.barred.all(axis=0))

    def by_model(self, quantity: int) -> Floats | None:
        """A quantity that is the same in all lanes, shape (m, n)."""
        return {
            INPUT: self.input_tokens,
            OUTPUT: self.output_tokens,
            GRADE: self.grade,
            LACKING: self.lacking,
        }[quantity]

    def of_option(self, quantity: int, option: int) -> Floats:
        """A quantity of one option, shape (n,)."""
        if quantity == USD:
            return np.asarray(self.cost[option])
        amounts = self.by_model(quantity)
        if amounts is None:
            raise ValueError("a capacity counts tokens that the backlog does not tell")
        return np.asarray(amounts[option * len(self.grade) // len(self.cost)])

    def values(self, coefficients: Floats) -> Floats:
        """The sum of the quantities, weighted, shape (K, n); nothing is barred here."""
        models, rows = self.grade.shape
        lanes = len(self.cost) // models
        out = np.zeros((len(self.cost), rows))
        by_lane = out.reshape(models, lanes, rows)
        # This order gives bit by bit what the policy computes where no price is above 0.
        for quantity in (GRADE, LACKING, USD, INPUT, OUTPUT):
            weights = coefficients[quantity]
            if not weights.any():
                continue
            if quantity == USD:
                out += weights[:, None] * self.cost
                continue
            amounts = self.by_model(quantity)
            if amounts is None:
                raise ValueError("a capacity counts tokens that the backlog does not tell")
            if (weights.reshape(models, lanes) == weights.reshape(models, lanes)[:, :1]).all():
                by_lane += (weights.reshape(models, lanes)[:, :1] * amounts)[:, None]
            else:
                by_lane += weights.reshape(models, lanes, 1) * amounts[:, None]
        if coefficients[QUERIES].any():
            out += coefficients[QUERIES][:, None]
        return out

    def worths(self, coefficients: Floats, jitter: float) -> Floats:
        """What to choose by, shape (K, n): -inf where barred.

        `jitter` USD at most are added to options, unlike ones to alike queries: so a price that
        is right divides queries that are all alike between options.
        """
        out = self.values(coefficients)
        if jitter:
            share = np.arange(self.first + 1, self.first + 1 + self.rows) * GOLDEN % 1.0
            out += np.linspace(0, jitter, len(out))[:, None] * share
        if self.barred is not None:
            out[self.barred] = -np.inf
        return out

    def chosen(self, quantity: int, choice: Choice) -> Floats:
        """A quantity of the chosen options, shape (n,); anything where none is chosen."""
        if quantity == QUERIES:
            return np.ones(self.rows)
        option = np.maximum(choice, 0).astype(np.intp)
        amounts = self.cost if quantity == USD else self.by_model(quantity)
        if amounts is None:
            return np.zeros(self.rows)
        if quantity != USD:
            option //= len(self.cost) // len(self.grade)
        option *= self.rows
        option += np.arange(self.rows)
        return np.asarray(amounts.ravel().take(option))

    def sums(self, choice: Choice) -> Floats:
        """The quantities of the chosen options, shape (6, K)."""
        options = len(self.cost)
        taken = choice >= 0
        bins = choice if taken.all() else np.where(taken, choice, options)
        out = np.zeros((QUANTITIES, options))
        out[QUERIES] = np.bincount(bins, minlength=options + 1)[:options]
        for quantity in (USD, INPUT, OUTPUT, GRADE, LACKING):
            if quantity == USD or self.by_model(quantity) is not None:
                weights = self.chosen(quantity, choice)
                out[quantity] = np.bincount(bins, weights, options + 1)[:options]
        return out


def _doubles(rows: NDArray[np.float32]) -> Floats:
    return np.ascontiguousarray(rows.T, dtype=np.float64)


def best(worths: Floats) -> Choice:
    """The first of the best options of each query; `NO_OPTION` where all are barred."""
    most = worths.max(axis=0)
    choice = np.full(worths.shape[1], NO_OPTION, np.int16)
    for option in range(len(worths) - 1, -1, -1):
        np.copyto(choice, np.int16(option), where=worths[option] == most)
    choice[np.isneginf(most)] = NO_OPTION
    return choice


def open_rows(backlog: Backlog) -> int:
    """How many queries have an option."""
    count = 0
    for start in range(0, backlog.rows, CHUNK_ROWS):
        cost = backlog.cost_usd[start : start + CHUNK_ROWS]
        count += int(np.isfinite(cost).any(axis=(1, 2)).sum())
    return count


def threads() -> int:
    """As many as there are cores for this process."""
    return len(sched_getaffinity(0))


def over_chunks(
    backlog: Backlog, floor: float | None, work: Callable[[Columns], T], chunk_rows: int
) -> list[T]:
    """Do something with all queries, chunk by chunk, on all cores; answers in order."""

    def one(start: int) -> T:
        stop = min(start + chunk_rows, backlog.rows)
        return work(Columns.of(backlog, start, stop, floor, first=start))

    starts = range(0, max(1, backlog.rows), chunk_rows)
    if len(starts) < 2:
        return [one(start) for start in starts]
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(one, starts))
