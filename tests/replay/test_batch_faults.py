"""What goes wrong with batches, their requests and the calls about them, and what it costs."""

from __future__ import annotations

import anthropic
import openai
import orjson
import pytest
from google import genai
from google.cloud import storage
from google.genai import errors, types
from pydantic import JsonValue

from moa.replay.process import ReplayServer
from tests.replay.batch_asking import (
    GPT,
    IDS,
    QUERIES,
    claude_until,
    content,
    gpt_line,
    gpt_lines,
    gpt_until,
    jsonl,
    submit_claude,
    submit_gpt,
)
from tests.replay.test_batch_google import ended, predictions, submit_file, submit_vertex

DAY_IN_A_SECOND = 86_400
LOST = (openai.APIConnectionError, anthropic.APIConnectionError)


def test_requests_fail_by_the_share_that_the_script_says_and_are_not_billed(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    shares = {"fails_retryably": 0.5, "fails_fatally": 0.5}
    provider_server.set_script({"seed": 3, "batch": shares})

    batches = [gpt_until(gpt, submit_gpt(gpt), "completed") for _ in range(2)]

    for batch in batches:
        failures = content(gpt, batch.error_file_id)
        assert batch.output_file_id is None
        assert failures.keys() == IDS.keys()
        assert {line["response"]["status_code"] for line in failures.values()} == {400, 500}
        assert all(line["response"]["body"]["error"]["message"] for line in failures.values())
        assert batch.request_counts is not None
        assert batch.request_counts.failed == 12
    assert provider_server.ledger() == []


def test_the_same_seed_fails_the_same_requests(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    def failed(seed: int) -> set[str]:
        provider_server.set_script({"seed": seed, "batch": {"fails_retryably": 0.4}})
        batch = claude_until(claude, submit_claude(claude), "ended")
        results = claude.messages.batches.results(batch.id)
        return {one.custom_id for one in results if one.result.type == "errored"}

    first, again, other = failed(1), failed(1), failed(2)

    assert first == again != other


def test_what_a_script_says_of_a_query_holds_in_a_batch(
    provider_server: ReplayServer, claude: anthropic.Anthropic
) -> None:
    first, second, third = list(QUERIES)[:3]
    steps = {first: {"status": 529}, second: "refusal", third: {"text": "Forty-two"}}
    provider_server.set_script({"queries": steps})

    batch = claude_until(claude, submit_claude(claude), "ended")
    results = {IDS[one.custom_id]: one.result for one in claude.messages.batches.results(batch.id)}

    told = [results[query].model_dump() for query in (first, second, third)]
    assert told[0]["error"]["error"]["type"] == "overloaded_error"
    assert told[1]["message"]["stop_reason"] == "refusal"
    assert told[2]["message"]["content"][0]["text"] == "Forty-two"


BAD_FILES = {
    "invalid_json_line": gpt_lines() + b"{nothing\n",
    "duplicate_custom_id": gpt_lines() + jsonl([gpt_line("row-3", "again")]),
    "model_mismatch": gpt_lines()
    + jsonl([gpt_line("more", next(iter(QUERIES.values())), "gpt-4o-mini")]),
    "model_not_found": jsonl([gpt_line("one", "hello", "gpt-unheard-of")]),
    "url_mismatch": jsonl([{**gpt_line("one", "hello"), "url": "/v1/responses"}]),
    "missing_required_parameter": jsonl([{"custom_id": "one", "method": "POST"}]),
    "too_many_tasks": b"{}\n" * 50_001,
    "empty_file": b"\n",
}


@pytest.mark.parametrize("code", BAD_FILES)
def test_a_file_that_is_none_fails_its_batch_with_the_reason(
    provider_server: ReplayServer, gpt: openai.OpenAI, code: str
) -> None:
    batch = gpt_until(gpt, submit_gpt(gpt, BAD_FILES[code]), "failed")

    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or []] == [code]
    assert batch.output_file_id is None
    assert provider_server.ledger() == []


def test_a_full_queue_of_openais_fails_the_batch_and_empties_as_batches_end(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    first = gpt_until(gpt, submit_gpt(gpt), "completed")
    assert first.usage is not None
    limit = int(first.usage.input_tokens * 1.5)
    script = {"queue_tokens": {GPT: limit}, "takes_s": 1.5}
    provider_server.set_script({"batch": script})

    held, refused = submit_gpt(gpt), submit_gpt(gpt)
    failed = gpt_until(gpt, refused, "failed")
    gpt_until(gpt, held, "completed")
    gpt_until(gpt, submit_gpt(gpt), "in_progress")

    assert failed.errors is not None
    assert [error.code for error in failed.errors.data or []] == ["token_limit_exceeded"]


def test_a_full_queue_elsewhere_is_a_429(
    provider_server: ReplayServer,
    claude: anthropic.Anthropic,
    gemini: genai.Client,
    vertex: genai.Client,
    gcs: storage.Client,
) -> None:
    provider_server.set_script({"batch": {"fates": ["queue_full", "queue_full"]}})

    with pytest.raises(anthropic.RateLimitError):
        submit_claude(claude)
    with pytest.raises(errors.ClientError) as developer:
        submit_file(gemini)
    with pytest.raises(errors.ClientError) as cloud:
        submit_vertex(vertex, gcs)
    for raised in (developer.value, cloud.value):
        assert (raised.code, raised.status) == (429, "RESOURCE_EXHAUSTED")
    assert provider_server.batches() == []


def test_an_invalid_batch_is_refused_or_fails_as_its_vendor_does(
    provider_server: ReplayServer,
    gpt: openai.OpenAI,
    claude: anthropic.Anthropic,
    gemini: genai.Client,
    vertex: genai.Client,
    gcs: storage.Client,
) -> None:
    provider_server.set_script({"batch": {"fates": ["invalid", "invalid"]}})

    gpt_until(gpt, submit_gpt(gpt), "failed")
    with pytest.raises(anthropic.BadRequestError):
        submit_claude(claude)
    jobs = [ended(gemini, submit_file(gemini)), ended(vertex, submit_vertex(vertex, gcs))]

    assert {job.state for job in jobs} == {types.JobState.JOB_STATE_FAILED}
    assert jobs[1].error is not None
    assert provider_server.ledger() == []


def test_requests_that_fail_on_vertex_and_the_developer_api_say_why(
    provider_server: ReplayServer,
    gemini: genai.Client,
    vertex: genai.Client,
    gcs: storage.Client,
) -> None:
    provider_server.set_script({"batch": {"fails_fatally": 1}})

    job = ended(vertex, submit_vertex(vertex, gcs))
    lines = predictions(gcs, job)
    done = ended(gemini, submit_file(gemini))

    assert job.state == done.state == types.JobState.JOB_STATE_SUCCEEDED
    assert len(lines) == 12
    assert all(line["status"].startswith("Bad Request: {") for line in lines.values())
    assert {str(line["response"]) for line in lines.values()} == {"{}"}
    assert done.dest is not None
    content = gemini.files.download(file=done.dest.file_name or "")
    failures = [orjson.loads(line)["error"] for line in content.splitlines()]
    assert [failure["code"] for failure in failures] == [400] * 12
    assert provider_server.ledger() == []


def test_a_lost_upload_and_a_lost_submission_are_done_all_the_same(
    provider_server: ReplayServer, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    script = {"lost_uploads": 1, "lost_submissions": 1}
    provider_server.set_script({"batch": script})

    for _ in range(2):
        with pytest.raises(LOST):
            submit_gpt(gpt)
    with pytest.raises(LOST):
        submit_claude(claude)

    (lost,) = gpt.batches.list()
    (other,) = claude.messages.batches.list()
    assert lost.metadata == {"reference": "ours"}
    assert other.request_counts.processing + other.request_counts.succeeded == 12
    gpt_until(gpt, lost, "completed")
    claude_until(claude, other, "ended")
    summary = provider_server.batches_summary()
    assert (summary["batches"], summary["same_queries_max"]) == (2, 1)
    assert summary["calls"]["openai upload"] == 2
    assert billed_twice(provider_server) == 12


def billed_twice(server: ReplayServer) -> int:
    found: int = server.summary()["queries_billed_twice"]
    return found


def test_a_batch_that_is_submitted_again_shows(
    provider_server: ReplayServer, gpt: openai.OpenAI
) -> None:
    for _ in range(2):
        gpt_until(gpt, submit_gpt(gpt), "completed")

    assert provider_server.batches_summary()["same_queries_max"] == 2
    assert billed_twice(provider_server) == 12


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ({"status": 500}, openai.InternalServerError),
        ({"status": 429}, openai.RateLimitError),
        ("reset", openai.APIConnectionError),
        ({"kind": "reset", "after": 0.5}, openai.APIConnectionError),
    ],
)
def test_a_providers_faults_meet_calls_about_batches_too(
    provider_server: ReplayServer,
    gpt: openai.OpenAI,
    step: JsonValue,
    error: type[Exception],
) -> None:
    batch = submit_gpt(gpt)
    provider_server.set_script({"sequences": {"openai": [step]}})

    with pytest.raises(error):
        gpt.batches.cancel(batch.id)

    done = isinstance(step, dict) and step.get("kind") == "reset"
    assert provider_server.batches()[0]["cancels"] == int(done)
    assert gpt.batches.retrieve(batch.id).id == batch.id


def test_batches_and_files_are_seen_by_their_own_key_only(
    provider_server: ReplayServer, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    batch, other = submit_gpt(gpt), submit_claude(claude)

    stranger = gpt.with_options(api_key="another")
    with pytest.raises(openai.NotFoundError):
        stranger.batches.retrieve(batch.id)
    with pytest.raises(openai.NotFoundError):
        stranger.files.content(batch.input_file_id)
    assert list(stranger.batches.list()) == []
    with pytest.raises(anthropic.NotFoundError):
        claude.with_options(api_key="another").messages.batches.retrieve(other.id)
