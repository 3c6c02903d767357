from __future__ import annotations

import pyarrow as pa
import pytest

from moa.request import ChatRequest
from moa.schema import QUERIES
from moa.storage.log_columns import (
    ABOUT_THE_QUERY,
    COLUMNS,
    NOT_UTF8,
    cells,
    fits,
    text_lists,
    wanted,
)

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
TOOL = pa.struct([("type", pa.string()), ("function", pa.struct([("name", pa.string())]))])


def latin1(*texts: str | None) -> pa.Array:
    """A string column whose bytes are no UTF-8, as a careless writer makes it."""
    binary = pa.array([t if t is None else t.encode("latin-1") for t in texts], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


@pytest.mark.parametrize(
    ("ours", "kind"),
    [
        ("query_id", pa.int64()),
        ("query_id", pa.dictionary(pa.int32(), pa.string())),
        ("prompt", pa.large_string()),
        ("prompt", pa.string_view()),
        ("prompt", pa.null()),
        ("messages", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("messages", pa.large_list(MESSAGE)),
        ("tools", pa.list_(TOOL)),
        ("max_output_tokens", pa.uint16()),
        ("max_output_tokens", pa.float64()),
        ("stop", pa.list_(pa.string())),
        ("tags", pa.list_(pa.string_view())),
        ("allowed_lanes", pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
        ("min_grade", pa.float32()),
        ("min_grade", pa.int64()),
        ("min_grade", pa.null()),
    ],
)
def test_a_type_that_can_be_read_fits(ours: str, kind: pa.DataType) -> None:
    assert fits(ours, kind)


@pytest.mark.parametrize(
    ("ours", "kind"),
    [
        ("query_id", pa.float64()),
        ("prompt", pa.binary()),
        ("messages", pa.list_(pa.int64())),
        ("messages", pa.list_(pa.string())),
        ("messages", pa.list_(pa.struct([("role", pa.string())]))),
        ("messages", MESSAGE),
        ("tools", pa.list_(pa.string())),
        ("temperature", pa.string()),
        ("logprobs", pa.int8()),
        ("allowed_models", pa.string()),
        ("allowed_lanes", pa.string()),
        ("min_grade", pa.string()),
    ],
)
def test_a_type_that_cannot_be_read_does_not_fit(ours: str, kind: pa.DataType) -> None:
    assert not fits(ours, kind)


def test_what_a_mapping_names_is_not_read_under_its_own_name_too() -> None:
    names = wanted(["id", "prompt", "text", "tags"], {"query_id": "id", "prompt": "text"})

    assert names == {"tags": "tags", "query_id": "id", "prompt": "text"}


def test_every_part_of_a_request_has_a_column() -> None:
    assert set(ChatRequest.model_fields) <= set(COLUMNS)


def test_what_a_query_says_besides_its_request_has_a_column_and_is_kept() -> None:
    assert set(COLUMNS) >= ABOUT_THE_QUERY
    assert set(QUERIES.names) >= ABOUT_THE_QUERY
    assert not ABOUT_THE_QUERY & set(ChatRequest.model_fields)


def test_a_cell_that_is_no_utf8_is_told_and_the_others_are_read() -> None:
    column = pa.chunked_array([latin1("good", "caf\xe9", None)])

    assert cells(column) == ["good", NOT_UTF8, None]


def test_a_message_that_is_no_utf8_is_told_and_the_others_are_read() -> None:
    content = latin1("caf\xe9", "tea")
    structs = pa.StructArray.from_arrays(
        [pa.array(["user", "user"]), content], fields=list(MESSAGE)
    )
    column = pa.chunked_array([pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), structs)])

    assert cells(column) == [NOT_UTF8, [{"role": "user", "content": "tea"}]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_lists_of_texts_lose_their_nulls(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array([["a", None], [], None], kind)])

    assert text_lists(column) == [["a"], [], None]


def test_a_text_of_a_list_that_is_no_utf8_keeps_its_place() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), latin1("caf\xe9", "tea"))

    assert text_lists(pa.chunked_array([lists])) == [["caf\ufffd", "tea"]]
