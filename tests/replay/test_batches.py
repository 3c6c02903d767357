"""OpenAI's and Anthropic's batches when all goes well."""

from __future__ import annotations

import anthropic
import openai

from moa.replay.process import ReplayServer
from tests.replay.batch_asking import (
    IDS,
    QUERIES,
    claude_until,
    content,
    gpt_until,
    submit_claude,
    submit_gpt,
    usage,
)


def test_a_batch_of_openais_gives_every_recorded_answer_and_is_billed_once(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    batch = submit_gpt(gpt)
    ended = gpt_until(gpt, batch, "completed")
    first, second = (content(gpt, ended.output_file_id) for _ in range(2))

    real = usage("openai/gpt-4o")
    ledger = provider_server.ledger()
    assert batch.status == "validating"
    assert first == second
    assert ended.error_file_id is None
    assert ended.metadata == {"reference": "ours"}
    assert first.keys() == IDS.keys()
    for number, line in first.items():
        told = line["response"]["body"]["usage"]
        assert (told["prompt_tokens"], told["completion_tokens"]) == real[IDS[number]]
    billed = {e["query_id"]: (e["input_tokens"], e["output_tokens"]) for e in ledger}
    assert billed == {query: real[query] for query in QUERIES}
    assert {(e["lane"], e["batch"], e["fate"], e["status"]) for e in ledger} == {
        ("batch", batch.id, "ok", 200)
    }
    assert provider_server.summary()["queries_billed_twice"] == 0
    assert ended.request_counts is not None
    assert ended.request_counts.model_dump() == {"completed": 12, "failed": 0, "total": 12}
    assert ended.usage is not None
    assert ended.usage.total_tokens == sum(sum(real[query]) for query in QUERIES)


def test_a_batch_of_anthropics_gives_every_recorded_answer_and_is_billed_once(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    batch = submit_claude(claude)
    ended = claude_until(claude, batch, "ended")
    results = {one.custom_id: one.result for one in claude.messages.batches.results(batch.id)}

    real = usage("anthropic/claude-3.5-sonnet")
    assert batch.processing_status == "in_progress"
    assert (batch.request_counts.processing, batch.request_counts.succeeded) == (12, 0)
    assert (ended.request_counts.processing, ended.request_counts.succeeded) == (0, 12)
    assert ended.results_url is not None
    assert results.keys() == IDS.keys()
    for number, result in results.items():
        assert result.type == "succeeded"
        told = result.message.usage
        assert (told.input_tokens, told.output_tokens) == real[IDS[number]]
        assert told.service_tier == "batch"
    assert sum(entry["output_tokens"] for entry in provider_server.ledger()) == sum(
        real[query][1] for query in QUERIES
    )
    assert provider_server.summary()["by_lane"] == {"batch": 12}
    (entry,) = provider_server.batches()
    assert (entry["answered"], entry["state"], entry["end"], entry["fetches"]) == (
        12, "ended", "completed", 1,
    )  # fmt: skip
