from __future__ import annotations

import json
from collections.abc import Sequence

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.request import ChatRequest
from moa.schema import PREPARED_QUERIES
from moa.storage.duplicates import CLASH, DUPLICATES, FOLLOWER, LEADER, TWIN
from moa.storage.prepare import DEFECTS, prepare, rows_of
from moa.storage.query_log import LINE

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NONE = DUPLICATES.empty_table()


def raw(**columns: Sequence[object]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    columns.setdefault("query_id", [f"q{n}" for n in range(rows)])
    return pa.table({**columns, "row": pa.array(range(rows), pa.int64())})


@given(prompt=TEXT.filter(bool), system=st.none() | TEXT, limit=st.none() | st.integers(1, 99))
def test_the_fast_way_gives_what_validation_gives(
    prompt: str, system: str | None, limit: int | None
) -> None:
    columns = {
        "prompt": pa.array([prompt]),
        "system": pa.array([system], pa.string()),
        "max_output_tokens": pa.array([limit], pa.int64()),
    }
    plain = raw(**columns)
    whole = raw(**columns, top_logprobs=pa.array([None], pa.int64()), logprobs=[False])

    (fast,), (slow,) = rows_of(plain), rows_of(whole)

    chat = ChatRequest.model_validate_json(fast.request)
    assert chat.canonical() == fast.request
    assert orjson.loads(slow.request) == {**orjson.loads(fast.request), "logprobs": False}
    assert (fast.text, fast.max_output_tokens) == (slow.text, slow.max_output_tokens)
    assert chat.text() == fast.text
    assert chat.abilities() == list(fast.abilities) == []


def test_messages_come_as_structs_or_as_json() -> None:
    messages = [{"role": "user", "content": "Hi", "name": None}]

    one, two = (
        rows_of(raw(messages=[messages, messages])),
        rows_of(raw(messages=[json.dumps([{"role": "user", "content": "Hi"}])] * 2)),
    )

    assert [row.request for row in one] == [row.request for row in two]


def test_everything_that_a_log_can_say_reaches_the_request() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    table = raw(
        prompt=["Hi"], system=["Be brief"], max_output_tokens=[5], temperature=[0.5], stop=["x"],
        tools=[json.dumps([tool])], tool_choice=["required"],
        response_format=[{"type": "json_object"}],
    )  # fmt: skip

    (row,) = rows_of(table)

    assert orjson.loads(row.request) == {
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hi"},
        ],
        "max_output_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [tool],
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
    }
    assert row.abilities == ["json_object", "stop", "temperature", "tools"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": [None]}, "prompt_missing"),
        ({"prompt": [""]}, "request_malformed"),
        ({"prompt": ["Hi"], "query_id": [None]}, "query_id_missing"),
        (
            {"prompt": ["Hi"], "messages": ['[{"role":"user","content":"Hi"}]']},
            "prompt_and_messages",
        ),
        ({"messages": ["not JSON"]}, "request_malformed"),
        ({"messages": ['{"role":"user"}']}, "request_malformed"),
        ({"messages": ['[{"role":"robot","content":"Hi"}]']}, "request_malformed"),
        ({"prompt": ["Hi"], "temperature": [9.0]}, "request_malformed"),
        ({"prompt": ["Hi"], "max_output_tokens": [0]}, "request_malformed"),
    ],
)
def test_a_bad_row_is_kept_with_its_defect(columns: dict[str, list[object]], reason: str) -> None:
    table = raw(**{n: pa.array(v, pa.string()) if v == [None] else v for n, v in columns.items()})

    prepared = prepare(table, 3, NONE)

    (row,) = prepared.to_pylist()
    assert prepared.schema.equals(PREPARED_QUERIES)
    assert row["defect"].startswith(reason)
    assert row["defect"].partition(":")[0] in DEFECTS
    assert row["query_id"] == ("#3:0" if reason == "query_id_missing" else "q0")


def test_a_defect_never_quotes_the_conversation() -> None:
    table = raw(messages=['[{"role":"user","content":{"secret":"swordfish"}}]'])

    (row,) = rows_of(table)

    assert row.defect is not None
    assert "swordfish" not in row.defect


def test_what_the_scan_found_is_done() -> None:
    table = raw(prompt=list("abcde"))
    rows = [
        {"partition": 0, "row": 1, "kind": TWIN, "followers": []},
        {"partition": 0, "row": 2, "kind": CLASH, "followers": []},
        {"partition": 0, "row": 3, "kind": LEADER, "followers": ["q4", "other"]},
        {"partition": 0, "row": 4, "kind": FOLLOWER, "followers": []},
    ]

    prepared = prepare(table, 0, pa.Table.from_pylist(rows, schema=DUPLICATES))

    kept = {row["row"]: row for row in prepared.to_pylist()}
    assert kept.keys() == {0, 2, 3}
    assert kept[2]["query_id"] == "q2#0:2"
    assert kept[2]["defect"].startswith("query_id_seen_before")
    assert kept[3]["followers"] == ["q4", "other"]
    assert kept[0]["defect"] is None


def line(custom_id: object = "a", **body: object) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return orjson.dumps(
        {"custom_id": custom_id, "method": "POST", "body": {"messages": messages, **body}}
    )


def test_a_batch_line_is_the_request_that_its_body_says() -> None:
    lines = [line(model="gpt-4o", max_completion_tokens=9, n=1, stream=False, user="u")]

    (row,) = rows_of(raw(**{LINE: lines}))

    assert row.query_id == "a"
    assert orjson.loads(row.request) == {
        "messages": [{"content": "Hi", "role": "user"}],
        "max_output_tokens": 9,
    }


@pytest.mark.parametrize(
    ("text", "query_id", "said"),
    [
        (b"{", None, "no JSON"),
        (b"[1]", None, "no JSON object"),
        (line(n=2), "a", "body.n is 2"),
        (line(surprise=1), "a", "surprise"),
        (b'{"custom_id":"a","url":"/v1/embeddings","body":{}}', "a", "/v1/embeddings"),
        (b'{"custom_id":"a"}', "a", "no body"),
    ],
)
def test_a_bad_batch_line_is_told_why(text: bytes, query_id: str | None, said: str) -> None:
    (row,) = rows_of(raw(**{LINE: [text]}))

    assert row.query_id == query_id
    assert row.defect is not None
    assert said in row.defect
