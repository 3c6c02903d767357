"""OpenTelemetry spans in the words of the GenAI conventions: one a request, which goes on with the
client's trace, and below it one for each call of a vendor. Whoever installs an SDK sees them;
without one they cost microseconds. Prompts, completions and keys are not in them.

They are made when a request is over, with the times at which things were: nothing has to be carried
through streams that are resumed in other tasks. Tokens stand with the calls only, so that a sum
over spans counts them once. Nothing of a trace is sent to vendors.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/, as of 2026-11.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from moa.catalog import Account
from moa.serving.course import SentCall

_TRACER = "moa.serving"
_OPERATION = "chat"
_TRACE_HEADERS = ("traceparent", "tracestate")
_PROVIDERS = {"anthropic": "anthropic", "gemini": "gcp.gemini"}
"""Wire → the conventions' name of who speaks it. OpenAI's wire is spoken by many: those are called
as their account is."""


class Served(NamedTuple):
    """A request that is over."""

    asked_model: str
    """As the client named it."""
    model: str
    """Catalog id of who answered."""
    rule: str
    """Of the decision."""
    tenant: str
    seconds: float
    """From the request to its end."""
    cost_usd: float
    """The vendors' bill."""
    stream: bool
    failed: str
    """Class of the error that it ended with."""


def parent_of(headers: Mapping[str, str]) -> Context:
    """The span of whoever serves HTTP (newer versions of FastAPI make one), or else the client's
    trace, where it has sent one that can be read.

    Args:
        headers: of a request, names in small letters or case-insensitive.
    """
    if trace.get_current_span().get_span_context().is_valid:
        return get_current()
    carrier = {name: headers[name] for name in _TRACE_HEADERS if name in headers}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def provider_names(accounts: Mapping[str, Account]) -> dict[str, str]:
    """Account → the conventions' name of its provider."""
    return {name: _PROVIDERS.get(account.wire, name) for name, account in accounts.items()}


def record(
    served: Served,
    calls: Sequence[SentCall],
    providers: Mapping[str, str],
    parent: Context | None,
    clock_s: float,
) -> None:
    """A request is over.

    Args:
        served: itself.
        calls: that were made for it.
        providers: of `provider_names`.
        parent: of `parent_of`.
        clock_s: now, by the clock of the calls.
    """
    now = time.time_ns()
    parent = Context() if parent is None else parent
    above = trace.get_current_span(parent).get_span_context()
    here = above.is_valid and not above.is_remote
    tracer = trace.get_tracer(_TRACER)
    span = tracer.start_span(
        f"{_OPERATION} {served.asked_model}",
        parent,
        kind=SpanKind.INTERNAL if here else SpanKind.SERVER,
        start_time=now - int(served.seconds * 1e9),
    )
    if span.is_recording():
        span.set_attributes(
            {
                "gen_ai.operation.name": _OPERATION,
                "gen_ai.request.model": served.asked_model,
                "gen_ai.response.model": served.model,
                "moa.rule": served.rule,
                "moa.tenant": served.tenant,
                "moa.cost_usd": served.cost_usd,
            }
        )
        _fail(span, served.failed)
        below = trace.set_span_in_context(span, parent)
        for call in calls:
            _record_call(tracer, below, call, providers, served.stream, now - int(clock_s * 1e9))
    span.end(now)


def _record_call(
    tracer: Tracer,
    parent: Context,
    call: SentCall,
    providers: Mapping[str, str],
    stream: bool,
    origin: int,
) -> None:
    """One call of a vendor; `origin` is its clock's zero, in ns since 1970."""
    span = tracer.start_span(
        f"{_OPERATION} {call.model.api_name}",
        parent,
        kind=SpanKind.CLIENT,
        start_time=origin + int(call.sent_at * 1e9),
    )
    span.set_attributes(
        {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": providers[call.model.provider],
            "gen_ai.request.model": call.model.api_name,
            "gen_ai.request.stream": stream,
            "moa.model": call.model.id,
        }
    )
    if stream and call.first_piece_at is not None:
        waited_s = call.first_piece_at - call.sent_at
        span.set_attribute("gen_ai.response.time_to_first_chunk", waited_s)
    _tell_answer(span, call)
    _fail(span, call.error)
    ended_at = call.sent_at if call.ended_at is None else call.ended_at
    span.end(origin + int(ended_at * 1e9))


def _tell_answer(span: Span, call: SentCall) -> None:
    if call.completion is None:
        return
    usage = call.completion.usage
    span.set_attributes(
        {
            "gen_ai.response.model": call.completion.served_model,
            "gen_ai.response.id": call.completion.response_id,
            "gen_ai.response.finish_reasons": [call.completion.finish_reason],
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        }
    )


def _fail(span: Span, error: str) -> None:
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
