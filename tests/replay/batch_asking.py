"""Batches at the replay server, asked for by the vendors' own clients."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import openai
import orjson
import pyarrow.parquet as pq
from anthropic.types.messages import MessageBatch
from anthropic.types.messages.batch_create_params import Request
from openai.types import Batch

GPT, CLAUDE = "gpt-4o", "claude-3.5-sonnet"


def prompts(count: int) -> dict[str, str]:
    """Recorded queries, by id; all six models answered them."""
    rows = pq.read_table("moa/recordings/completions.parquet", columns=["query_id", "model"])
    asked = [
        row["query_id"] for row in rows.to_pylist() if row["model"] == "anthropic/claude-3-haiku"
    ][:count]
    table = pq.read_table("moa/recordings/queries.parquet", columns=["query_id", "prompt"])
    texts = dict(zip(*(table[c].to_pylist() for c in ("query_id", "prompt")), strict=True))
    return {query: texts[query] for query in asked}


QUERIES = prompts(12)
IDS = {f"row-{number}": query for number, query in enumerate(QUERIES)}


def gpt_line(custom_id: str, prompt: str, model: str = GPT) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(lines: Iterable[object]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def gpt_lines() -> bytes:
    return jsonl(gpt_line(number, QUERIES[query]) for number, query in IDS.items())


def submit_gpt(client: openai.OpenAI, content: bytes | None = None) -> Batch:
    file = client.files.create(
        file=("requests.jsonl", io.BytesIO(gpt_lines() if content is None else content)),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7 * 86400},
    )
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"reference": "ours"},
    )


def submit_claude(client: anthropic.Anthropic) -> MessageBatch:
    return client.messages.batches.create(requests=claude_requests())


def claude_requests(ids: dict[str, str] = IDS) -> list[Request]:
    return [
        {
            "custom_id": number,
            "params": {
                "model": CLAUDE,
                "max_tokens": 4096,
                "messages": [{"role": "user", "content": QUERIES[query]}],
            },
        }
        for number, query in ids.items()
    ]


def until(look: Callable[[], Any], *states: str, within_s: float = 5) -> Any:  # noqa: ANN401
    """Look until it is in one of the states."""
    give_up_at = time.monotonic() + within_s
    while True:
        found = look()
        state = getattr(found, "status", None) or found.processing_status
        if state in states:
            return found
        assert time.monotonic() < give_up_at, found
        time.sleep(0.02)  # the vendor tells nobody when a batch has ended


def gpt_until(client: openai.OpenAI, batch: Batch, *states: str) -> Batch:
    found: Batch = until(lambda: client.batches.retrieve(batch.id), *states)
    return found


def claude_until(client: anthropic.Anthropic, batch: MessageBatch, *states: str) -> MessageBatch:
    found: MessageBatch = until(lambda: client.messages.batches.retrieve(batch.id), *states)
    return found


def content(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a file, by custom id."""
    if file_id is None:
        return {}
    lines = [orjson.loads(line) for line in client.files.content(file_id).content.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


def usage(model: str) -> dict[str, tuple[int, int]]:
    rows = pq.read_table(
        "moa/recordings/graded_outcomes.parquet", filters=[("model", "=", model)]
    ).to_pylist()
    return {row["query_id"]: (row["input_tokens"], row["output_tokens"]) for row in rows}
