"""OpenAI's and Anthropic's batches and files when all goes well."""

from __future__ import annotations

import time
from typing import Literal

import anthropic
import openai
import pytest

from moa.replay.process import ReplayServer
from tests.replay.batch_asking import (
    GPT,
    IDS,
    QUERIES,
    claude_until,
    content,
    gpt_lines,
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


def test_batches_of_openais_are_listed_newest_first_page_by_page(gpt: openai.OpenAI) -> None:
    ids = [submit_gpt(gpt).id for _ in range(5)]

    page = gpt.batches.list(limit=2)

    assert [batch.id for batch in page.data] == ids[:2:-1]
    assert page.has_more
    assert [batch.id for batch in page] == ids[::-1]
    assert [batch.id for batch in gpt.batches.list(after=ids[1])] == ids[:1]


def test_batches_of_anthropics_are_listed_in_both_directions(claude: anthropic.Anthropic) -> None:
    ids = [submit_claude(claude).id for _ in range(5)]

    listed = claude.messages.batches.list

    assert [batch.id for batch in listed(limit=2)] == ids[::-1]
    assert [batch.id for batch in listed(after_id=ids[2], limit=1).data] == [ids[1]]
    assert [batch.id for batch in listed(before_id=ids[0], limit=2).data] == ids[2:0:-1]
    assert not listed(before_id=ids[3]).has_more


def test_what_is_deleted_is_gone(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    batch, other = gpt_until(gpt, submit_gpt(gpt), "completed"), submit_claude(claude)
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.batches.delete(other.id)
    claude_until(claude, other, "ended")
    assert batch.output_file_id is not None

    deleted = gpt.files.delete(batch.output_file_id)
    claude.messages.batches.delete(other.id)

    assert deleted.deleted
    assert gpt.batches.retrieve(batch.id).output_file_id == batch.output_file_id
    with pytest.raises(openai.NotFoundError):
        gpt.files.content(batch.output_file_id)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.batches.retrieve(other.id)
    assert list(claude.messages.batches.list()) == []


def test_a_file_lasts_as_long_as_was_asked(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    batch = submit_gpt(gpt)
    file = gpt.files.retrieve(batch.input_file_id)

    assert (file.bytes, file.purpose) == (len(gpt_lines()), "batch")
    assert (file.expires_at or 0) - file.created_at == 7 * 86_400
    provider_server.set_script({"batch": {"time_scale": 1e6}})
    time.sleep(0.7)  # more than a week, to the vendor
    with pytest.raises(openai.NotFoundError):
        gpt.files.retrieve(file.id)


def test_the_ledger_tells_lanes_apart(provider_server: ReplayServer, gpt: openai.OpenAI) -> None:
    query, prompt = next(iter(QUERIES.items()))
    tiers: tuple[Literal["default", "flex"], ...] = ("default", "flex")
    for tier in tiers:
        gpt.chat.completions.create(
            model=GPT, service_tier=tier, messages=[{"role": "user", "content": prompt}]
        )
    gpt_until(gpt, submit_gpt(gpt), "completed")

    summary = provider_server.summary()
    real = usage("openai/gpt-4o")
    assert summary["by_lane"] == {"live": 1, "flex": 1, "batch": 12}
    assert summary["tokens_by_lane"]["flex"] == list(real[query])
    assert summary["tokens_by_lane"]["batch"][1] == sum(real[one][1] for one in QUERIES)
    assert summary["calls_per_query_max"] == summary["billed_per_query_max"] == 3
    assert summary["queries_billed_twice"] == 1
    # A vendor's limits are of calls: a batch's requests are none.
    assert summary["window_requests_max"] == summary["peaks"]["openai/gpt-4o"]["requests"] == 2
