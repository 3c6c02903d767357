"""The columns of a query log: which there are, and the Arrow types that each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
from pyarrow import types


class Column(NamedTuple):
    """What a column of a Parquet log may be."""

    takes: str
    """In words."""
    accepts: Callable[[pa.DataType], bool]


def _text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind))


def _integer(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_null(kind))


def _number(kind: pa.DataType) -> bool:
    return _integer(kind) or bool(types.is_floating(kind))


def _list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_null(kind))


def _texts(kind: pa.DataType) -> bool:
    return _list(kind) and (types.is_null(kind) or _text(kind.value_type))


_TEXT = Column("text", _text)
_TEXTS = Column("a list of texts", _texts)
_INTEGER = Column("whole numbers", _integer)
_NUMBER = Column("numbers", _number)
_TRUTH = Column("true or false", lambda kind: bool(types.is_boolean(kind) or types.is_null(kind)))
_LIST_OR_JSON = Column(
    "a list of structs in OpenAI's form, or its JSON as text",
    lambda kind: _text(kind) or _list(kind),
)
_STRUCT_OR_JSON = Column(
    "a struct in OpenAI's form, or its JSON as text",
    lambda kind: _text(kind) or bool(types.is_struct(kind)),
)

COLUMNS: Mapping[str, Column] = {
    "query_id": Column("text or whole numbers", lambda kind: _text(kind) or _integer(kind)),
    "prompt": _TEXT,
    "messages": _LIST_OR_JSON,
    "system": _TEXT,
    "max_output_tokens": _INTEGER,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "seed": _INTEGER,
    "stop": Column("text or a list of texts", lambda kind: _text(kind) or _texts(kind)),
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "reasoning_effort": _TEXT,
    "logprobs": _TRUTH,
    "top_logprobs": _INTEGER,
    "tools": _LIST_OR_JSON,
    "tool_choice": _STRUCT_OR_JSON,
    "parallel_tool_calls": _TRUTH,
    "response_format": _STRUCT_OR_JSON,
    "allowed_models": _TEXTS,
    "tags": _TEXTS,
    "reference": _TEXT,
}
"""By our name."""
REQUIRED_ONE_OF = ("prompt", "messages")
ABOUT_THE_QUERY = frozenset({"query_id", "allowed_models", "tags", "reference"})
"""The columns that are no part of the request."""


def fits(ours: str, kind: pa.DataType) -> bool:
    """Whether a column of this type can be read as ours."""
    return COLUMNS[ours].accepts(kind)


def wanted(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Our name → the log's, of the columns that it has. What a mapping names is not read twice."""
    mapped = set(mapping.values())
    own = {name: name for name in COLUMNS if name in names and name not in mapped}
    return {**own, **mapping}
