"""Queries → what goes into one batch: of one model, within its vendor's limits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from moa.catalog import Model
from moa.dispatch.outcome import Assignment
from moa.errors import InvalidRequest
from moa.prices import PriceTable
from moa.providers.batch import BatchProvider
from moa.providers.provider import Request
from moa.request import ChatRequest
from moa.storage.run_folder import BATCH


@dataclass(frozen=True, slots=True)
class BatchFile:
    """What goes into one batch: rows of a piece, and what is expected of them together."""

    model: Model
    rows: tuple[int, ...]
    expected_usd: Decimal
    input_tokens: float
    output_tokens: float


class BatchNames:
    """The names by which a run finds its own again among all that an account has with a vendor."""

    def __init__(self, run_url: str) -> None:
        self._run = hashlib.sha256(run_url.encode()).hexdigest()[:8]

    def reference(self, token: str) -> str:
        """Of a batch."""
        return f"moa-{self._run}-{token}"

    def custom_id(self, partition: int, row: int) -> str:
        """Of one request; at most 64 letters, digits and `-`, which is what all vendors take."""
        return f"{self._run}-{partition}-{row}"

    def row(self, custom_id: str, partition: int) -> int | None:
        """The row that a request is of; `None` of a request that is not this run's."""
        row = custom_id.rpartition("-")[2]
        is_ours = row.isdecimal() and custom_id == self.custom_id(partition, int(row))
        return int(row) if is_ours else None


def request_of(assignment: Assignment) -> Request:
    """What goes to the vendor: as a live call says it, as batches say nothing of lanes."""
    chat = ChatRequest.model_validate_json(assignment.request)
    return Request(assignment.query_id, chat, assignment.choices[0].model)


def cut(
    assignments: Iterable[Assignment],
    provider: BatchProvider,
    prices: PriceTable,
    names: BatchNames,
    *,
    most_tokens: dict[str, float],
    most_usd: Decimal | None = None,
) -> tuple[list[BatchFile], list[Assignment]]:
    """Batches for queries of one provider, each within all its limits, in arrival order; and the
    queries that no batch can hold.

    Args:
        assignments: to be bought in batches.
        provider: theirs.
        prices: with the batch lane's.
        names: of the run.
        most_tokens: catalog id → input tokens that may be in one batch.
        most_usd: that one query may be expected to cost; `None` is without a limit.
    """
    by_model: dict[str, list[tuple[Assignment, int]]] = defaultdict(list)
    unfit: list[Assignment] = []
    for one in assignments:
        model = one.choices[0].model
        try:
            size = len(provider.line(names.custom_id(one.partition, one.row), request_of(one)))
        except InvalidRequest:
            size = provider.limits.bytes + 1
        too_long = one.choices[0].input_tokens > most_tokens.get(model.id, float("inf"))
        too_dear = most_usd is not None and _expected_usd(one, prices) > most_usd
        if size > provider.limits.bytes or too_long or too_dear:
            unfit.append(one)
        else:
            by_model[model.id].append((one, size))
    files = [
        _file(rows, prices)
        for model, sized in by_model.items()
        for rows in _within(sized, provider, most_tokens.get(model, float("inf")))
    ]
    return files, unfit


def halves(file: BatchFile) -> tuple[BatchFile, BatchFile]:
    """A batch of two rows or more as two, each with its share of what is expected."""
    middle = len(file.rows) // 2
    return share(file, file.rows[:middle]), share(file, file.rows[middle:])


def share(file: BatchFile, rows: tuple[int, ...]) -> BatchFile:
    """Some rows of a batch, with their share of what is expected of it."""
    part = len(rows) / len(file.rows)
    return BatchFile(
        file.model,
        rows,
        file.expected_usd * len(rows) / len(file.rows),
        file.input_tokens * part,
        file.output_tokens * part,
    )


def _within(
    sized: Sequence[tuple[Assignment, int]], provider: BatchProvider, most_tokens: float
) -> Iterator[list[Assignment]]:
    held: list[Assignment] = []
    size = tokens = 0.0
    for one, line_bytes in sized:
        more = one.choices[0].input_tokens
        full = len(held) >= provider.limits.requests or size + line_bytes > provider.limits.bytes
        if held and (full or tokens + more > most_tokens):
            yield held
            held, size, tokens = [], 0.0, 0.0
        held.append(one)
        size, tokens = size + line_bytes, tokens + more
    if held:
        yield held


def _file(rows: Sequence[Assignment], prices: PriceTable) -> BatchFile:
    return BatchFile(
        rows[0].choices[0].model,
        tuple(one.row for one in rows),
        sum((_expected_usd(one, prices) for one in rows), Decimal(0)),
        sum(one.choices[0].input_tokens for one in rows),
        sum(one.choices[0].output_tokens for one in rows),
    )


def _expected_usd(one: Assignment, prices: PriceTable) -> Decimal:
    return prices.cost_usd(
        one.choices[0].model.id,
        BATCH,
        input_tokens=round(one.choices[0].input_tokens),
        output_tokens=round(one.choices[0].output_tokens),
    )
