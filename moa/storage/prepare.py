"""Rows of a query log → queries in the project's own form. A bad row is kept, with its defect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from moa.catalog import LANES
from moa.request import MOST_OUTPUT_TOKENS, ChatRequest
from moa.schema import PREPARED_QUERIES, QUERIES, agree
from moa.storage.duplicates import CLASH, FOLLOWER, TWIN, generated_id
from moa.storage.log_columns import ABOUT_THE_QUERY, NOT_UTF8, cells, text_lists
from moa.storage.openai_batch import BadLine, read_id, read_line
from moa.storage.query_log import LINE

NO_ID = "query_id_missing"
NO_PROMPT = "prompt_missing"
TWO_PROMPTS = "prompt_and_messages"
MALFORMED = "request_malformed"
ID_SEEN = "query_id_seen_before"
DEFECTS = (NO_ID, NO_PROMPT, TWO_PROMPTS, MALFORMED, ID_SEEN)
"""Why a row is no request; the first part of `defect`, and the reason of its dead letter."""
_PLAIN = ("prompt", "system", "max_output_tokens")
"""Columns that need no validation beyond their types."""
_WHOLE = ("max_output_tokens", "seed", "top_logprobs")
"""Whole numbers, perhaps written as doubles."""
_JSON = ("messages", "tools", "tool_choice", "response_format")
"""Columns that may hold JSON as text."""
_SCHEMAS = ("parameters", "schema")
"""Keys of a request below which everything is the user's own: a null there is a value."""
_DETAIL_CHARS = 300


class About(NamedTuple):
    """What a row says besides its request."""

    allowed_models: list[str] | None = None
    allowed_lanes: list[str] | None = None
    min_grade: float | None = None
    """In single precision, as tables have it."""
    tags: Sequence[str] = ()
    reference: str | None = None


class Row(NamedTuple):
    """What one row of a log asks."""

    query_id: str | None
    request: str
    """Canonical JSON; "" where there is a defect."""
    text: str
    abilities: Sequence[str]
    max_output_tokens: int | None
    other_input_tokens: float
    defect: str | None
    about: About = About()


def rows_of(table: pa.Table) -> Iterator[Row]:
    """What each row of a table of `read_partition` asks, in order."""
    if LINE in table.column_names:
        return map(_line, table.column(LINE).to_pylist())
    return _columns(table)


def ids_of(table: pa.Table) -> list[str | None]:
    """The ids of `rows_of`, many times as fast."""
    if LINE in table.column_names:
        return [_id(read_id(line)) for line in table.column(LINE).to_pylist()]
    return [_id(one) for one in cells(table.column("query_id"))]


def prepare(table: pa.Table, partition: int, duplicates: pa.Table) -> pa.Table:
    """Rows of a partition → `PREPARED_QUERIES`, without those that another row answers for.

    Args:
        table: of `read_partition`.
        partition: its number.
        duplicates: the rows of `DUPLICATES` in this partition.
    """
    marks = _marks(table, duplicates)
    numbers = table.column("row").to_pylist()
    kept = [
        (number, marks.get(number, NO_MARK), row)
        for number, row in zip(numbers, rows_of(table), strict=True)
        if marks.get(number, NO_MARK).kind not in (TWIN, FOLLOWER)
    ]
    named = [_named(row, mark, partition, number) for number, mark, row in kept]
    columns = {
        "query_id": [row.query_id for row in named],
        "partition": [partition] * len(named),
        "row": [number for number, _, _ in kept],
        "request": [row.request for row in named],
        "abilities": [row.abilities for row in named],
        "max_output_tokens": [row.max_output_tokens for row in named],
        "allowed_models": [row.about.allowed_models for row in named],
        "allowed_lanes": [row.about.allowed_lanes for row in named],
        "min_grade": [row.about.min_grade for row in named],
        "tags": [row.about.tags for row in named],
        "reference": [row.about.reference for row in named],
        "followers": [mark.followers for _, mark, _ in kept],
        "defect": [row.defect for row in named],
        "text": [row.text for row in named],
        "other_input_tokens": [row.other_input_tokens for row in named],
    }
    arrays = {
        name: pa.array(values, PREPARED_QUERIES.field(name).type)
        for name, values in columns.items()
    }
    return agree(pa.table(arrays), PREPARED_QUERIES, where=f"prepare {partition}")


