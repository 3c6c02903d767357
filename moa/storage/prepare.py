"""Rows of a query log → queries in the project's own form. A bad row is kept, with its defect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue, ValidationError

from moa.request import ChatRequest
from moa.schema import PREPARED_QUERIES, agree
from moa.storage.duplicates import CLASH, FOLLOWER, TWIN
from moa.storage.log_columns import ABOUT_THE_QUERY
from moa.storage.openai_batch import BadLine, read_line
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
_JSON = ("messages", "tools", "tool_choice", "response_format")
"""Columns that may hold JSON as text."""
_DETAIL_CHARS = 300


class Row(NamedTuple):
    """What one row of a log asks."""

    query_id: str | None
    request: str
    """Canonical JSON; "" where there is a defect."""
    text: str
    abilities: Sequence[str]
    max_output_tokens: int | None
    defect: str | None


def rows_of(table: pa.Table) -> Iterator[Row]:
    """What each row of a table of `read_partition` asks, in order."""
    if LINE in table.column_names:
        return map(_line, table.column(LINE).to_pylist())
    return _columns(table)


def prepare(table: pa.Table, partition: int, duplicates: pa.Table) -> pa.Table:
    """Rows of a partition → `PREPARED_QUERIES`, without those that another row answers for.

    Args:
        table: of `read_partition`.
        partition: its number.
        duplicates: the rows of `DUPLICATES` in this partition.
    """
    marks = _marks(table, duplicates)
    asked = list(rows_of(table))
    numbers = table.column("row").to_pylist()
    kept = [i for i, n in enumerate(numbers) if marks.get(n, NO_MARK).kind not in (TWIN, FOLLOWER)]
    if len(kept) < len(numbers):
        table = table.take(pa.array(kept, pa.int64()))
    named = [_named(asked[i], marks.get(numbers[i], NO_MARK), partition, numbers[i]) for i in kept]
    columns = {
        "query_id": [row.query_id for row in named],
        "partition": [partition] * len(named),
        "row": table.column("row"),
        "request": [row.request for row in named],
        "abilities": [row.abilities for row in named],
        "max_output_tokens": [row.max_output_tokens for row in named],
        "allowed_models": _column(table, "allowed_models", None),
        "tags": _column(table, "tags", []),
        "reference": _column(table, "reference", None),
        "followers": [marks.get(numbers[i], NO_MARK).followers for i in kept],
        "defect": [row.defect for row in named],
        "text": [row.text for row in named],
    }
    arrays = {
        name: pa.array(values, PREPARED_QUERIES.field(name).type)
        if isinstance(values, list)
        else values
        for name, values in columns.items()
    }
    return agree(pa.table(arrays), PREPARED_QUERIES, where=f"prepare {partition}")


class _Mark(NamedTuple):
    kind: str | None
    followers: Sequence[str]


NO_MARK = _Mark(None, ())


def _marks(table: pa.Table, duplicates: pa.Table) -> dict[int, _Mark]:
    """Row → what the scan says of it, of the rows of a table that it says anything of."""
    if not duplicates.num_rows or not table.num_rows:
        return {}
    first, last = table.column("row")[0], table.column("row")[-1]
    rows = duplicates.column("row")
    here = duplicates.filter(
        pc.and_(pc.greater_equal(rows, first), pc.less_equal(rows, last))
    ).to_pylist()
    return {one["row"]: _Mark(one["kind"], one["followers"]) for one in here}


def _named(row: Row, mark: _Mark, partition: int, number: int) -> Row:
    """The row under an id of its own."""
    if row.query_id is None:
        return row._replace(query_id=f"#{partition}:{number}")
    if mark.kind != CLASH:
        return row
    defect = row.defect or f"{ID_SEEN}: an earlier row has the id {row.query_id!r} and asks else"
    return row._replace(query_id=f"{row.query_id}#{partition}:{number}", defect=defect)


def _column(table: pa.Table, name: str, absent: list[str] | None) -> pa.ChunkedArray:
    """A column that is taken as it is; `absent` stands for a null and for a missing column."""
    kind = PREPARED_QUERIES.field(name).type
    if name not in table.column_names:
        return pa.array([absent] * table.num_rows, kind)
    column = table.column(name).cast(kind)
    return column if absent is None else pc.coalesce(column, pa.scalar(absent, kind))


def _columns(table: pa.Table) -> Iterator[Row]:
    names = [n for n in table.column_names if n not in ABOUT_THE_QUERY and n != "row"]
    columns = {name: table.column(name).to_pylist() for name in names}
    ids = table.column("query_id").cast(pa.string()).to_pylist()
    plain = _plain_only(table, [name for name in names if name not in _PLAIN])
    absent = [None] * table.num_rows
    short = [columns.get(name, absent) for name in _PLAIN]
    for i, is_plain in enumerate(plain):
        prompt, system, limit = (values[i] for values in short)
        if is_plain and prompt and (limit is None or limit >= 1):
            yield _plain_row(ids[i], prompt, system, limit)
        else:
            yield _whole_row(ids[i], {name: columns[name][i] for name in names})


def _plain_only(table: pa.Table, others: Sequence[str]) -> list[bool]:
    """Where all other columns of the request are null: most logs are prompts only."""
    plain = pa.array([True] * table.num_rows)
    for name in others:
        plain = pc.and_(plain, pc.is_null(table.column(name)))
    return list(plain.to_pylist())


def _plain_row(query_id: str | None, prompt: str, system: str | None, limit: int | None) -> Row:
    """As `_whole_row`, ten times as fast."""
    user = f'{{"content":{orjson.dumps(prompt).decode()},"role":"user"}}'
    first = f'"max_output_tokens":{limit},' if limit is not None else ""
    text = prompt
    if system is not None:
        user = f'{{"content":{orjson.dumps(system).decode()},"role":"system"}},{user}'
        text = f"[system]\n{system}\n\n[user]\n{prompt}"
    request = f'{{{first}"messages":[{user}]}}'
    defect = None if query_id is not None else _NO_ID_DEFECT
    return Row(query_id, request, text, (), limit, defect)


def _whole_row(query_id: str | None, columns: dict[str, Any]) -> Row:
    given = {name: value for name, value in columns.items() if value is not None}
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


def _line(line: bytes) -> Row:
    try:
        query_id, request = read_line(line)
    except BadLine as error:
        return _bad(error.query_id, MALFORMED, str(error))
    except ValueError as error:
        return _bad(None, MALFORMED, str(error))
    return _validated(query_id, request)


def _validated(query_id: str | None, request: dict[str, Any]) -> Row:
    try:
        chat = ChatRequest.model_validate(request)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return _bad(query_id, MALFORMED, "; ".join(problems))
    defect = None if query_id is not None else _NO_ID_DEFECT
    return Row(
        query_id,
        chat.canonical(),
        chat.text(),
        chat.abilities(),
        chat.max_output_tokens,
        defect,
    )


_NO_ID_DEFECT = f"{NO_ID}: the row has no query id"


def _bad(query_id: str | None, reason: str, detail: str) -> Row:
    return Row(query_id, "", "", (), None, f"{reason}: {detail[:_DETAIL_CHARS]}")


def _value(name: str, value: JsonValue) -> JsonValue:
    """A cell as JSON has it: structs without what is null in them, JSON text parsed."""
    if (
        name in _JSON
        and isinstance(value, str)
        and not (name == "tool_choice" and value in ("auto", "none", "required"))
    ):
        try:
            parsed: JsonValue = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise ValueError(f"{name} is no JSON") from None
        return parsed
    return _without_nulls(value)


def _without_nulls(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
