"""Our outcomes beside what the other models would have done on the very same queries.

The unit is an answered query that was really asked: dead letters have no answer to compare, and a
query that shared an equal one's answer would have shared it with any model. At most `LIMIT` of
them are held, those whose hashed place is smallest, so that the draw depends on nothing but the
backlog and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.planning.policy import EXPLORED
from moa.reports.inputs import PriceOf
from moa.reports.tally import per_model

LIMIT = 50_000
SEED = 20_240_601
PICO = 12
"""Money in arrays is whole numbers of 1e-12 USD, as fine as `moa.schema.USD`."""

Keys = NDArray[np.uint64]
LIVE = "live"
_MANY = 1000
"""Tokens; of so few that no longer prompt's price counts."""
_COLUMNS = [
    "query_id", "status", "model", "lane", "input_tokens", "output_tokens", "cost_usd",
]  # fmt: skip
_HELD = [*_COLUMNS, "tags"]


@dataclass(frozen=True, slots=True)
class Matched:
    """Per query (rows, n) and per model of the pool (columns, m)."""

    pool: tuple[str, ...]
    answered: int
    """Queries of the run that could have been drawn; n of them were."""
    answered_by: NDArray[np.int64]
    """Column of the model that answered, -1 for one outside the pool; shape (n,)."""
    our_cost: NDArray[np.int64]
    """In 1e-12 USD, shape (n,)."""
    cost: NDArray[np.int64]
    """In 1e-12 USD, shape (n, m); only meaningful where `could_answer`."""
    recorded: NDArray[np.bool_]
    """Where `cost` comes from billed or recorded tokens, not from the router's expectation."""
    could_answer: NDArray[np.bool_]
    """Where the model could take the query and has a cost: it answered, was recorded, or the
    router priced it."""
    grade: NDArray[np.float64]
    """Measured, shape (n, m); NaN where missing, where the model could not take the query, and
    where it refused to answer in this run."""
    expected_grade: NDArray[np.float64]
    """The router's, shape (n, m); NaN where missing."""
    explored: NDArray[np.bool_]
    """Whose model was drawn, shape (n,)."""
    preferred: NDArray[np.int64]
    """Column of the model that would have been asked, were nothing explored; -1 where it is not
    known; shape (n,)."""
    novelty: NDArray[np.float64]
    """Shape (n,); NaN where it is not known."""
    tags: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.our_cost)

    @property
    def scale(self) -> Decimal:
        """Queries of the run per query held here."""
        return Decimal(self.answered) / len(self) if len(self) else Decimal(1)

    @property
    def our_grade(self) -> NDArray[np.float64]:
        """The measured grade of the answer that was given, shape (n,); NaN where missing."""
        grade = np.take_along_axis(self.grade, np.maximum(self.answered_by, 0)[:, None], 1)[:, 0]
        return np.where(self.answered_by < 0, np.nan, grade)


class OutcomeSample:
    """Keeps the `limit` comparable outcomes with the smallest hashed places."""

    def __init__(self, *, limit: int = LIMIT, seed: int = SEED) -> None:
        self._limit = limit
        self._seed = seed
        self._held: list[tuple[Keys, pa.Table]] = []
        self._highest = np.uint64(2**64 - 1)
        self.answered = 0

    def add(self, table: pa.Table) -> None:
        """Offer every row of one table of `OUTCOMES`."""
        asked = table.filter(
            pc.and_(pc.is_null(table["same_as"]), pc.not_equal(table["status"], "dead_letter"))
        )
        self.answered += len(asked)
        keys = place_keys(asked, self._seed)
        keep = keys <= self._highest
        self._held.append((keys[keep], asked.select(_HELD).filter(pa.array(keep))))
        if sum(len(k) for k, _ in self._held) > 2 * self._limit:
            self._cut()

    def finish(self) -> tuple[Keys, pa.Table]:
        """The keys, ascending, and the kept rows in that order."""
        self._cut()
        return self._held[0] if self._held else (np.empty(0, np.uint64), pa.table({}))

    def _cut(self) -> None:
        if not self._held:
            return
        keys = np.concatenate([k for k, _ in self._held])
        rows = pa.concat_tables([t for _, t in self._held])
        order = np.argsort(keys, kind="stable")[: self._limit]
        if len(order) == self._limit:
            self._highest = keys[order[-1]]
        self._held = [(keys[order], rows.take(pa.array(order)))]


