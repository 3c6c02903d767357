"""What the endpoint keeps, where it is told to: queries with their outcomes, and feedback.

`FOLDER/asked/` is a query log as the nightly job reads it, `FOLDER/queries.parquet/` and
`FOLDER/graded_outcomes.parquet/` are what training reads; `FOLDER/outcomes/` says who answered.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from moa.errors import Refusal
from moa.providers.provider import Completion
from moa.request import ChatRequest
from moa.schema import GRADED_OUTCOMES, MOMENT, STRINGS, USAGE, USD
from moa.serving.config import FeedbackConfig, QueryLogConfig
from moa.serving.row_log import RowLog

_PLAIN = (
    "max_output_tokens", "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty",
    "reasoning_effort", "logprobs", "top_logprobs", "parallel_tool_calls",
)  # fmt: skip
_WRITTEN = ("messages", "tools", "tool_choice", "response_format")
"""As JSON."""

ASKED = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in _WRITTEN),
        pa.field("stop", STRINGS),
        pa.field("max_output_tokens", pa.int32()),
        *(pa.field(name, pa.float64()) for name in ("temperature", "top_p")),
        pa.field("seed", pa.int64()),
        *(pa.field(name, pa.float64()) for name in ("frequency_penalty", "presence_penalty")),
        pa.field("reasoning_effort", pa.string()),
        pa.field("logprobs", pa.bool_()),
        pa.field("top_logprobs", pa.int32()),
        pa.field("parallel_tool_calls", pa.bool_()),
        pa.field("tags", STRINGS),
    ]
)
"""A query log, see `moa.storage.query_log`."""

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""What training reads, see `moa.training.dataset`."""

ANSWERS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("first_model", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("tool_calls", pa.string()),
        pa.field("finish_reason", pa.string()),
        *USAGE,
        pa.field("cost_usd", USD, nullable=False),
        pa.field("finished_at", MOMENT, nullable=False),
    ]
)


class Keeper:
    """Everything that is written. Close it in `finally`."""

    def __init__(self, queries: QueryLogConfig, feedback: FeedbackConfig) -> None:
        pace: dict[str, Any] = {"rows": queries.rows, "every_s": queries.every_s}
        self._logs: dict[str, RowLog] = {}
        if (folder := queries.folder) is not None:
            self._logs["asked"] = RowLog(folder, "asked", ASKED, **pace)
            self._logs["queries"] = RowLog(folder, "queries.parquet", QUERIES, **pace)
            self._logs["answers"] = RowLog(folder, "outcomes", ANSWERS, **pace)
        if feedback.folder is not None:
            # Whoever sends a grade waits until it is written, together with others.
            self._logs["grades"] = RowLog(
                feedback.folder, "graded_outcomes.parquet", GRADED_OUTCOMES, rows=1000, every_s=0.2
            )

    @property
    def keeps_queries(self) -> bool:
        """Whether prompts and completions are written."""
        return "asked" in self._logs

    @property
    def takes_feedback(self) -> bool:
        """Whether there is a place for grades."""
        return "grades" in self._logs

    def query(self, query_id: str, tenant: str, chat: ChatRequest) -> None:
        """Keep what was asked."""
        document = chat.model_dump(mode="json", exclude_none=True)
        row: dict[str, Any] = {name: document.get(name) for name in _PLAIN}
        row["stop"] = document.get("stop")
        for name in _WRITTEN:
            if name in document:
                row[name] = orjson.dumps(document[name]).decode()
        row |= {"query_id": query_id, "tags": [f"tenant:{tenant}"]}
        self._logs["asked"].add(row)
        self._logs["queries"].add(
            {"query_id": query_id, "prompt": chat.text(), "source": "endpoint"}
        )

    def answer(
        self,
        query_id: str,
        completion: Completion,
        cost_usd: Decimal,
        *,
        tenant: str,
        model: str,
        first_model: str,
        rule: str,
    ) -> None:
        """Keep what was answered."""
        usage = completion.usage
        self._logs["answers"].add(
            {
                "query_id": query_id,
                "tenant": tenant,
                "model": model,
                "first_model": first_model,
                "rule": rule,
                "completion": completion.text,
                "tool_calls": completion.tool_calls,
                "finish_reason": completion.finish_reason,
                "input_tokens": usage.input_tokens,
                "cached_input_tokens": usage.cached_input_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
                "output_tokens": usage.output_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "cost_usd": round(cost_usd, USD.scale),
                "finished_at": datetime.now(UTC),
            }
        )

    async def grade(self, query_id: str, model: str, grade: float, grader: str) -> None:
        """Keep a grade; returns when it is written.

        Raises:
            Refusal: 503: it is not written, as far as is known.
        """
        row = {"query_id": query_id, "model": model, "grade": grade, "grader": grader}
        try:
            await asyncio.shield(self._logs["grades"].add(row))
        except Exception:  # whatever the store's is; it was logged
            raise Refusal(
                "the grade could not be kept: send it again, the last one counts",
                status=503,
                kind="api_error",
                code="not_kept",
                retry_after_s=5.0,
            ) from None

    async def close(self) -> None:
        """Write what is held."""
        for one in self._logs.values():
            await one.close()
