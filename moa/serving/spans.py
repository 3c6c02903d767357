"""One OpenTelemetry span a request, in the words of the GenAI conventions. Whoever installs an SDK
sees them; without one they cost microseconds. Prompts and completions are not in them.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

_TRACER = "moa.serving"


def record(
    operation: str,
    *,
    asked_model: str,
    model: str,
    provider: str,
    rule: str,
    seconds: float,
    tokens: tuple[int, int],
    cost_usd: float,
    failed: str = "",
) -> None:
    """A request is over.

    Args:
        operation: `chat`, whatever the path.
        asked_model: as the client named it.
        model: catalog id of who answered.
        provider: its account.
        rule: of the decision.
        seconds: from the request to its end.
        tokens: of prompt and output.
        cost_usd: the vendors' bill.
        failed: the class of the error that it ended with.
    """
    now = time.time_ns()
    span = trace.get_tracer(_TRACER).start_span(
        f"{operation} {asked_model}", kind=SpanKind.SERVER, start_time=now - int(seconds * 1e9)
    )
    if span.is_recording():
        span.set_attributes(
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": asked_model,
                "gen_ai.response.model": model,
                "gen_ai.usage.input_tokens": tokens[0],
                "gen_ai.usage.output_tokens": tokens[1],
                "moa.rule": rule,
                "moa.cost_usd": cost_usd,
            }
        )
        if failed:
            span.set_attribute("error.type", failed)
            span.set_status(Status(StatusCode.ERROR))
    span.end(now)
