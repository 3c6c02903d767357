from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from moa.replay.process import ReplayServer
from moa.serving.course import LEFT
from moa.serving.spans import Served, parent_of, record
from tests.serving.conftest import KEY, STRAIGHT, Serving

Start = Callable[..., Awaitable[Serving]]
SECRET = "the-launch-code-is-4711"
ASKED: Any = [{"role": "user", "content": f"Repeat {SECRET}."}]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Exported(InMemorySpanExporter):
    """Spans that have ended; a test waits for the request's own, which comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    def export(self, spans: Any) -> Any:  # noqa: ANN401 - the SDK's own
        result = super().export(spans)
        if any(_is_request(span) for span in spans):
            self.over.set()
        return result

    async def request(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The request's span, and those of its calls in their order."""
        await self.over.wait()
        ended = self.get_finished_spans()
        (request,) = filter(_is_request, ended)
        calls = [span for span in ended if span.kind is SpanKind.CLIENT]
        assert all(span.parent is not None for span in calls)
        assert {span.parent.span_id for span in calls if span.parent} <= {request.context.span_id}
        return request, sorted(calls, key=lambda span: span.start_time or 0)


def _is_request(span: ReadableSpan) -> bool:
    """And not what FastAPI says of it."""
    scope = span.instrumentation_scope
    return scope is not None and scope.name == "moa.serving" and span.kind is not SpanKind.CLIENT


@pytest.fixture
def exported() -> Iterator[Exported]:
    """What an SDK sees. A process has one provider for good, so exporters come and go."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    exporter = Exported()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


async def test_a_stream_is_a_request_with_a_call_in_the_clients_trace(
    start: Start, exported: Exported
) -> None:
    served = await start()

    stream = await served.client.chat.completions.create(
        model=STRAIGHT, messages=ASKED, stream=True, extra_headers=CLIENTS
    )
    pieces = [piece async for piece in stream]
    server, (call,) = await exported.request()

    assert pieces
    assert f"{server.context.trace_id:032x}" == TRACE
    assert call.context.trace_id == server.context.trace_id
    told, called = dict(server.attributes or {}), dict(call.attributes or {})
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == STRAIGHT
    assert called["gen_ai.operation.name"] == "chat"
    assert called["gen_ai.provider.name"] == "openai"
    assert called["gen_ai.request.model"] == "gpt-4o-mini-2024-07-18"
    assert called["gen_ai.response.finish_reasons"] == ("stop",)
    assert int(str(called["gen_ai.usage.output_tokens"])) > 0
    first_s, lasted_ns = called["gen_ai.response.time_to_first_chunk"], _lasted_ns(call)
    assert 0 < float(str(first_s)) * 1e9 <= lasted_ns <= _lasted_ns(server)
    assert server.status.status_code is not StatusCode.ERROR


async def test_a_model_that_is_given_up_is_a_failed_call_of_a_good_request(
    start: Start, exported: Exported, provider_server: ReplayServer
) -> None:
    served = await start("calls.max_attempts=1")
    provider_server.set_script(
        {"synthetic": True, "outages": [{"provider": "openai", "to_s": 3600}]}
    )

    await served.client.chat.completions.create(
        model="moa", messages=[{"role": "user", "content": "What is 17 * 23?"}]
    )
    server, calls = await exported.request()

    failed = [call for call in calls if call.status.status_code is StatusCode.ERROR]
    assert len(failed) < len(calls)
    for call in failed:
        assert str((call.attributes or {})["error.type"]).isidentifier()
        assert (call.attributes or {})["gen_ai.provider.name"] == "openai"
    assert server.status.status_code is not StatusCode.ERROR
    assert "gen_ai.response.time_to_first_chunk" not in dict(calls[-1].attributes or {})


async def test_a_request_that_fails_says_with_what_and_no_span_has_words_or_keys(
    start: Start, exported: Exported, provider_server: ReplayServer
) -> None:
    served = await start("calls.max_attempts=1")
    provider_server.set_script(
        {"synthetic": True, "outages": [{"provider": "openai", "to_s": 3600}]}
    )

    with pytest.raises(openai.APIStatusError):
        await served.client.chat.completions.create(model=STRAIGHT, messages=ASKED)
    server, calls = await exported.request()

    assert server.status.status_code is StatusCode.ERROR
    assert (server.attributes or {})["error.type"] == (calls[-1].attributes or {})["error.type"]
    written = json.dumps([span.to_json() for span in (server, *calls)])
    assert not any(secret in written for secret in (SECRET, KEY))


async def test_a_call_that_the_client_has_left_says_so(
    start: Start, exported: Exported, provider_server: ReplayServer
) -> None:
    served = await start()
    provider_server.set_script({"synthetic": True, "latency": {"per_output_token_s": 0.5}})

    stream = await served.client.chat.completions.create(
        model=STRAIGHT, messages=ASKED, stream=True
    )
    await anext(stream)
    await stream.close()
    server, (call,) = await exported.request()

    assert (call.attributes or {})["error.type"] == LEFT
    assert server.status.status_code is not StatusCode.ERROR


@pytest.mark.parametrize("header", ["", "00-zz-1-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_trace_that_cannot_be_read_begins_anew(
    start: Start, exported: Exported, header: str
) -> None:
    served = await start()

    await served.client.chat.completions.create(
        model=STRAIGHT, messages=ASKED, extra_headers={"traceparent": header}
    )
    server, _ = await exported.request()

    assert server.context.trace_id != 0
    assert f"{server.context.trace_id:032x}" != TRACE


def test_without_a_span_of_fastapis_the_clients_is_the_parent(exported: Exported) -> None:
    served = Served("moa", STRAIGHT, "best_value", "open", 1.0, 0.0, False, "")

    record(served, [], {}, parent_of(CLIENTS), clock_s=0.0)
    (server,) = exported.get_finished_spans()

    assert server.kind is SpanKind.SERVER
    assert server.parent is not None
    assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, PARENT)
    assert _lasted_ns(server) == 10**9


def _lasted_ns(span: ReadableSpan) -> int:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.end_time - span.start_time
