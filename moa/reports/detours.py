"""What it cost that queries were answered by another model than the one decided on.

Expectations are those of the decision: what the answer of the first model would have cost, and how
good it, and the one that was given, were expected to be. Sums are of whole numbers, so that they do
not depend on the order of tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.reports.tally import per_model

_PICO = 12
_MICRO = 1_000_000
"""Grades are summed to a millionth."""

EXPECTED = ("expected_grade", "expected_cost_usd")
Expected = Callable[[pa.Table], pa.Table]
"""Outcomes of one part → the `EXPECTED` columns of their decisions, in the same order."""
OUTAGES = ("vendor_failed", "account_refused", "rate_limited")
"""Reasons of dead letters that a vendor's outage leaves, in words of the dispatcher."""


@dataclass(frozen=True, slots=True)
class Detour:
    """Queries that were to go to one model and were answered by another one."""

    first_model: str
    model: str
    queries: int
    paid_usd: Decimal
    extra_usd: Decimal
    """What was paid, less what the first model was expected to cost."""
    grade_gain: float
    """Expected right answers, more than of the first model; below 0 they are lost."""
    loss_usd: Decimal | None
    """Both together, at the policy's willingness to pay; below 0 it is a gain; `None` when the
    policy does not say what a right answer is worth."""
    unknown: int
    """Queries that are in no difference: of a model that the router does not know."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What all detours cost, and what is left dead."""

    queries: int
    paid_usd: Decimal
    extra_usd: Decimal
    grade_gain: float
    loss_usd: Decimal | None
    dead_letters: tuple[tuple[str, int], ...]
    """Reason → queries, of `OUTAGES`."""

    @property
    def dead(self) -> int:
        """All of them."""
        return sum(number for _, number in self.dead_letters)


@dataclass(slots=True)
class _Sums:
    queries: int = 0
    unknown: int = 0
    paid_usd: Decimal = Decimal(0)
    extra_pico: int = 0
    gain_micro: int = 0

    def add(self, other: _Sums) -> None:
        self.queries += other.queries
        self.unknown += other.unknown
        self.paid_usd += other.paid_usd
        self.extra_pico += other.extra_pico
        self.gain_micro += other.gain_micro

    @property
    def extra_usd(self) -> Decimal:
        return Decimal(self.extra_pico).scaleb(-_PICO)

    def loss_usd(self, worth_usd: Decimal | None) -> Decimal | None:
        if worth_usd is None:
            return None
        return self.extra_usd - worth_usd * self.gain_micro / _MICRO


@dataclass(slots=True)
class DetourTally:
    """Sums over the outcomes that another model has answered than was decided on."""

    pool: tuple[str, ...]
    _ways: defaultdict[tuple[str, str], _Sums] = field(default_factory=lambda: defaultdict(_Sums))

    def add(self, table: pa.Table, expected: Expected) -> None:
        """Count those of one table of `OUTCOMES`, all of one part."""
        moved = pc.and_(
            pc.not_equal(table["first_model"], table["model"]), pc.is_null(table["same_as"])
        )
        table = table.filter(moved)
        if not len(table):
            return
        known, gains, costs = self._differences(table, expected(table))
        rows = table.select(["first_model", "model", "cost_usd"]).to_pylist()
        for row, is_known, gain, cost in zip(rows, known, gains, costs, strict=True):
            sums = self._ways[row["first_model"], row["model"]]
            sums.queries += 1
            sums.paid_usd += row["cost_usd"]
            if is_known:
                sums.gain_micro += int(gain)
                sums.extra_pico += int(row["cost_usd"].scaleb(_PICO)) - int(cost)
            else:
                sums.unknown += 1

    def _differences(
        self, table: pa.Table, decided: pa.Table
    ) -> tuple[list[bool], list[float], list[float]]:
        """Whether both models' expectations are known; the grade that was gained, in millionths;
        what the first model was expected to cost, in 1e-12 USD.
        """
        grades, costs = (per_model(decided[name], len(self.pool)) for name in EXPECTED)
        rows = np.arange(len(table))
        first, model = (_places(table[name], self.pool) for name in ("first_model", "model"))
        gain = np.rint((grades[rows, model] - grades[rows, first]) * _MICRO)
        cost = np.rint(costs[rows, first] * 10**_PICO)
        known = (first >= 0) & (model >= 0) & np.isfinite(gain) & np.isfinite(cost)
        return known.tolist(), gain.tolist(), cost.tolist()

    def detours(self, worth_usd: Decimal | None) -> tuple[Detour, ...]:
        """The commonest first; `worth_usd` of a right instead of a wrong answer."""
        found = [
            Detour(
                *way,
                queries=sums.queries,
                paid_usd=sums.paid_usd,
                extra_usd=sums.extra_usd,
                grade_gain=sums.gain_micro / _MICRO,
                loss_usd=sums.loss_usd(worth_usd),
                unknown=sums.unknown,
            )
            for way, sums in self._ways.items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.queries, one.first_model, one.model)))

    def outage(self, dead_letters: Mapping[str, int], worth_usd: Decimal | None) -> Outage | None:
        """All together; `None` when nothing went astray.

        Args:
            dead_letters: by reason.
            worth_usd: of a right instead of a wrong answer.
        """
        dead = tuple((name, dead_letters[name]) for name in OUTAGES if dead_letters.get(name))
        if not dead and not self._ways:
            return None
        whole = _Sums()
        for sums in self._ways.values():
            whole.add(sums)
        return Outage(
            queries=whole.queries,
            paid_usd=whole.paid_usd,
            extra_usd=whole.extra_usd,
            grade_gain=whole.gain_micro / _MICRO,
            loss_usd=whole.loss_usd(worth_usd),
            dead_letters=dead,
        )


@dataclass(slots=True)
class DeadTally:
    """What the answers of dead queries were expected to cost."""

    pool: tuple[str, ...]
    _expected_pico: int = 0

    @property
    def expected_usd(self) -> Decimal:
        """Of all of them."""
        return Decimal(self._expected_pico).scaleb(-_PICO)

    def add(self, table: pa.Table, expected: Expected) -> None:
        """Count those of one table of `OUTCOMES`, all of one part, that a model was decided on."""
        dead = pc.and_(pc.equal(table["status"], "dead_letter"), pc.is_valid(table["first_model"]))
        table = table.filter(pc.and_(dead, pc.is_null(table["same_as"])))
        if not len(table):
            return
        costs = per_model(expected(table)["expected_cost_usd"], len(self.pool))
        first = _places(table["first_model"], self.pool)
        found = np.rint(costs[np.arange(len(table)), first] * 10**_PICO)
        self._expected_pico += sum(int(n) for n in found[(first >= 0) & np.isfinite(found)])


def _places(models: pa.ChunkedArray, pool: tuple[str, ...]) -> NDArray[np.int64]:
    """Of models in the pool; -1 outside it."""
    at = pc.index_in(models, value_set=pa.array(pool, pa.string()))
    return np.asarray(pc.fill_null(at, -1).to_numpy(), np.int64)