class ExpectedSample:
    """Collects the router's expectations for the sampled queries."""

    def __init__(self, keys: Keys, pool: tuple[str, ...], *, seed: int = SEED) -> None:
        self._keys = keys
        self._pool = pool
        self._seed = seed
        self.grade = np.full((len(keys), len(pool)), np.nan)
        self.cost_usd = np.full((len(keys), len(pool)), np.nan)
        self.can = np.zeros((len(keys), len(pool)), bool)
        """Whether the model could take the query."""
        self.explored = np.zeros(len(keys), bool)
        self.preferred = np.full(len(keys), -1)
        self.novelty = np.full(len(keys), np.nan)

    def add(self, table: pa.Table) -> None:
        """Read one table of `ROUTING_DECISIONS`."""
        if not len(self._keys):
            return
        keys = place_keys(table, self._seed)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        hit = self._keys[at] == keys
        found = table.filter(pa.array(hit))
        models = self.grade.shape[1]
        self.grade[at[hit]] = per_model(found["expected_grade"], models)
        self.cost_usd[at[hit]] = per_model(found["expected_cost_usd"], models)
        self.can[at[hit]] = _can(found, self._pool)
        self.novelty[at[hit]] = found["novelty"].to_numpy()
        self.explored[at[hit]] = pc.equal(found["rule"], EXPLORED).to_numpy()
        if "preferred_model" in found.column_names:  # early runs have not noted it
            self.preferred[at[hit]] = _places(found["preferred_model"], self._pool)


def place_keys(table: pa.Table, seed: int) -> Keys:
    """A 64-bit hash of each row's place, without collisions (the finaliser of splitmix64)."""
    place = table["partition"].to_numpy().astype(np.uint64) << np.uint64(40)
    mixed = (place | table["row"].to_numpy().astype(np.uint64)) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def match(
    outcomes: OutcomeSample,
    rows: pa.Table,
    expected: ExpectedSample,
    graded: pa.Table | None,
    *,
    pool: tuple[str, ...],
    cost_usd: PriceOf,
) -> Matched:
    """Put the sampled outcomes beside expectations and grades.

    Of a model's cost on a query, the best knowledge is taken: what we were billed, else the
    price of the recorded tokens, else the router's expectation; in the lane in which the query was
    bought, as half the price of a batch is no merit of the choice of models. A query that a model
    was not allowed to take, or could not, says nothing of it, though it be recorded; and the grade
    that an answer got when it was recorded is not that of a refusal.
    """
    shape = (len(rows), len(pool))
    cost, recorded = np.zeros(shape, np.int64), np.zeros(shape, bool)
    grade_sum, grades = np.zeros(shape), np.zeros(shape, np.int64)
    priced = np.isfinite(expected.cost_usd) & (expected.cost_usd >= 0)
    prices, lanes = _Prices(cost_usd), _lanes(rows)
    in_lane = expected.cost_usd * prices.of_live(pool, lanes)
    cost[priced] = np.round(in_lane[priced] * 10**PICO).astype(np.int64)
    for query, column, row in _graded_cells(graded, rows, pool):
        if row["grade"] is not None:
            grade_sum[query, column] += row["grade"]
            grades[query, column] += 1
        if row["input_tokens"] is not None and row["output_tokens"] is not None:
            tokens = row["input_tokens"], row["output_tokens"]
            cost[query, column] = prices(row["model"], lanes[query], *tokens)
            recorded[query, column] = True
    answered_by = _columns_of(rows, pool)
    can = expected.can.copy()
    for query, row in enumerate(_billed(rows)):
        column = answered_by[query]
        if column < 0:
            continue
        can[query, column] = True
        if row["status"] == "refused":
            grades[query, column] = 0
        cost[query, column] = pico(row["cost_usd"])
        recorded[query, column] = True
    grade = grade_sum / np.where(grades, grades, np.nan)
    return Matched(
        pool=pool,
        answered=outcomes.answered,
        answered_by=answered_by,
        our_cost=np.array([pico(r["cost_usd"]) for r in _billed(rows)], np.int64),
        cost=cost,
        recorded=recorded,
        could_answer=can & (priced | recorded),
        grade=np.where(can, grade, np.nan),
        expected_grade=expected.grade,
        explored=expected.explored,
        preferred=expected.preferred,
        novelty=expected.novelty,
        tags=tuple(map(tuple, rows.column("tags").to_pylist())) if len(rows) else (),
    )


