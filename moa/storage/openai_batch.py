"""A line of OpenAI's Batch format → a query: `{"custom_id": …, "url": …, "body": {…}}`."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

ENDPOINT = "/v1/chat/completions"
_RENAMED = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
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


def read_line(line: bytes) -> BatchLine:
    """Read one line.

    Raises:
        ValueError: the line is no such request; the message says why, without its content.
    """
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ValueError("the line is no JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"the line is no JSON object but {type(document).__name__}")
    custom_id = document.get("custom_id")
    query_id = None if custom_id is None else str(custom_id)
    try:
        return BatchLine(query_id, _request(document))
    except ValueError as error:
        raise BadLine(query_id, str(error)) from None


class BadLine(ValueError):
    """A line whose id can be read, and whose request cannot."""

    def __init__(self, query_id: str | None, detail: str) -> None:
        super().__init__(detail)
        self.query_id = query_id


def _request(document: dict[str, Any]) -> dict[str, Any]:
    url = document.get("url", ENDPOINT)
    if url != ENDPOINT:
        raise ValueError(f"url is {url!r}; only {ENDPOINT} is answered")
    body = document.get("body")
    if not isinstance(body, dict):
        raise ValueError("there is no body object")
    request: dict[str, Any] = {}
    for name, value in body.items():
        if name in _NOT_PART_OF_THE_REQUEST or value is None:
            continue
        if name in _DEFAULTS:
            if value != _DEFAULTS[name]:
                raise ValueError(f"body.{name} is {value!r}; only {_DEFAULTS[name]!r} is answered")
            continue
        request[_RENAMED.get(str(name), str(name))] = value
    return request