def prepared_again(queries: pa.Table) -> pa.Table:
    """`QUERIES` as they were kept → `PREPARED_QUERIES`: the text is made of the request."""
    requests = queries.column("request").to_pylist()
    chats = [ChatRequest.model_validate_json(one) if one else None for one in requests]
    texts = ["" if chat is None else chat.text() for chat in chats]
    tokens = [0.0 if chat is None else chat.other_input_tokens() for chat in chats]
    table = queries.select(QUERIES.names)
    table = table.append_column("text", pa.array(texts, pa.string()))
    table = table.append_column("other_input_tokens", pa.array(tokens, pa.float32()))
    return agree(table, PREPARED_QUERIES, where="prepare again")


class _Mark(NamedTuple):
    kind: str | None
    query_id: str | None
    followers: Sequence[dict[str, Any]]


NO_MARK = _Mark(None, None, ())


def _marks(table: pa.Table, duplicates: pa.Table) -> dict[int, _Mark]:
    """Row → what the scan says of it, of the rows of a table that it says anything of."""
    if not duplicates.num_rows or not table.num_rows:
        return {}
    first, last = table.column("row")[0], table.column("row")[-1]
    rows = duplicates.column("row")
    here = duplicates.filter(
        pc.and_(pc.greater_equal(rows, first), pc.less_equal(rows, last))
    ).to_pylist()
    return {one["row"]: _Mark(one["kind"], one["query_id"], one["followers"]) for one in here}


def _named(row: Row, mark: _Mark, partition: int, number: int) -> Row:
    """The row under an id of its own."""
    if mark.kind == CLASH:
        seen = f"{ID_SEEN}: an earlier row has the id {row.query_id!r} and asks else"
        return row._replace(query_id=mark.query_id, defect=row.defect or seen)
    if row.query_id is None:
        return row._replace(query_id=mark.query_id or generated_id(partition, number))
    return row


def _columns(table: pa.Table) -> Iterator[Row]:
    names = [n for n in table.column_names if n not in ABOUT_THE_QUERY and n != "row"]
    columns = {name: cells(table.column(name)) for name in names}
    for name in _WHOLE:
        if name in columns and pa.types.is_floating(table.column(name).type):
            columns[name] = [_whole(value) for value in columns[name]]
    plain = _plain_only(table, [name for name in names if name not in _PLAIN])
    absent = [None] * table.num_rows
    short = zip(*(columns.get(name, absent) for name in _PLAIN), strict=True)
    rows = zip(ids_of(table), _about(table), plain, short, strict=True)
    for i, (query_id, about, is_plain, (prompt, system, limit)) in enumerate(rows):
        if (
            is_plain
            and isinstance(about, About)
            and prompt
            and isinstance(prompt, str)
            and (system is None or isinstance(system, str))
            and (limit is None or (isinstance(limit, int) and 1 <= limit <= MOST_OUTPUT_TOKENS))
        ):
            row = _plain_row(query_id, prompt, system, limit)
        elif isinstance(about, About):
            row = _whole_row(query_id, {name: columns[name][i] for name in names})
        else:
            yield _bad(query_id, MALFORMED, about)
            continue
        yield row._replace(about=about)


def _id(value: object) -> str | None:
    """An id, `None` for one that says nothing."""
    text = "" if value is None or value is NOT_UTF8 else str(value)
    return text if text.strip() else None


def _whole(value: object) -> object:
    """A whole number that a double holds."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _about(table: pa.Table) -> Iterator[About | str]:
    """What each row says besides its request; where that cannot be read, why not."""
    names = ABOUT_THE_QUERY.intersection(table.column_names) - {"query_id"}
    if not names:
        return repeat(About(), table.num_rows)
    absent = [None] * table.num_rows
    reads = {name: text_lists if name == "tags" else cells for name in About._fields}
    columns = (
        read(table.column(name)) if name in names else absent for name, read in reads.items()
    )
    return map(_about_one, zip(*columns, strict=True))


def _about_one(row: tuple[Any, ...]) -> About | str:
    """Of a row's cells; what is only passed on is left out where it cannot be read."""
    models, lanes, least, tags, reference = row
    if not (models is lanes is least is None):
        least = least if _says(least) else None
        if why := _why_unclear({"allowed_models": models, "allowed_lanes": lanes}, least):
            return why
        least = None if least is None else float(np.float32(least))
    return About(models, lanes, least, tags or (), None if reference is NOT_UTF8 else reference)


def _why_unclear(lists: dict[str, Any], least: float | None) -> str | None:
    """What is wrong with what a row allows."""
    for name, texts in lists.items():
        if texts is NOT_UTF8 or (texts is not None and None in texts):
            return f"{name} has a null or a text that is no UTF-8"
    for lane in lists["allowed_lanes"] or ():
        if lane not in LANES:
            return f"allowed_lanes takes {', '.join(LANES)}, not {lane!r}"
    if least is not None and not 0 <= least <= 1:
        return f"min_grade takes numbers from 0 to 1, not {least}"
    return None