def _lanes(rows: pa.Table) -> list[str]:
    """In which each query was bought."""
    return [lane or LIVE for lane in rows.column("lane").to_pylist()] if len(rows) else []


def _can(decisions: pa.Table, pool: tuple[str, ...]) -> NDArray[np.bool_]:
    """Whether a model could take a query — it was chosen, or is a fallback — of shape (n, m)."""
    can = np.zeros((len(decisions), len(pool)), bool)
    models = pa.array(pool, pa.string())
    chosen = pc.fill_null(pc.index_in(decisions["model"], models), -1).to_numpy()
    rows = np.flatnonzero(chosen >= 0)
    can[rows, chosen[rows]] = True
    fallbacks = decisions["fallbacks"].combine_chunks()
    columns = pc.fill_null(pc.index_in(pc.list_flatten(fallbacks), models), -1).to_numpy()
    known = columns >= 0  # a redrive may have asked a model outside the pool before
    can[pc.list_parent_indices(fallbacks).to_numpy()[known], columns[known]] = True
    return can


class _Prices:
    """`PriceOf`, in 1e-12 USD."""

    def __init__(self, cost_usd: PriceOf) -> None:
        self._cost_usd = cost_usd

    def __call__(self, model: str, lane: str, input_tokens: int, output_tokens: int) -> int:
        return pico(self._cost_usd(model, lane, input_tokens, output_tokens))

    def of_live(self, pool: Sequence[str], lanes: Sequence[str]) -> NDArray[np.float64]:
        """What a model's call costs in each query's lane, to what it costs live; (n, m)."""
        shares = {
            lane: [
                float(self._cost_usd(model, lane, _MANY, _MANY))
                / (float(self._cost_usd(model, LIVE, _MANY, _MANY)) or 1.0)
                for model in pool
            ]
            for lane in set(lanes)
        }
        found = [shares[lane] for lane in lanes]
        return np.array(found, np.float64).reshape(len(lanes), len(pool))


def _graded_cells(
    graded: pa.Table | None, rows: pa.Table, pool: tuple[str, ...]
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Row, column and content of each graded outcome that belongs to a held query and a model."""
    if graded is None or not len(rows):
        return
    at = pc.index_in(graded["query_id"], rows["query_id"].combine_chunks())
    column = pc.index_in(graded["model"], pa.array(pool, pa.string()))
    known = pc.and_(pc.is_valid(at), pc.is_valid(column))
    cells = graded.filter(known).to_pylist()
    places = zip(at.filter(known).to_pylist(), column.filter(known).to_pylist(), strict=True)
    for (query, model), cell in zip(places, cells, strict=True):
        yield query, model, cell


def _columns_of(rows: pa.Table, pool: tuple[str, ...]) -> NDArray[np.int64]:
    """Column of the model that answered; -1 for one outside the pool."""
    if not len(rows):
        return np.empty(0, np.int64)
    return _places(rows["model"], pool)


def _places(models: pa.ChunkedArray, pool: tuple[str, ...]) -> NDArray[np.int64]:
    """Columns of models; -1 of those outside the pool."""
    column = pc.index_in(models, pa.array(pool, pa.string()))
    return np.asarray(pc.fill_null(column, -1).to_numpy(), np.int64)


def _billed(rows: pa.Table) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    billed: list[dict[str, Any]] = rows.select(_COLUMNS[1:]).to_pylist()
    return billed


def pico(amount_usd: Decimal) -> int:
    """Whole 1e-12 USD."""
    return int(amount_usd.scaleb(PICO).to_integral_value())


def usd(amount_pico: int) -> Decimal:
    """Back to USD, exactly."""
    return Decimal(int(amount_pico)).scaleb(-PICO)
