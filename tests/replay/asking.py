"""Requests to the replay server, and what was recorded of them."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from moa.catalog import Model, load_catalog
from moa.providers.provider import Answer, Provider, Request
from moa.request import ChatRequest

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
MODELS = {
    "openai": "openai/gpt-4o",
    "anthropic": "anthropic/claude-3.5-sonnet",
    "gemini": "google/gemini-1.5-pro",
}
QUERY = "zeroeval/gsm/gsm8k-main-test-#0"


def recorded(model: Model) -> dict[str, Any]:
    """What the model did with `QUERY` when it was recorded."""
    rows = [("query_id", "=", QUERY), ("model", "=", model.id)]
    (text,) = pq.read_table("moa/recordings/completions.parquet", filters=rows).to_pylist()
    (usage,) = pq.read_table("moa/recordings/graded_outcomes.parquet", filters=rows).to_pylist()
    return {**usage, **text}


def prompt() -> str:
    rows = [("query_id", "=", QUERY)]
    table = pq.read_table("moa/recordings/queries.parquet", filters=rows)
    return str(table["prompt"][0].as_py())


def ask(model: Model, text: str | None = None, lane: str = "live") -> Request:
    messages = [{"role": "user", "content": text or prompt()}]
    return Request("q", ChatRequest.model_validate({"messages": messages}), model, lane)


async def complete(provider: Provider, request: Request, timeout_s: float = 20) -> Answer:
    return await provider.complete(request, timeout_s=timeout_s)
