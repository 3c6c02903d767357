"""LiteLLM, the `llm` command and schemathesis against the endpoint with the demo config."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
EXAMS = ROOT / ".venv" / "exams"
CLIENTS = EXAMS / "bin"
pytestmark = [
    pytest.mark.exams,
    pytest.mark.skipif(not (EXAMS / ".made").exists(), reason="`make exams` sets the clients up"),
]

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance",
)  # fmt: skip
WORKED = ("POST /v1/chat/completions", "POST /v1/responses", "POST /v1/route", "GET /v1/models")


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint as it is started by hand; ends in `/v1`."""
    folder = tmp_path_factory.mktemp("feedback")
    command = [
        sys.executable, "jobs/serve_router.py", "--config", "jobs/configs/serve.toml",
        "--one-process", "--set", "http.port=0", "--set", f"feedback.folder={folder}",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = next((line.strip() for line in process.stdout if line.startswith("http")), "")
            assert url, "the endpoint has ended at its start"
            yield url
        finally:
            process.send_signal(signal.SIGINT)


def run(*command: object, **environ: str) -> str:
    """What a client prints.

    Raises:
        AssertionError: it failed.
    """
    given = {**os.environ, "NO_COLOR": "1", **environ}
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, env=given, timeout=240
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_litellm_chats_streams_calls_tools_and_understands_errors(base_url: str) -> None:
    script = Path(__file__).with_name("litellm_exam.py")

    got: dict[str, Any] = json.loads(
        run(CLIENTS / "python", script, base_url, LITELLM_LOCAL_MODEL_COST_MAP="True")
    )

    assert got["text"]
    assert got["streamed"] == got["text"]
    assert got["tokens"] == got["streamed_tokens"] > 0
    assert got["answer_to_tool"]
    assert got["called"] == got["streamed_call"] == ["weather"]
    assert got["finish"] == "tool_calls"
    assert got["response"]
    assert (got["events"][0], got["events"][-1]) == ("response.created", "response.completed")
    mistakes = got["mistakes"]
    assert mistakes["unknown model"][:2] == ["NotFoundError", 404]
    assert mistakes["unsupported field"][:2] == ["BadRequestError", 400]
    assert "logit_bias" in mistakes["unsupported field"][2]
    assert mistakes["bad value"][:2] == ["BadRequestError", 400]


def test_the_llm_command_chats_and_streams(base_url: str, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: routed\n  model_name: moa\n  api_base: {base_url}\n  api_key_name: moa\n"
    )
    command = [CLIENTS / "llm", "-m", "routed", "--key", "any", "What is 17 times 23?"]

    streamed = run(*command, LLM_USER_PATH=str(tmp_path))
    whole = run(*command, "--no-stream", LLM_USER_PATH=str(tmp_path))
    logged = json.loads(
        run(CLIENTS / "llm", "logs", "list", "-n", "2", "--json", LLM_USER_PATH=str(tmp_path))
    )

    assert streamed == whole != "\n"
    assert [entry["response"] for entry in logged] == [whole.rstrip("\n")] * 2
    assert all(entry["output_tokens"] > 0 for entry in logged)


def test_schemathesis_finds_no_server_error(base_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    root = base_url.removesuffix("/v1")

    run(
        CLIENTS / "schemathesis", "run", f"{root}/openapi.json", "--checks", ",".join(CHECKS),
        "--max-examples", "50", "--seed", "1", "--request-timeout", "30",
        "--report", "json", "--report-json-path", report,
    )  # fmt: skip

    told = json.loads(report.read_text())
    assert told["operations"]["tested"] == told["operations"]["total"] == 7
    assert told["test_cases"]["generated"] > 1000
    assert told["test_cases"]["with_failures"] == told["test_cases"]["errored"] == 0
    for operation in WORKED:  # what is always refused would prove little
        phases = told["valid_rates"][operation].values()
        assert sum(phase["accepted"] for phase in phases) > 0, operation
