"""Sums over the run's tables, taken batch by batch: nothing here grows with the backlog.

Money is summed as decimals, so that the parts of a bill add up to the bill. Latencies go into
bins 1 % wide, which is how exact their percentiles are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NOVELTY_BINS = 20
_FASTEST_S = 1e-3
_GROWTH = 1.01
_LATENCY_BINS = 1700  # up to six hours
_TAGS_HELD = 5000
MOST_DOUBTS = 20
"""That are told by their query's id."""
_MOST_STEPS = 4096
_SUMS = (
    "attempts", "unknown_calls", "lost_answers", "input_tokens", "cached_input_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd",
)  # fmt: skip

SpendKey = tuple[str | None, str | None]
"""Model and lane; `None` of what has no answer."""


@dataclass(slots=True)
class Sums:
    """What is counted of the outcomes of one model in one lane."""

    queries: int = 0
    answered: int = 0
    refused: int = 0
    shared: int = 0
    """Answered or refused queries that got the answer of an equal one."""
    attempts: int = 0
    """Calls for these queries, whoever was asked: after a fallback, other models too."""
    unknown_calls: int = 0
    lost_answers: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def add(self, group: dict[str, Any]) -> None:
        """Add one group of `OutcomeTally._grouped`."""
        count = group["query_id_count"]
        self.queries += count
        self.answered += count if group["status"] == "answered" else 0
        self.refused += count if group["status"] == "refused" else 0
        self.shared += count if group["shared"] and group["status"] != "dead_letter" else 0
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + group[f"{name}_sum"])


@dataclass(frozen=True, slots=True, order=True)
class Doubt:
    """A query with calls that may have been paid without an answer; ordered by its place."""

    partition: int
    row: int
    query_id: str
    unknown_calls: int
    """Out when the run was killed."""
    lost_answers: int
    """Failed after the vendor may have done the work."""


