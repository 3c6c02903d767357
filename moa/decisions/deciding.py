"""Scored queries → what is expected of every model, and decisions → `ROUTING_DECISIONS`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moa.catalog import Lane, Model
from moa.config import PolicyConfig
from moa.dispatch.outcome import DeadLetter
from moa.planning.exploration import Exploration, explored
from moa.planning.policy import NOBODY as NO_MODEL
from moa.planning.policy import Candidates, Decisions, Ints, decide, reason_nobody
from moa.prices import PriceTable
from moa.schema import ROUTING_DECISIONS, SHADOW_DECISIONS, agree

LIVE: Lane = "live"
DEFECTIVE = "defective"
"""The rule of a row that is no request: it becomes a dead letter."""


class Expected(NamedTuple):
    """What is expected of m models for n queries, those of a table that have no defect."""

    good: NDArray[np.intp]
    """Their rows in the table, shape (n,)."""
    queries: pa.Table
    """These rows."""
    candidates: Candidates
    grade: np.ndarray
    """Shape (n, m)."""
    cost_usd: NDArray[np.float64]
    """In the live lane, shape (n, m)."""
    input_tokens: np.ndarray
    """Shape (n, m)."""
    output_tokens: np.ndarray
    """As billed: at most what a query allows; shape (n, m)."""
    novelty: np.ndarray
    """Shape (n,)."""


class Chances(NamedTuple):
    """What exploration has made of n decisions."""

    preferred: Ints
    """Who would be asked, were nothing explored; shape (n,)."""
    propensity: NDArray[np.float64]
    """The probability with which the chosen model was chosen, shape (n,)."""


@dataclass(frozen=True, slots=True)
class Deciding:
    """What all decisions of a run have in common."""

    models: tuple[Model, ...]
    """Pool order."""
    policy: PolicyConfig
    prices: PriceTable
    router_version: str
    default_model: str
    """Where the policy goes when a query is too novel to judge."""
    exploration: Exploration | None = None
    """By which some queries go elsewhere than the policy would have it."""

    @property
    def pool(self) -> list[str]:
        """The catalog ids, in pool order."""
        return [model.id for model in self.models]

    def expect(self, queries: pa.Table, lanes: Sequence[Lane] = (LIVE,)) -> Expected:
        """What is expected of each model for some columns of `SCORED_QUERIES`.

        Args:
            queries: the columns that say what is expected, and what each query asks for.
            lanes: that the run may buy.
        """
        good = np.flatnonzero(queries.column("defect").is_null().to_numpy())
        queries = queries.take(pa.array(good))
        models = len(self.models)
        input_tokens = matrix(queries.column("expected_input_tokens"), models)
        output_tokens = matrix(queries.column("expected_output_tokens"), models)
        grade = matrix(queries.column("expected_grade"), models)
        candidates = Candidates.find(
            self.models,
            lanes=lanes,
            input_tokens=input_tokens,
            output_tokens=matrix(queries.column("most_output_tokens"), models),
            max_output_tokens=queries.column("max_output_tokens").to_pylist(),
            abilities=queries.column("abilities").to_pylist(),
            allowed_models=wishes(queries.column("allowed_models")),
            allowed_lanes=wishes(queries.column("allowed_lanes")),
            expected_grade=grade,
            min_grade=queries.column("min_grade").to_numpy(),
        )
        billed_output = _capped(output_tokens, queries.column("max_output_tokens"))
        cost = self.prices.expected_cost_usd(self.pool, LIVE, input_tokens, billed_output)
        novelty = queries.column("novelty").to_numpy()
        return Expected(
            good, queries, candidates, grade, cost, input_tokens, billed_output, novelty
        )

    def by_policy(self, expected: Expected) -> Decisions:
        """Each query for itself, in the live lane."""
        return decide(
            expected.candidates,
            expected.grade,
            expected.cost_usd,
            expected.novelty,
            self.policy,
            self.default_model,
        )

    def drawn(self, expected: Expected) -> Ints:
        """The model that is drawn for each query, `NOBODY` for most; shape (n,)."""
        if self.exploration is None:
            return np.full(len(expected.good), NO_MODEL)
        options = self.exploration.options(expected.candidates.can, expected.cost_usd)
        return self.exploration.draw(expected.queries.column("query_id").to_pylist(), options)

    def chances(self, expected: Expected, decisions: Decisions, preferred: Ints) -> Chances:
        """What is to be known of decisions with some drawn ones among them.

        Args:
            expected: of the queries.
            decisions: on them.
            preferred: who would be asked, were nothing explored.
        """
        if self.exploration is None:
            return Chances(preferred, np.ones(len(preferred)))
        options = self.exploration.options(expected.candidates.can, expected.cost_usd)
        return Chances(preferred, self.exploration.propensity(options, preferred, decisions.chosen))

    def by_policy_or_drawn(self, expected: Expected) -> tuple[Decisions, Chances]:
        """As `by_policy`, but for what is explored."""
        alone = self.by_policy(expected)
        decisions = explored(alone, self.drawn(expected), alone.chosen)
        return decisions, self.chances(expected, decisions, alone.chosen)

    def table(
        self,
        queries: pa.Table,
        expected: Expected,
        decisions: Decisions,
        lanes: Sequence[Lane | None],
        router_s: float,
        chances: Chances | None = None,
    ) -> pa.Table:
        """`ROUTING_DECISIONS` of a whole part.

        Args:
            queries: its `SCORED_QUERIES`.
            expected: of them.
            decisions: on those without a defect.
            lanes: how each of these is bought.
            router_s: seconds that the router has worked on the part.
            chances: of these decisions, where some may be drawn.
        """
        rows = queries.num_rows
        propensity, preferred = np.ones(rows), np.full(rows, NO_MODEL)
        found = chances or Chances(decisions.chosen, np.ones(len(expected.good)))
        preferred[expected.good], propensity[expected.good] = found
        table = queries.select(["query_id", "partition", "row", "expected_grade", "novelty"])
        columns = {
            **self._choices(queries, expected.good, decisions, lanes),
            "expected_cost_usd": per_model(expected.cost_usd, expected.good, rows),
            "preferred_model": _named(self.pool, preferred),
            "propensity": propensity.astype(np.float32),
            "router_s": np.full(rows, router_s / max(1, rows), np.float32),
            "router_version": [self.router_version] * rows,
            "price_version": [self.prices.version] * rows,
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, ROUTING_DECISIONS.field(name).type))
        return agree(table, ROUTING_DECISIONS, where="decide")

    def shadow_table(self, queries: pa.Table, expected: Expected, current: Decisions) -> pa.Table:
        """`SHADOW_DECISIONS` of a whole part, by the policy: nothing is explored, nothing planned.

        Args:
            queries: its `SCORED_QUERIES`, by the shadow.
            expected: of them.
            current: what the run's own router would decide by the policy.
        """
        rows = queries.num_rows
        chosen, theirs = np.full(rows, NO_MODEL), np.full(rows, NO_MODEL)
        chosen[expected.good] = self.by_policy(expected).chosen
        theirs[expected.good] = current.chosen
        table = queries.select(["query_id", "partition", "row", "expected_grade", "novelty"])
        columns = {
            "model": _named(self.pool, chosen),
            "current_model": _named(self.pool, theirs),
            "expected_cost_usd": per_model(expected.cost_usd, expected.good, rows),
            "router_version": [self.router_version] * rows,
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, SHADOW_DECISIONS.field(name).type))
        return agree(table, SHADOW_DECISIONS, where="shadow")

    def _choices(
        self,
        queries: pa.Table,
        good: NDArray[np.intp],
        decisions: Decisions,
        lanes: Sequence[Lane | None],
    ) -> dict[str, Any]:
        """The columns that say who is asked; rows that are not `good` go to nobody."""
        chosen = np.full(queries.num_rows, NO_MODEL)
        chosen[good] = decisions.chosen
        rule = np.full(queries.num_rows, DEFECTIVE, dtype=object)
        rule[good] = decisions.rule
        lane = np.full(queries.num_rows, None, dtype=object)
        lane[good] = lanes
        fallbacks: list[list[str]] = [[] for _ in range(queries.num_rows)]
        for row, ids in zip(good.tolist(), decisions.fallback_ids(self.pool), strict=True):
            fallbacks[row] = ids
        return {
            "model": _named(self.pool, chosen),
            "provider": _named([model.provider for model in self.models], chosen),
            "lane": lane,
            "rule": rule,
            "fallbacks": fallbacks,
            "expected_input_tokens": _of_chosen(queries, "expected_input_tokens", chosen),
            "expected_output_tokens": _of_chosen(queries, "expected_output_tokens", chosen),
        }


def live_lanes(decisions: Decisions) -> list[Lane | None]:
    """The live lane for every query that goes to somebody."""
    return [None if number == NO_MODEL else LIVE for number in decisions.chosen.tolist()]


def letters(queries: pa.Table, expected: Expected, decisions: Decisions) -> list[DeadLetter]:
    """One for each row of a part that goes to nobody."""
    defective = queries.filter(queries.column("defect").is_valid())
    return [*_defective(defective), *_unanswerable(expected, decisions)]


def per_model(values: NDArray[np.floating[Any]], good: NDArray[np.intp], rows: int) -> pa.ListArray:
    """(good, m) values → one list per row, empty for the others."""
    lengths = np.zeros(rows, np.int32)
    lengths[good] = values.shape[1]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def matrix(lists: pa.ChunkedArray, columns: int) -> np.ndarray:
    """Lists of equal length as (n, columns)."""
    return np.asarray(lists.combine_chunks().flatten().to_numpy().reshape(-1, columns))


def wishes(lists: pa.ChunkedArray) -> list[list[str] | None]:
    """What each query allows; most backlogs say nothing, and then no cell is looked at."""
    if lists.null_count == len(lists):
        return [None] * len(lists)
    return list(lists.to_pylist())


def _defective(queries: pa.Table) -> Iterator[DeadLetter]:
    for row in queries.to_pylist():
        reason, _, detail = row["defect"].partition(": ")
        yield _letter(row, reason, detail)


def _unanswerable(expected: Expected, decisions: Decisions) -> Iterator[DeadLetter]:
    nobody = np.flatnonzero(decisions.chosen == NO_MODEL)
    rows = expected.queries.take(pa.array(nobody)).to_pylist()
    for number, row in zip(nobody.tolist(), rows, strict=True):
        yield _letter(row, "nobody_can", reason_nobody(expected.candidates, number))


def _letter(row: dict[str, Any], reason: str, detail: str) -> DeadLetter:
    return DeadLetter(
        query_id=row["query_id"],
        partition=row["partition"],
        row=row["row"],
        reason=reason,
        detail=detail,
        attempts=(),
        request=row["request"],
        allowed_models=row["allowed_models"],
        tags=row["tags"],
    )


def _capped(output_tokens: np.ndarray, most: pa.ChunkedArray) -> np.ndarray:
    """Expected output, where a query allows less than is expected: that."""
    limit = most.cast(pa.float64()).fill_null(np.inf).to_numpy()
    return np.asarray(np.minimum(output_tokens, limit[:, None]))


def _named(names: Sequence[str], chosen: np.ndarray) -> list[str | None]:
    return [None if number == NO_MODEL else names[number] for number in chosen.tolist()]


def _of_chosen(queries: pa.Table, column: str, chosen: np.ndarray) -> list[float]:
    """One value per row from a list per row; 0 where nobody was chosen."""
    lists = queries.column(column).to_pylist()
    return [
        0.0 if number == NO_MODEL else values[number]
        for values, number in zip(lists, chosen.tolist(), strict=True)
    ]
