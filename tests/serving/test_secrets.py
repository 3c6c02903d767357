"""Prompts, completions and keys are in no log line, error, header or metric, at any level."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from moa.log import configure
from moa.replay.process import ReplayServer
from tests.serving.conftest import KEY, OTHER_KEY, STRAIGHT, Serving
from tests.serving.test_tenants import tenants

Start = Callable[..., Awaitable[Serving]]
SECRET = "the-launch-code-is-4711"
WRONG_KEY = "sk-wrong-0451"
OUTAGE = {"synthetic": True, "outages": [{"provider": "openai", "to_s": 3600}]}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """All that this process logs, by whatever library."""
    out = io.StringIO()
    configure("json", stream=out, level=logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    yield lambda: out.getvalue() + caplog.text
    configure()


def asked(**more: object) -> dict[str, object]:
    return {"model": STRAIGHT, "messages": [{"role": "user", "content": SECRET}], **more}


async def test_no_secret_is_in_a_log_an_error_a_header_or_a_metric(
    start: Start, provider_server: ReplayServer, lines: Callable[[], str]
) -> None:
    served = await start("calls.max_attempts=1", tenants=tenants())
    nobody = {"role": "nobody", "content": SECRET}
    wrong: list[tuple[str, Any, str]] = [
        ("/chat/completions", asked(bad=1), KEY),
        ("/chat/completions", asked(temperature="hot"), KEY),
        ("/chat/completions", asked() | {"model": "no/such"}, KEY),
        ("/chat/completions", asked() | {"messages": [nobody]}, KEY),
        ("/chat/completions", asked() | {"messages": SECRET}, KEY),
        ("/chat/completions", asked(tools=[{"type": "function", "function": SECRET}]), KEY),
        ("/chat/completions", asked(), WRONG_KEY),
        ("/chat/completions", asked(), OTHER_KEY),
        ("/responses", {"model": STRAIGHT, "input": [{"type": "odd", "text": SECRET}]}, KEY),
        ("/route", {"queries": [{"messages": SECRET}]}, KEY),
        ("/feedback", {"completion_id": SECRET, "grade": 1}, KEY),
    ]

    refused = [await served.post(path, document, key=key) for path, document, key in wrong]
    broken = await served.post("/chat/completions", data=f'{{"a": "{SECRET}'.encode())
    good = await served.post("/chat/completions", asked(moa=True))
    provider_server.set_script(OUTAGE)
    failed = await served.post("/chat/completions", asked())

    statuses = [status for status, _, _ in (*refused, broken, good, failed)]
    assert statuses == [400, 400, 404, 400, 400, 400, 401, 403, 400, 400, 404, 400, 200, 502]
    bodies = [json.dumps(document) for _, document, _ in (*refused, broken, failed)]
    headers = [str(dict(told)) for _, _, told in (*refused, broken, good, failed)]
    said = "\n".join([lines(), *bodies, *headers, *map(str, served.tally.values)])
    assert "request.failed" in said
    assert STRAIGHT in said
    for secret in (SECRET, KEY, OTHER_KEY, WRONG_KEY):
        assert not [text for text in said.splitlines() if secret in text]
    completion = str(good[1]["choices"][0]["message"]["content"])  # type: ignore[index]
    assert completion
    assert completion not in said


async def test_no_secret_is_in_the_log_of_a_stream(
    start: Start, provider_server: ReplayServer, lines: Callable[[], str]
) -> None:
    served = await start("calls.max_attempts=1", tenants=tenants())
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{served.base_url}/chat/completions"

    async with served.http.post(url, json=asked(stream=True), headers=headers) as whole:
        events = await whole.text()
    provider_server.set_script({"synthetic": True, "latency": {"per_output_token_s": 0.5}})
    async with served.http.post(url, json=asked(stream=True), headers=headers) as left:
        await left.content.readany()
    provider_server.set_script(OUTAGE)
    async with served.http.post(url, json=asked(stream=True), headers=headers) as failed:
        error = await failed.text()

    assert "[DONE]" in events
    assert failed.status == 502
    said = "\n".join([lines(), error, *map(str, served.tally.values)])
    assert "request.failed" in said
    assert not any(secret in said for secret in (SECRET, KEY))