@dataclass(slots=True)
class OutcomeTally:
    """Sums over `OUTCOMES`."""

    spend: defaultdict[SpendKey, Sums] = field(default_factory=lambda: defaultdict(Sums))
    asked: int = 0
    """Outcomes that are not the equal twin of another one."""
    reasons: Counter[str] = field(default_factory=Counter)
    doubts: list[Doubt] = field(default_factory=list)
    """The first of the backlog, at most `MOST_DOUBTS`."""
    doubtful: int = 0
    """Queries with such calls."""
    tags: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    tags_dropped: bool = False
    latency: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    begins_ms: tuple[int, ...] = (0,)
    """When the run was started, each time, in ms since the epoch; ascending."""
    finished: dict[tuple[int, int], tuple[int, Decimal]] = field(default_factory=dict)
    """Number of the start, time since it in steps of `step_ms` → queries answered or refused, USD
    spent."""
    last_ms: int | None = None
    """When the last of them was, in ms since the epoch."""
    step_ms: int = 1
    """Doubled whenever there are more than `_MOST_STEPS` of them."""

    @property
    def last_at(self) -> datetime | None:
        """When the last query had its outcome."""
        return None if self.last_ms is None else datetime.fromtimestamp(self.last_ms / 1000, UTC)

    def add(self, table: pa.Table) -> None:
        """Count every row of one table of `OUTCOMES`."""
        if not len(table):
            return
        for group in self._grouped(table):
            self.spend[group["model"], group["lane"]].add(group)
        self.asked += table["same_as"].null_count
        self._add_failures(table)
        self._add_doubts(table)
        self._add_tags(table)
        self._add_latencies(table)
        self._add_moments(table)

    @staticmethod
    def _grouped(table: pa.Table) -> list[dict[str, Any]]:
        marked = table.append_column("shared", pc.is_valid(table["same_as"]))
        wanted = [("query_id", "count"), *((n, "sum") for n in _SUMS)]
        return _sums(marked, ["model", "lane", "status", "shared"], wanted)

    def _add_failures(self, table: pa.Table) -> None:
        dead = table.filter(pc.equal(table["status"], "dead_letter"))
        for row in _sums(dead, ["reason"], [("query_id", "count")]):
            self.reasons[row["reason"] or "unknown"] += row["query_id_count"]

    def _add_doubts(self, table: pa.Table) -> None:
        calls = pc.add(table["unknown_calls"], table["lost_answers"])
        found = (
            table.filter(pc.greater(calls, 0))
            .select([one.name for one in fields(Doubt)])
            .to_pylist()
        )
        self.doubtful += len(found)
        self.doubts = sorted([*self.doubts, *(Doubt(**row) for row in found)])[:MOST_DOUBTS]

    def _add_tags(self, table: pa.Table) -> None:
        column = table["tags"].combine_chunks()
        flat = pa.table(
            {
                "tag": pc.list_flatten(column),
                "model": pc.take(table["model"], pc.list_parent_indices(column)),
            }
        )
        for row in _sums(flat, ["tag", "model"], [("tag", "count")]):
            self.tags[row["tag"], row["model"]] += row["tag_count"]
        if len(self.tags) > 2 * _TAGS_HELD:  # a tag per user, per document, ...
            self.tags = Counter(dict(self.tags.most_common(_TAGS_HELD)))
            self.tags_dropped = True

    def _add_latencies(self, table: pa.Table) -> None:
        timed = table.filter(
            pc.and_(pc.is_valid(table["latency_s"]), pc.is_null(table["same_as"]))
        ).select(["model", "latency_s"])
        for model in pc.unique(timed["model"]).drop_null().to_pylist():
            values = timed.filter(pc.equal(timed["model"], model))["latency_s"].to_numpy()
            bins = np.log(np.maximum(values, _FASTEST_S) / _FASTEST_S) / np.log(_GROWTH)
            counts = np.bincount(
                np.minimum(bins.astype(np.int64), _LATENCY_BINS - 1), minlength=_LATENCY_BINS
            )
            self.latency[model] = self.latency.get(model, 0) + counts

    def _add_moments(self, table: pa.Table) -> None:
        done = table.filter(pc.is_valid(table["finished_at"]))
        at_ms = pc.cast(done["finished_at"], pa.int64()).to_numpy() // 1000
        if len(at_ms):
            self.last_ms = max(int(at_ms.max()), self.last_ms or 0)
        begins_ms = np.array(self.begins_ms)
        start = np.maximum(np.searchsorted(begins_ms, at_ms, side="right") - 1, 0)
        stamped = pa.table(
            {
                "start": start,
                "step": (at_ms - begins_ms[start]) // self.step_ms,
                "alive": pc.cast(pc.not_equal(done["status"], "dead_letter"), pa.int64()),
                "cost_usd": done["cost_usd"],
            }
        )
        for row in _sums(stamped, ["start", "step"], [("alive", "sum"), ("cost_usd", "sum")]):
            self._finished((row["start"], row["step"]), row["alive_sum"], row["cost_usd_sum"])
        while len(self.finished) > _MOST_STEPS:
            before, self.finished = self.finished, {}
            self.step_ms *= 2
            for (number, step), (queries, cost_usd) in before.items():
                self._finished((number, step // 2), queries, cost_usd)

    def _finished(self, when: tuple[int, int], queries: int, cost_usd: Decimal) -> None:
        before = self.finished.get(when, (0, Decimal(0)))
        self.finished[when] = before[0] + queries, before[1] + cost_usd


@dataclass(slots=True)
class DecisionTally:
    """Sums over `ROUTING_DECISIONS`."""

    routes: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    """(model, rule) → queries."""
    lanes: Counter[SpendKey] = field(default_factory=Counter)
    """(model, lane) → queries."""
    novelty: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(NOVELTY_BINS, dtype=np.int64)
    )

    def add(self, table: pa.Table) -> None:
        """Count every row of one table of `ROUTING_DECISIONS`."""
        for row in _sums(table, ["model", "rule", "lane"], [("query_id", "count")]):
            self.routes[row["model"], row["rule"]] += row["query_id_count"]
            self.lanes[row["model"], row["lane"]] += row["query_id_count"]
        decided = table.filter(pc.is_valid(table["model"]))
        novelty = decided["novelty"].to_numpy().astype(np.float64)
        inside = np.clip(novelty[np.isfinite(novelty)], 0, 1)
        bins = np.minimum((inside * NOVELTY_BINS).astype(np.int64), NOVELTY_BINS - 1)
        self.novelty += np.bincount(bins, minlength=NOVELTY_BINS)


@dataclass(slots=True)
class DeadLetterTally:
    """What the dead letters' attempts ran into."""

    errors: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Reason → error class → attempts."""
    example: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Reason → the query id and detail of the first one met."""

    def add(self, table: pa.Table) -> None:
        """Count every row of one table of `DEAD_LETTERS`."""
        for row in table.select(["query_id", "reason", "detail", "attempts"]).to_pylist():
            self.example.setdefault(row["reason"], (row["query_id"], row["detail"]))
            self.errors[row["reason"]].update(a["error"] for a in row["attempts"])


def percentiles_s(counts: NDArray[np.int64], shares: Iterable[float]) -> list[float]:
    """Latencies below which the given shares of the calls were, in seconds, to 1 %."""
    reached = np.cumsum(counts)
    bins = [int(np.searchsorted(reached, share * reached[-1])) for share in shares]
    return [_FASTEST_S * _GROWTH ** (b + 0.5) for b in bins]


def per_model(column: pa.ChunkedArray, models: int) -> NDArray[np.float64]:
    """A pool-order list column as an array of shape `(rows, models)`; NaN where a list is not.

    A list is empty for a row that no model was scored on.
    """
    whole = column.combine_chunks()
    out = np.full((len(whole), models), np.nan)
    fits = pc.fill_null(pc.equal(pc.list_value_length(whole), models), False)
    values = pc.list_flatten(whole.filter(fits)).to_numpy(zero_copy_only=False)
    out[fits.to_numpy(zero_copy_only=False)] = values.reshape(-1, models)
    return out


def _sums(table: pa.Table, keys: list[str], wanted: list[tuple[str, str]]) -> list[dict[str, Any]]:
    grouped = table.group_by(keys, use_threads=False).aggregate(wanted)
    rows: list[dict[str, Any]] = grouped.to_pylist()
    return rows