def _plain_only(table: pa.Table, others: Sequence[str]) -> list[bool]:
    """Where all other columns of the request are null: most logs are prompts only."""
    plain = pa.array([True] * table.num_rows)
    for name in others:
        plain = pc.and_(plain, pc.is_null(table.column(name)))
    return list(plain.to_pylist())


def _plain_row(query_id: str | None, prompt: str, system: str | None, limit: int | None) -> Row:
    """As `_whole_row`, ten times as fast."""
    messages = f'{{"role":"user","content":{orjson.dumps(prompt).decode()}}}'
    text = prompt
    if system is not None:
        messages = f'{{"role":"system","content":{orjson.dumps(system).decode()}}},{messages}'
        text = f"[system]\n{system}\n\n[user]\n{prompt}"
    last = f',"max_output_tokens":{limit}' if limit is not None else ""
    request = f'{{"messages":[{messages}]{last}}}'
    defect = None if query_id is not None else _NO_ID_DEFECT
    return Row(query_id, request, text, (), limit, 0.0, defect)


def _whole_row(query_id: str | None, columns: dict[str, Any]) -> Row:
    given = {name: value for name, value in columns.items() if _says(value)}
    for name, value in given.items():
        if value is NOT_UTF8:
            return _bad(query_id, MALFORMED, f"{name} is no UTF-8")
    prompt, system = given.pop("prompt", None), given.pop("system", None)
    if prompt is not None and "messages" in given:
        return _bad(query_id, TWO_PROMPTS, "both prompt and messages are given: leave one null")
    if prompt is None and "messages" not in given:
        return _bad(query_id, NO_PROMPT, "neither prompt nor messages are given")
    try:
        request = {name: _value(name, value) for name, value in given.items()}
    except ValueError as error:
        return _bad(query_id, MALFORMED, str(error))
    messages = request.get("messages", [{"role": "user", "content": prompt}])
    if system is not None and isinstance(messages, list):
        messages = [{"role": "system", "content": system}, *messages]
    return _validated(query_id, {**request, "messages": messages})


def _says(value: object) -> bool:
    """Whether a cell says anything: pandas writes a missing number as NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _line(line: bytes) -> Row:
    try:
        query_id, request = read_line(line)
    except BadLine as error:
        return _bad(_id(error.query_id), MALFORMED, str(error))
    return _validated(_id(query_id), request)


def _validated(query_id: str | None, request: dict[str, Any]) -> Row:
    try:
        chat = ChatRequest.model_validate(_without_nulls(request))
        canonical = chat.canonical()
        if chat.tools or chat.response_format:
            from_json(canonical)  # as those who send it will read it: 200 levels at most
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return _bad(query_id, MALFORMED, "; ".join(problems).replace(" after validation", ""))
    except (RecursionError, orjson.JSONEncodeError, ValueError):
        return _bad(query_id, MALFORMED, "its JSON is nested too deeply")
    defect = None if query_id is not None else _NO_ID_DEFECT
    return Row(
        query_id,
        canonical,
        chat.text(),
        chat.abilities(),
        chat.max_output_tokens,
        chat.other_input_tokens(),
        defect,
    )


_NO_ID_DEFECT = f"{NO_ID}: the row has no query id"


def _bad(query_id: str | None, reason: str, detail: str) -> Row:
    return Row(query_id, "", "", (), None, 0.0, f"{reason}: {detail[:_DETAIL_CHARS]}")


def _value(name: str, value: JsonValue) -> JsonValue:
    """A cell as JSON has it: structs without what is null in them, JSON text parsed."""
    if name not in _JSON:
        return value
    if not isinstance(value, str):
        return _without_nulls(value, but=())  # in a struct, what was never there is null
    if name == "tool_choice" and value in ("auto", "none", "required"):
        return value
    try:
        parsed: JsonValue = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError(f"{name} is no JSON") from None
    return parsed


def _without_nulls(value: JsonValue, *, but: Sequence[str] = _SCHEMAS) -> JsonValue:
    """Without the keys that say nothing, as SDKs write them, outside of the user's own schemas."""
    if isinstance(value, dict):
        return {
            key: one if key in but else _without_nulls(one, but=but)
            for key, one in value.items()
            if one is not None
        }
    if isinstance(value, list):
        return [_without_nulls(one, but=but) for one in value]
    return value
