"""Batches that expire, get stuck or are cancelled, and what is told and billed of them."""

from __future__ import annotations

import time
from typing import Literal

import anthropic
import openai
import pytest
from google import genai
from google.cloud import storage
from google.genai import types

from moa.replay.process import ReplayServer
from tests.replay.batch_asking import (
    IDS,
    claude_until,
    content,
    gpt_until,
    submit_claude,
    submit_gpt,
)
from tests.replay.test_batch_google import ended, predictions, results, submit_file, submit_vertex

DAY_IN_A_SECOND = 86_400
LOST = (openai.APIConnectionError, anthropic.APIConnectionError)


def billed(server: ReplayServer) -> set[str]:
    """Queries that were billed; each at most once."""
    ledger = server.ledger()
    queries = {entry["query_id"] for entry in ledger}
    assert len(queries) == len(ledger)
    return queries


def test_an_expired_batch_of_openais_keeps_what_it_has_answered(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    script = {"time_scale": DAY_IN_A_SECOND, "fates": ["expires"], "unfinished_when_expired": 0.25}
    provider_server.set_script({"batch": script})

    batch = gpt_until(gpt, submit_gpt(gpt), "expired")
    answers, failures = content(gpt, batch.output_file_id), content(gpt, batch.error_file_id)

    assert len(answers) == 9
    assert answers.keys() | failures.keys() == IDS.keys()
    assert {line["error"]["code"] for line in failures.values()} == {"batch_expired"}
    assert {line["response"] for line in failures.values()} == {None}
    assert billed(provider_server) == {IDS[number] for number in answers}
    assert batch.expires_at is not None
    assert batch.expired_at == batch.expires_at
    assert batch.expires_at - batch.created_at in (86_400, 86_399, 86_401)  # each is cut to seconds


def test_an_expired_batch_of_anthropics_keeps_what_it_has_answered(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    script = {"time_scale": DAY_IN_A_SECOND, "fates": ["expires"], "unfinished_when_expired": 0.25}
    provider_server.set_script({"providers": {"anthropic": {"batch": script}}})

    batch = claude_until(claude, submit_claude(claude), "ended")
    results = {one.custom_id: one.result.type for one in claude.messages.batches.results(batch.id)}

    assert batch.ended_at == batch.expires_at
    assert (batch.expires_at - batch.created_at).total_seconds() == pytest.approx(86_400)
    assert (batch.request_counts.succeeded, batch.request_counts.expired) == (9, 3)
    assert results.keys() == IDS.keys()
    assert billed(provider_server) == {IDS[n] for n, kind in results.items() if kind == "succeeded"}


def test_a_batch_that_takes_longer_than_a_day_expires_where_it_is(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    script = {"time_scale": DAY_IN_A_SECOND, "waits_s": 0, "takes_s": 2 * 86_400 + 1}
    provider_server.set_script({"batch": script})

    batch = claude_until(claude, submit_claude(claude), "ended")

    assert (batch.request_counts.succeeded, batch.request_counts.expired) == (5, 7)


def test_a_stuck_batch_goes_on_for_ever_and_can_be_cancelled(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    script = {"time_scale": DAY_IN_A_SECOND, "fates": ["stuck"], "finished_when_stuck": 0.5}
    provider_server.set_script({"batch": {**script, "cancel_takes_s": 21_600}})
    batch = submit_gpt(gpt)

    time.sleep(1.5)  # so much longer than a day, to the vendor
    assert gpt.batches.retrieve(batch.id).status == "in_progress"
    cancelling = gpt.batches.cancel(batch.id)
    end = gpt_until(gpt, batch, "cancelled")

    answers, failures = content(gpt, end.output_file_id), content(gpt, end.error_file_id)
    assert cancelling.status == "cancelling"
    assert cancelling.output_file_id is None
    assert len(answers) == len(failures) == 6
    assert {line["error"]["code"] for line in failures.values()} == {"batch_cancelled"}
    assert billed(provider_server) == {IDS[number] for number in answers}
    (entry,) = provider_server.batches()
    assert (entry["end"], entry["cancels"], entry["answered"]) == ("cancelled", 1, 6)


def test_a_batch_that_is_cancelled_before_it_runs_costs_nothing(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    provider_server.set_script({"batch": {"waits_s": 60, "cancel_takes_s": 0.3}})
    batch = submit_claude(claude)

    cancelling = claude.messages.batches.cancel(batch.id)
    end = claude_until(claude, batch, "ended")

    assert cancelling.processing_status == "canceling"
    assert cancelling.request_counts.processing == 12
    assert cancelling.cancel_initiated_at is not None
    assert (end.request_counts.canceled, end.request_counts.succeeded) == (12, 0)
    assert provider_server.ledger() == []
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.batches.cancel(batch.id)


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_job_on_vertex_that_is_ended_keeps_what_it_has_answered(
    provider_server: ReplayServer,
    vertex: genai.Client,
    gcs: storage.Client,
    end: Literal["expired", "cancelled"],
) -> None:
    fate = {"expired": "expires", "cancelled": "stuck"}[end]
    script = {"fates": [fate], "unfinished_when_expired": 0.5, "finished_when_stuck": 0.5}
    provider_server.set_script({"batch": {"time_scale": DAY_IN_A_SECOND, **script}})

    job = submit_vertex(vertex, gcs)
    if end == "cancelled":
        vertex.batches.cancel(name=job.name or "")
    found = ended(vertex, job)
    lines = predictions(gcs, found)

    assert found.state == types.JobState[f"JOB_STATE_{end.upper()}"]
    assert found.completion_stats is not None
    assert found.completion_stats.incomplete_count == len(IDS) - len(lines)
    assert billed(provider_server) == {IDS[number] for number in lines}
    assert len(lines) == 6


def test_an_expired_batch_of_the_developer_api_has_no_results_and_costs_nothing(
    provider_server: ReplayServer, gemini: genai.Client
) -> None:
    script = {"time_scale": DAY_IN_A_SECOND, "fates": ["expires"]}
    provider_server.set_script({"batch": script})

    job = ended(gemini, submit_file(gemini))

    assert job.state == types.JobState.JOB_STATE_EXPIRED
    assert job.dest is None
    assert provider_server.ledger() == []


def test_batches_outlast_a_change_of_the_script(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    provider_server.set_script({"batch": {"takes_s": 3600}})
    batch = submit_gpt(gpt)
    gpt_until(gpt, batch, "in_progress")

    provider_server.set_script({"batch": {"time_scale": 7200}})

    end = gpt_until(gpt, batch, "completed")
    assert end.completed_at is not None
    assert end.completed_at - end.created_at in (3600, 3601)


def test_a_cancelled_batch_of_the_developer_api_keeps_what_it_has_answered(
    provider_server: ReplayServer, gemini: genai.Client
) -> None:
    script = {"fates": ["stuck"], "finished_when_stuck": 0.5, "cancel_takes_s": 0.5}
    provider_server.set_script({"batch": {**script, "waits_s": 0}})
    job = submit_file(gemini)

    gemini.batches.cancel(name=job.name or "")
    cancelling = gemini.batches.get(name=job.name or "")
    end = ended(gemini, job)

    assert cancelling.state == types.JobState.JOB_STATE_RUNNING
    assert end.state == types.JobState.JOB_STATE_CANCELLED
    lines = results(gemini, end)
    assert len(lines) == 6
    assert billed(provider_server) == {IDS[number] for number in lines}
