"""A run whose queries are answered: its folder as the job leaves it, made in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from moa.request import ChatRequest, Message
from moa.schema import OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.run_folder import PartName, PieceName, RunFolder

BEGAN = datetime(2026, 11, 24, 23, 50, tzinfo=UTC)
MODEL = "v/model"


@dataclass(frozen=True)
class Asked:
    """A query and what came of it."""

    prompt: str
    completion: str | None = "42"
    reference: str | None = "42"
    tags: Sequence[str] = ("maths",)
    status: str = "answered"
    model: str = MODEL
    decided: str = MODEL
    propensity: float = 1.0
    followers: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def answered_run(
    url: str,
    asked: Sequence[Asked],
    *,
    run_id: str = "night",
    part_rows: int = 3,
    of_rows: int | None = None,
) -> RunFolder:
    """Write a run; query n is `qN`. Of a redrive, `of_rows` are those of the run's part."""
    run = RunFolder(url)
    run.begin({"started_at": BEGAN.isoformat(), "config": {"run": {"id": run_id}}}, identity={})
    for first in range(0, len(asked), part_rows):
        mine = list(enumerate(asked))[first : first + part_rows]
        part = PartName(0, first, first + (of_rows or len(mine)))
        run.write_queries(part, _table([_query(n, one) for n, one in mine], SCORED_QUERIES))
        run.write_decisions(part, _table([_decision(n, one) for n, one in mine], ROUTING_DECISIONS))
        rows = [row for n, one in mine for row in _outcomes(n, one)]
        run.write_outcomes(PieceName(part, "v"), _table(rows, OUTCOMES))
    return run


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _query(n: int, one: Asked) -> dict[str, Any]:
    chat = ChatRequest(messages=[Message(role="user", content=one.prompt)])
    return {
        "query_id": f"q{n}", "partition": 0, "row": n, "request": chat.canonical(),
        "abilities": [], "tags": list(one.tags), "reference": one.reference,
        "followers": list(one.followers), "expected_grade": [0.5], "expected_input_tokens": [9.0],
        "expected_output_tokens": [9.0], "most_output_tokens": [9.0], "novelty": 0.5,
    }  # fmt: skip


def _decision(n: int, one: Asked) -> dict[str, Any]:
    return {
        "query_id": f"q{n}", "partition": 0, "row": n, "model": one.decided, "provider": "v",
        "lane": "live", "rule": "best_value", "fallbacks": [], "expected_grade": [0.5],
        "expected_cost_usd": [0.1], "expected_input_tokens": 9.0, "expected_output_tokens": 9.0,
        "novelty": 0.5, "propensity": one.propensity, "router_s": 0.0, "router_version": "r1",
        "price_version": "p",
    }  # fmt: skip


def _outcomes(n: int, one: Asked) -> list[dict[str, Any]]:
    dead = one.status == "dead_letter"
    row = {
        "query_id": f"q{n}", "partition": 0, "row": n, "status": one.status,
        "model": None if dead else one.model, "provider": "v", "lane": "live",
        "first_model": one.decided, "completion": one.completion, "input_tokens": 7,
        "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 5,
        "reasoning_tokens": 0, "cost_usd": Decimal("0.25"), "attempts": 1, "unknown_calls": 0,
        "lost_answers": 0, "finished_at": BEGAN, "tags": list(one.tags),
    }  # fmt: skip
    same = {"same_as": f"q{n}", "cost_usd": Decimal(0)}
    more = [{**row, **same, **{k: f[k] for k in ("query_id", "tags")}} for f in one.followers]
    return [row, *more]
