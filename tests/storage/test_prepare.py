from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.request import ChatRequest
from moa.schema import PREPARED_QUERIES
from moa.storage.duplicates import CLASH, DUPLICATES, FOLLOWER, LEADER, TWIN
from moa.storage.prepare import DEFECTS, ids_of, prepare, rows_of
from moa.storage.query_log import LINE
from tests.storage.test_log_columns import latin1

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NONE = DUPLICATES.empty_table()


def raw(**columns: Sequence[object]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    columns.setdefault("query_id", [f"q{n}" for n in range(rows)])
    return pa.table({**columns, "row": pa.array(range(rows), pa.int64())})


def line(custom_id: object = "a", **body: object) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return orjson.dumps(
        {"custom_id": custom_id, "method": "POST", "body": {"messages": messages, **body}}
    )


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
    assert slow.request == fast.request[:-1] + ',"logprobs":false}'
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
        ({"prompt": ["Hi"], "max_output_tokens": [3_000_000_000]}, "request_malformed"),
        ({"prompt": ["Hi"], "max_output_tokens": [1.5]}, "request_malformed"),
        ({"prompt": ["Hi"], "allowed_models": [["a/b", None]]}, "request_malformed"),
        (
            {"prompt": ["Hi"], "allowed_lanes": [["live", None]]},
            "request_malformed: allowed_lanes has a null",
        ),
        (
            {"prompt": ["Hi"], "allowed_lanes": [["live", "Batch"]]},
            "request_malformed: allowed_lanes takes live, flex, batch, not 'Batch'",
        ),
        (
            {"prompt": ["Hi"], "min_grade": [1.5]},
            "request_malformed: min_grade takes numbers from 0 to 1, not 1.5",
        ),
        (
            {"prompt": ["Hi"], "min_grade": [-1]},
            "request_malformed: min_grade takes numbers from 0 to 1, not -1",
        ),
        (
            {"prompt": ["Hi"], "min_grade": [float("inf")]},
            "request_malformed: min_grade takes numbers from 0 to 1, not inf",
        ),
        ({"prompt": ["Hi"], "query_id": [" \t"]}, "query_id_missing"),
        ({"prompt": latin1("caf\xe9")}, "request_malformed: prompt is no UTF-8"),
        ({"prompt": ["Hi"], "system": latin1("caf\xe9")}, "request_malformed: system is no UTF-8"),
        ({"prompt": ["Hi"], "query_id": latin1("caf\xe9")}, "query_id_missing"),
        (
            {
                "prompt": ["Hi"],
                "tools": [
                    '[{"function":{"name":"f","parameters":'
                    + '{"a":' * 252
                    + "1"
                    + "}" * 252
                    + "}}]"
                ],
            },
            "request_malformed",
        ),
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


def test_pandas_way_to_write_a_whole_number_beside_a_missing_one_is_understood() -> None:
    table = raw(prompt=["Hi"] * 3, max_output_tokens=[5.0, float("nan"), None], seed=[1.0] * 3)

    asked = [orjson.loads(row.request) for row in rows_of(table)]

    assert [one.get("max_output_tokens") for one in asked] == [5, None, None]
    assert [one["seed"] for one in asked] == [1, 1, 1]


@given(
    st.lists(
        st.tuples(
            st.none() | st.lists(st.sampled_from(["live", "flex", "batch"])),
            st.none() | st.just(float("nan")) | st.floats(0, 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_lanes_and_the_least_grade_of_a_query_reach_the_table_and_not_the_request(
    wishes: list[tuple[list[str] | None, float | None]],
) -> None:
    lanes, least = map(list, zip(*wishes, strict=True))
    asked = {"prompt": ["Hi"] * len(wishes)}
    told = {
        "allowed_lanes": pa.array(lanes, pa.list_(pa.string())),
        "min_grade": pa.array(least, pa.float64()),
    }

    prepared = prepare(raw(**asked, **told), 0, NONE)

    assert prepared.column("defect").null_count == len(wishes)
    assert prepared.column("allowed_lanes").to_pylist() == lanes
    assert prepared.column("min_grade").to_pylist() == [
        None if one is None or math.isnan(one) else np.float32(one) for one in least
    ]
    assert prepared.column("request") == prepare(raw(**asked), 0, NONE).column("request")


@pytest.mark.parametrize(
    "least",
    [
        pa.array([1, 0, None], pa.int8()),
        pa.array([1.0, 0.0, np.nan], pa.float32()),
        pa.array(np.array([1.0, 0.0, np.nan], np.float16)),
    ],
    ids=lambda one: str(one.type),
)
def test_a_least_grade_may_be_any_kind_of_number(least: pa.Array) -> None:
    table = raw(prompt=["Hi"] * 3, min_grade=least)

    assert prepare(table, 0, NONE).column("min_grade").to_pylist() == [1.0, 0.0, None]


def test_columns_that_say_nothing_of_lanes_and_grades_say_nothing() -> None:
    nothing = pa.nulls(2)

    rows = prepare(raw(prompt=["Hi"] * 2, allowed_lanes=nothing, min_grade=nothing), 0, NONE)

    assert rows.equals(prepare(raw(prompt=["Hi"] * 2), 0, NONE))


def test_what_a_row_says_of_itself_loses_what_cannot_be_read() -> None:
    table = raw(prompt=["Hi"] * 2, tags=[["a", None], None], reference=latin1("caf\xe9", "tea"))

    one, other = prepare(table, 0, NONE).to_pylist()

    assert (one["defect"], one["tags"], one["reference"]) == (None, ["a"], None)
    assert (other["tags"], other["reference"]) == ([], "tea")


def test_the_order_of_a_schemas_properties_is_kept() -> None:
    parameters = {"type": "object", "properties": {"why": {}, "answer": {}, "because": {}}}
    tool = {"type": "function", "function": {"parameters": parameters, "name": "f"}}

    (row,) = rows_of(raw(prompt=["Hi"], tools=[json.dumps([tool])]))

    assert json.dumps(parameters, separators=(",", ":")) in row.request


def test_nulls_that_say_nothing_are_no_defect_and_those_of_a_schema_are_kept() -> None:
    message = {"role": "user", "content": "Hi", "refusal": None, "audio": None}
    parameters = {"properties": {"a": {"default": None, "enum": [1, None]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}

    rows = [
        *rows_of(raw(messages=[json.dumps([message])], tools=[json.dumps([tool])])),
        *rows_of(raw(**{LINE: [line(messages=[message], tools=[tool])]})),
    ]

    for row in rows:
        asked = orjson.loads(row.request)
        assert asked["messages"] == [{"role": "user", "content": "Hi"}]
        assert asked["tools"][0]["function"]["parameters"] == parameters


def test_what_a_prompt_has_besides_its_text_is_counted() -> None:
    tool = {"function": {"name": "f", "description": "x" * 4000}}
    call = {"id": "1", "function": {"name": "f", "arguments": "y" * 4000}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "user", "content": [image, image]},
    ]
    table = raw(
        prompt=["Hi", "Hi", None], tools=[None, json.dumps([tool]), None],
        messages=[None, None, json.dumps(turns)],
    )  # fmt: skip

    plain, tools, agent = prepare(table, 0, NONE).column("other_input_tokens").to_pylist()

    assert plain == 0
    assert 1000 < tools < 1050
    assert 3000 < agent < 3050


@pytest.mark.parametrize("depth", [10, 150, 190, 210, 249, 260, 900])
def test_what_is_nested_too_deeply_to_be_sent_is_a_defect(depth: int) -> None:
    schema = '{"a":' * depth + "1" + "}" * depth
    tools = f'[{{"function":{{"name":"f","parameters":{schema}}}}}]'

    (row,) = rows_of(raw(prompt=["Hi"], tools=[tools]))

    assert (row.defect is None) == (depth < 200)
    assert row.defect or ChatRequest.model_validate_json(row.request)


@given(st.lists(st.none() | st.sampled_from(["", " ", "a", "b "]), min_size=1))
def test_the_ids_are_those_of_the_rows(ids: list[str | None]) -> None:
    lines = [line(one) for one in ids]

    columns, batch = (
        raw(query_id=pa.array(ids, pa.string()), prompt=["Hi"] * len(ids)),
        raw(**{LINE: lines}),
    )

    assert ids_of(columns) == [row.query_id for row in rows_of(columns)] == ids_of(batch)
    assert ids_of(batch) == [row.query_id for row in rows_of(batch)]


def test_a_defect_never_quotes_the_conversation() -> None:
    table = raw(messages=['[{"role":"user","content":{"secret":"swordfish"}}]'])

    (row,) = rows_of(table)

    assert row.defect is not None
    assert "swordfish" not in row.defect


def test_what_the_scan_found_is_done() -> None:
    table = raw(prompt=list("abcde"))
    followers = [{"query_id": n, "tags": [n], "reference": None} for n in ("q4", "other")]
    rows = [
        {"partition": 0, "row": 1, "kind": TWIN, "followers": []},
        {"partition": 0, "row": 2, "kind": CLASH, "query_id": "q2#0:2", "followers": []},
        {"partition": 0, "row": 3, "kind": LEADER, "followers": followers},
        {"partition": 0, "row": 4, "kind": FOLLOWER, "followers": []},
    ]

    prepared = prepare(table, 0, pa.Table.from_pylist(rows, schema=DUPLICATES))

    kept = {row["row"]: row for row in prepared.to_pylist()}
    assert kept.keys() == {0, 2, 3}
    assert kept[2]["query_id"] == "q2#0:2"
    assert kept[2]["defect"].startswith("query_id_seen_before")
    assert kept[3]["followers"] == followers
    assert kept[0]["defect"] is None


def test_a_bad_batch_line_is_kept_with_its_id() -> None:
    (row,) = rows_of(raw(**{LINE: [line(surprise=1)]}))

    assert row.query_id == "a"
    assert row.defect is not None
    assert "surprise" in row.defect
