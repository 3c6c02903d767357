"""What people, or models that judge, said of answers: pairs, ratings and thumbs, read from files.

A row of a Parquet or JSONL file says which of two answers to a query is better,

    {"query_id": "q1", "model_a": "v/x", "model_b": "v/y", "winner": "a"}

(`a`, `b` or `tie`), or how good one answer is, as a `rating` from 1 to 5, a `thumb` (`up`, `down`)
or a `grade` in [0, 1]:

    {"query_id": "q1", "model": "v/x", "rating": 4}

Either may have a `rater`, a `weight` (pairs; 1 by default), a `source` (the query's group), and a
`reason` why nothing was said. A row that cannot be read is a defect, and the others count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moa.errors import ConfigError
from moa.storage.object_store import filesystem_of

_SHARES = {
    "a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0,
    "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5,
}  # fmt: skip
"""Who won → the win's share of the first model; also as arenas write it."""


class Pair(NamedTuple):
    """One judgement of two answers to a query."""

    query_id: str
    model_a: str
    model_b: str
    share: float
    """Of the win that `model_a` gets: 1, 0, or 0.5 of a tie."""
    weight: float = 1.0
    rater: str = ""
    source: str | None = None


class Rating(NamedTuple):
    """One judgement of one answer."""

    query_id: str
    model: str
    grade: float | None
    """In [0, 1]; `None`: the rater could not tell."""
    rater: str = ""
    reason: str = ""
    """Why there is none."""


class Judgements(NamedTuple):
    """All that was said."""

    pairs: list[Pair]
    ratings: list[Rating]
    defects: list[str]
    """Of rows that cannot be read, as `FILE, row N: why`."""


class _Row(BaseModel):
    """As files have it. Columns that are not ours are left alone."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)

    query_id: str = Field(min_length=1)
    model_a: str | None = None
    model_b: str | None = None
    winner: str | None = None
    weight: float | None = Field(default=None, gt=0)
    model: str | None = None
    grade: float | None = Field(default=None, ge=0, le=1)
    rating: float | None = Field(default=None, ge=1, le=5)
    thumb: Literal["up", "down"] | None = None
    rater: str | None = None
    source: str | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> _Row:
        said = [one for one in (self.grade, self.rating, self.thumb) if one is not None]
        if self.model_a is None or self.model_b is None:
            if self.model is None:
                raise ValueError("it names neither model, nor model_a and model_b")
            if len(said) > 1 or not (said or self.reason):
                raise ValueError("give one of grade, rating and thumb")
        elif self.model is not None or said:
            raise ValueError("it judges one answer and two at once")
        elif self.model_a == self.model_b:
            raise ValueError("model_a and model_b are one model")
        elif self.winner is None and self.reason:
            return self
        elif self.winner not in (*_SHARES, self.model_a, self.model_b):
            raise ValueError(f"winner {self.winner!r} is none of a, b and tie")
        return self

    def pair(self) -> Pair | None:
        """What it says of two answers; `None` where that is nothing."""
        if self.model_a is None or self.model_b is None or self.winner is None:
            return None
        shares = {self.model_a: 1.0, self.model_b: 0.0, **_SHARES}
        return Pair(
            self.query_id,
            self.model_a,
            self.model_b,
            shares[self.winner],
            self.weight or 1.0,
            self.rater or "",
            self.source,
        )

    def rating_of_one(self) -> Rating | None:
        """What it says of one answer; `None` where it is about two."""
        if self.model is None:
            return None
        grade = self.grade
        if self.rating is not None:
            grade = (self.rating - 1) / 4
        elif self.thumb is not None:
            grade = float(self.thumb == "up")
        return Rating(self.query_id, self.model, grade, self.rater or "", self.reason or "")


def read_judgements(paths: Sequence[str]) -> Judgements:
    """Read files of judgements.

    Args:
        paths: `.parquet` or `.jsonl`: a path, s3://… or gs://….

    Raises:
        ConfigError: a file is not there, is no such file, or has not one row that can be read.
    """
    found = Judgements([], [], [])
    for path in paths:
        before, read = len(found.defects), 0
        for number, raw in _rows(path):
            try:
                _keep(found, _Row.model_validate(raw))
                read += 1
            except ValidationError as error:
                found.defects.append(f"{path}, row {number}: {_first(error)}")
        if not read:
            why = (*found.defects[before:], f"{path}: it is empty")[0].partition(": ")[2]
            raise ConfigError(
                f"{path} has no judgement that can be read ({why}): see moa/grading/README.md for "
                "what a row has"
            )
    return found


def _keep(found: Judgements, row: _Row) -> None:
    if (pair := row.pair()) is not None:
        found.pairs.append(pair)
    if (rating := row.rating_of_one()) is not None:
        found.ratings.append(rating)


def _rows(path: str) -> Iterator[tuple[int, object]]:
    """The rows of a file with their numbers, from 1; bad JSON is text, which is no row."""
    try:
        filesystem, name = filesystem_of(path)
        if path.endswith((".jsonl", ".jsonl.gz")):
            with filesystem.open_input_stream(name) as file:
                lines = file.read().split(b"\n")
            yield from ((n, _parsed(one)) for n, one in enumerate(lines, start=1) if one.strip())
            return
        table = pq.read_table(name, filesystem=filesystem)
        yield from enumerate(_plain(table), start=1)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"judgements: {path} cannot be read ({error}): correct it") from None


def _plain(table: pa.Table) -> Iterator[dict[str, Any]]:
    columns = [name for name in _Row.model_fields if name in table.column_names]
    for batch in table.select(columns).to_batches():
        yield from batch.to_pylist()


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line


def _first(error: ValidationError) -> str:
    """What is wrong, without what was given: it may be a user's text."""
    problem = error.errors(include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"].removeprefix("Value error, ")
