"""How events are written: JSON lines in jobs and files, colour on a terminal.

Events are past-tense facts (`dispatch.rate_limited`), values are keys. What users and models said
is never logged, and neither is a key: a value under such a name is replaced.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Style = Literal["auto", "json", "console"]

SECRET = frozenset(
    {
        "api_key", "arguments", "authorization", "body", "chat", "completion", "content",
        "credentials", "headers", "key", "messages", "password", "payload", "prompt", "reference",
        "request", "secret", "system", "text", "token", "tool_calls",
    }
)  # fmt: skip
"""Names under which conversations or keys travel in this project and in the vendors' SDKs."""
WITHHELD = "(never logged)"


def configure(
    style: Style = "auto",
    *,
    run_id: str | None = None,
    stream: TextIO | None = None,
    level: int = logging.INFO,
) -> None:
    """Set structlog up for this process; called again, it starts over.

    Args:
        style: `auto` is `console` when the stream is a terminal and `json` otherwise.
        run_id: on every line of this process, in whatever thread.
        stream: by default stderr: stdout belongs to what a job prints.
        level: events below it are dropped.
    """
    out = stream or sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _Constant(run_id=run_id) if run_id else _Constant(),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        withhold,
        *(_console(colours=out.isatty()) if console else _json()),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def withhold(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace what must not be logged, in mappings inside values too."""
    return {name: _withheld(name, value) for name, value in event.items()}


def _withheld(name: str, value: object) -> object:
    if name.lower() in SECRET:
        return WITHHELD
    if isinstance(value, Mapping):
        return {str(inner): _withheld(str(inner), held) for inner, held in value.items()}
    if isinstance(value, list | tuple):
        return [_withheld("", held) for held in value]
    return value


class _Constant:
    """Adds the same values to every event, where the event has none of its own."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**self._values, **event}


def _console(*, colours: bool) -> list[Processor]:
    # The default formatter shows local variables, and prompts are among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("event"),
        structlog.processors.JSONRenderer(serializer=_dumps),
    ]


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
