"""The columns of a query log: which there are, the Arrow types that each takes, and their cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
    )


def _integer(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_null(kind))


def _number(kind: pa.DataType) -> bool:
    return _integer(kind) or bool(types.is_floating(kind))


def _list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind))


def _texts(kind: pa.DataType) -> bool:
    return bool(types.is_null(kind)) or (_list(kind) and _text(kind.value_type))


def _structs(kind: pa.DataType, *needed: str) -> bool:
    """A list of structs with these fields."""
    if not _list(kind):
        return False
    inner = kind.value_type
    names = {field.name for field in inner} if types.is_struct(inner) else set()
    return bool(types.is_null(inner)) or (types.is_struct(inner) and names.issuperset(needed))


_TEXT = Column("text", _text)
_TEXTS = Column("a list of texts", _texts)
# pandas makes doubles of whole numbers as soon as one of them is missing.
_INTEGER = Column("whole numbers", _number)
_NUMBER = Column("numbers", _number)
_TRUTH = Column("true or false", lambda kind: bool(types.is_boolean(kind) or types.is_null(kind)))
_MESSAGES = Column(
    "a list of structs with role and content, or its JSON as text",
    lambda kind: _text(kind) or _structs(kind, "role", "content"),
)
_TOOLS = Column(
    "a list of structs in OpenAI's form, or its JSON as text",
    lambda kind: _text(kind) or _structs(kind, "function"),
)
_STRUCT_OR_JSON = Column(
    "a struct in OpenAI's form, or its JSON as text",
    lambda kind: _text(kind) or bool(types.is_struct(kind)),
)

COLUMNS: Mapping[str, Column] = {
    "query_id": Column("text or whole numbers", lambda kind: _text(kind) or _integer(kind)),
    "prompt": _TEXT,
    "messages": _MESSAGES,
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
    "tools": _TOOLS,
    "tool_choice": _STRUCT_OR_JSON,
    "parallel_tool_calls": _TRUTH,
    "response_format": _STRUCT_OR_JSON,
    "allowed_models": _TEXTS,
    "allowed_lanes": _TEXTS,
    "min_grade": _NUMBER,
    "tags": _TEXTS,
    "reference": _TEXT,
}
"""By our name."""
REQUIRED_ONE_OF = ("prompt", "messages")
ABOUT_THE_QUERY = frozenset(
    {"query_id", "allowed_models", "allowed_lanes", "min_grade", "tags", "reference"}
)
"""The columns that are no part of the request."""


class _NotUtf8:
    def __repr__(self) -> str:
        return "NOT_UTF8"


NOT_UTF8 = _NotUtf8()
"""In place of a cell that holds text in another encoding: Parquet's writers do not all check."""


def fits(ours: str, kind: pa.DataType) -> bool:
    """Whether a column of this type can be read as ours."""
    return COLUMNS[ours].accepts(kind)


def wanted(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Our name → the log's, of the columns that it has. What a mapping names is not read twice."""
    mapped = set(mapping.values())
    own = {name: name for name in COLUMNS if name in names and name not in mapped}
    return {**own, **mapping}


def cells(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python has them; `NOT_UTF8` for those that are no text."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(one) for one in column]


def _cell(one: pa.Scalar) -> object:
    try:
        return one.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8


def text_lists(column: pa.ChunkedArray) -> list[list[str] | None]:
    """Lists of texts without their nulls; what is no UTF-8 has U+FFFD in its place."""
    binary = column.cast(pa.list_(pa.binary())).to_pylist()
    return [
        one and [text.decode(errors="replace") for text in one if text is not None]
        for one in binary
    ]
