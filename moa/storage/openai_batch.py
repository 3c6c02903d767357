"""A line of OpenAI's Batch format → a query: `{"custom_id": …, "url": …, "body": {…}}`."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

ENDPOINT = "/v1/chat/completions"
_LIMITS = ("max_tokens", "max_completion_tokens")
"""Both names of `max_output_tokens`."""
_NOT_PART_OF_THE_REQUEST = frozenset(
    {
        "model", "user", "metadata", "store", "service_tier", "safety_identifier",
        "prompt_cache_key", "stream_options",
    }
)  # fmt: skip
"""What says who asks, or how the answer is bought and kept. The router chooses the model."""
_DEFAULTS = {"n": 1, "stream": False}
"""What may be said only as it is anyway: one whole completion."""


class BatchLine(NamedTuple):
    """What a line says."""

    query_id: str | None
    request: dict[str, Any]
    """Fields of a `ChatRequest`."""


class BadLine(ValueError):
    """A line whose request cannot be read; `query_id` is `None` where the id cannot be either."""

    def __init__(self, query_id: str | None, detail: str) -> None:
        super().__init__(detail)
        self.query_id = query_id


def read_line(line: bytes) -> BatchLine:
    """Read one line.

    Raises:
        BadLine: the line is no such request; the message says why, without its content.
    """
    document = _document(line)
    query_id = _query_id(document)
    try:
        return BatchLine(query_id, _request(document))
    except ValueError as error:
        raise BadLine(query_id, str(error)) from None


def read_id(line: bytes) -> str | None:
    """The id of a line; `None` where it has none that can be read."""
    try:
        return _query_id(_document(line))
    except BadLine:
        return None


def _document(line: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise BadLine(None, "the line is no JSON") from None
    if not isinstance(document, dict):
        raise BadLine(None, f"the line is no JSON object but {type(document).__name__}")
    return document


def _query_id(document: dict[str, Any]) -> str | None:
    custom_id = document.get("custom_id")
    if custom_id is None:
        return None
    if isinstance(custom_id, bool) or not isinstance(custom_id, (str, int)):
        kind = type(custom_id).__name__
        raise BadLine(None, f"custom_id is neither text nor a whole number but {kind}")
    return str(custom_id)


def _request(document: dict[str, Any]) -> dict[str, Any]:
    url = document.get("url", ENDPOINT)
    if url != ENDPOINT:
        raise ValueError(f"url is {url!r}; only {ENDPOINT} is answered")
    body = document.get("body")
    if not isinstance(body, dict):
        raise ValueError("there is no body object")
    request: dict[str, Any] = {}
    for name, value in body.items():
        if name in _NOT_PART_OF_THE_REQUEST or name in _LIMITS or value is None:
            continue
        if name in _DEFAULTS:
            if value != _DEFAULTS[name]:
                raise ValueError(f"body.{name} is {value!r}; only {_DEFAULTS[name]!r} is answered")
            continue
        request[name] = value
    limits = [body[name] for name in _LIMITS if body.get(name) is not None]
    if len(limits) == 2 and limits[0] != limits[1]:
        raise ValueError(f"body.{' and body.'.join(_LIMITS)} say different limits: give one")
    return {**request, "max_output_tokens": limits[0]} if limits else request
