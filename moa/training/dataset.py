"""Graded outcomes → what a router is fitted on. A missing grade is missing, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from moa.errors import ConfigError, SchemaError
from moa.planning.policy import FALLBACK
from moa.schema import GRADED_OUTCOMES, LOGGED_GRADES, OTHER_SOURCE, agree
from moa.storage.near_duplicates import text_group
from moa.storage.object_store import Folder
from moa.storage.outcome_table import GRADES, QUERIES, one_grade_each, read_log

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """n queries and m models."""

    query_ids: tuple[str, ...]
    """Ascending."""
    texts: tuple[str, ...]
    models: tuple[str, ...]
    """Catalog ids."""
    grade: Floats
    """In [0, 1], NaN where missing; shape (n, m)."""
    input_tokens: Floats
    """NaN where missing; shape (n, m)."""
    output_tokens: Floats
    """NaN where missing; shape (n, m)."""
    sources: tuple[str, ...]
    """Of each query, shape (n,)."""
    groups: tuple[str, ...]
    """Queries with the same normalised prompt share one; shape (n,)."""
    other_grade: Floats
    """Of k models beyond `models`, NaN where missing; shape (n, k)."""
    weight: Floats | None = None
    """Of each grade: one over the probability with which its model was chosen, up to a bound, NaN
    where missing; shape (n, m). `None`: each counts once."""

    def folds(self, count: int) -> NDArray[np.intp]:
        """A fold of each query, below `count`: by its group's hash, so that it never changes."""
        hashed = (xxhash.xxh3_64_intdigest(group.encode()) % count for group in self.groups)
        return np.fromiter(hashed, np.intp, len(self.groups))

    def only(self, split: NDArray[np.bool_] | NDArray[np.intp]) -> Dataset:
        """Some of the queries, as a mask of shape (n,), or as numbers."""
        rows = np.flatnonzero(split) if split.dtype == np.bool_ else split
        numbers = rows.tolist()

        def taken(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[row] for row in numbers)

        return Dataset(
            taken(self.query_ids),
            taken(self.texts),
            self.models,
            self.grade[rows],
            self.input_tokens[rows],
            self.output_tokens[rows],
            taken(self.sources),
            taken(self.groups),
            self.other_grade[rows],
            None if self.weight is None else self.weight[rows],
        )

    def of_models(self, models: Sequence[str]) -> Dataset:
        """The same queries and fewer models."""
        columns = [self.models.index(model) for model in models]
        return replace(
            self,
            models=tuple(models),
            grade=self.grade[:, columns],
            input_tokens=self.input_tokens[:, columns],
            output_tokens=self.output_tokens[:, columns],
            weight=None if self.weight is None else self.weight[:, columns],
        )


LEAST_OTHER = 200
"""Grades of a model beyond those asked for, for it to tell how easy queries are."""
EVERY_SPLIT = "*"
LOGGED = ("propensity", "rule", "graded_at")
"""Of `LOGGED_GRADES`: what is read where it is there."""


def read_dataset(
    folder: Path | str,
    models: Sequence[str],
    *,
    split: str,
    most_weight: float = 1.0,
    as_drawn: bool = False,
) -> Dataset:
    """The queries of one split that at least one of the models has a grade on.

    Args:
        folder: with `queries.parquet`, see `read_queries`, and `graded_outcomes.parquet`, see
            `read_grades`; as in `moa/recordings`, or an outcome table: a path, s3://… or gs://….
        models: catalog ids.
        split: `train`, `demo`, whatever the queries say, or `EVERY_SPLIT`.
        most_weight: bound of a grade's weight; at 1 each counts once.
        as_drawn: for estimates by propensities. Answers that came of a failure have no grade then,
            and queries that chance sent to another model are read as well, without any: to leave
            them out would be to choose queries by what was drawn.

    Raises:
        ConfigError: a file or a column is missing, or a model has no graded outcome.
    """
    queries = read_queries(folder)
    if split != EVERY_SPLIT:
        queries = queries.filter(pc.field("split") == split)
    everybody = read_grades(folder).filter(
        pc.field("query_id").isin(queries.column("query_id").combine_chunks())
    )
    graded = everybody.filter(pc.field("model").isin(list(models)))
    wanted = graded.select(["query_id"])
    if as_drawn:
        by_chance = everybody.filter(pc.or_(_fell_back(everybody), _drawn(everybody)))
        wanted = pa.concat_tables([wanted, by_chance.select(["query_id"])])
        graded = graded.filter(pc.invert(_fell_back(graded)))
    seen = pc.is_in(queries.column("query_id"), value_set=pc.unique(wanted.column("query_id")))
    asked = queries.filter(seen).sort_by("query_id")
    ids = asked.column("query_id")
    unseen = sorted(set(models) - set(graded.column("model").unique().to_pylist()))
    if unseen:
        raise ConfigError(f"{folder} has no graded outcome of {', '.join(unseen)} in {split}")

    def matrix(name: str) -> Floats:
        return _matrix(graded, name, ids, models)

    def texts(name: str) -> tuple[str, ...]:
        return tuple(map(str, asked.column(name).to_pylist()))

    return Dataset(
        texts("query_id"),
        texts("prompt"),
        tuple(models),
        matrix("grade"),
        matrix("input_tokens"),
        matrix("output_tokens"),
        texts("source"),
        texts("duplicate_group"),
        _matrix(everybody, "grade", ids, _others(everybody, models)),
        _weight(graded, ids, models, most_weight),
    )


def _fell_back(graded: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Whether a row is of an answer that came of a failure."""
    if "rule" not in graded.column_names:
        return pa.array(np.zeros(len(graded), bool))
    return pc.fill_null(pc.equal(graded.column("rule"), FALLBACK), False)


def _drawn(graded: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Whether another model could have been drawn for a row's query."""
    if "propensity" not in graded.column_names:
        return pa.array(np.zeros(len(graded), bool))
    return pc.fill_null(pc.less(graded.column("propensity"), 1), False)


def _weight(
    graded: pa.Table, ids: pa.ChunkedArray, models: Sequence[str], most: float
) -> Floats | None:
    """One over the propensity, up to `most`; one that is not known counts as 1."""
    if most == 1 or "propensity" not in graded.column_names:
        return None
    propensity = _matrix(graded, "propensity", ids, models)
    known = ~np.isnan(_matrix(graded, "grade", ids, models))
    return np.where(known, np.minimum(1 / np.nan_to_num(propensity, nan=1.0), most), np.nan)


def _others(graded: pa.Table, models: Sequence[str]) -> list[str]:
    """Models with `LEAST_OTHER` grades or more, beyond those asked for."""
    counts = pc.value_counts(graded.column("model"))
    return sorted(
        one["values"]
        for one in counts.to_pylist()
        if one["counts"] >= LEAST_OTHER and one["values"] not in models
    )


def _matrix(graded: pa.Table, name: str, ids: pa.ChunkedArray, models: Sequence[str]) -> Floats:
    """A column as (n, m), NaN where there is no row."""
    rows = pc.index_in(graded.column("query_id"), value_set=ids.combine_chunks())
    columns = pc.index_in(graded.column("model"), value_set=pa.array(models, pa.string()))
    there = pc.and_(rows.is_valid(), columns.is_valid()).to_numpy()
    values = np.full((len(ids), len(models)), np.nan)
    places = (
        rows.fill_null(0).to_numpy()[there],
        columns.fill_null(0).to_numpy()[there],
    )
    values[places] = graded.column(name).cast(pa.float64()).to_numpy()[there]
    return values


def read_queries(folder: Path | str) -> pa.Table:
    """The queries of a folder: `query_id`, `prompt`, and what may be left out in one's own logs:
    `split` (all are `train` then), `source` (one for all), and `duplicate_group` (queries whose
    prompts differ in case and spaces only).

    Raises:
        ConfigError: there is no such file, or it has no such columns.
    """
    path = f"{folder}/{QUERIES}"
    queries = read_log(Folder(str(folder)), QUERIES)
    for name in ("query_id", "prompt"):
        if name not in queries.column_names:
            raise ConfigError(f"{path} has no column {name!r}; it has {queries.column_names}")
    queries = _as_text(queries, path)
    if pc.count_distinct(queries.column("query_id")).as_py() < len(queries):
        raise ConfigError(f"{path} has a query_id more than once: leave out the repetitions")
    if "split" not in queries.column_names:
        queries = queries.append_column("split", pa.array(["train"] * len(queries)))
    if "source" not in queries.column_names:
        queries = queries.append_column("source", pa.array([OTHER_SOURCE] * len(queries)))
    if "duplicate_group" not in queries.column_names:
        prompts = queries.column("prompt").to_pylist()
        groups = [text_group(str(prompt)) for prompt in prompts]
        queries = queries.append_column("duplicate_group", pa.array(groups))
    return queries


def _as_text(queries: pa.Table, path: str) -> pa.Table:
    """The columns that are read as strings, whatever type of text or number they were."""
    for place, name in enumerate(queries.column_names):
        if name not in ("query_id", "prompt", "split", "source", "duplicate_group"):
            continue
        column = queries.column(name)
        if column.null_count:
            raise ConfigError(
                f"{path}: {column.null_count:,} of {len(column):,} rows have no {name}: fill them "
                "in, or leave out these rows"
            )
        try:
            queries = queries.set_column(place, name, column.cast(pa.string()))
        except pa.ArrowException as error:
            raise ConfigError(f"{path}: column {name!r} is no text: {error}") from None
    return queries


def read_grades(folder: Path | str) -> pa.Table:
    """The known grades of a folder, one of each query and model: `GRADED_OUTCOMES`, and the columns
    `LOGGED` where they are there.

    Of several rows of one query and model one counts, see `one_grade_each`.

    Raises:
        ConfigError: there is no such file, or it is none of grades in [0, 1].
    """
    path = f"{folder}/{GRADES}"
    return one_grade_each(_graded(read_log(Folder(str(folder)), GRADES), path))


def _graded(table: pa.Table, path: str) -> pa.Table:
    more = [LOGGED_GRADES.field(name) for name in LOGGED if name in table.column_names]
    read = pa.schema([*GRADED_OUTCOMES, *(field.with_nullable(True) for field in more)])
    try:
        graded = agree(table, read, where=path)
    except SchemaError as error:
        raise ConfigError(f"{error}: it must be as GRADED_OUTCOMES of moa/schema.py") from None
    _check_within(graded.column("grade"), path, "grades", "scale them; a missing one is null")
    if "propensity" in graded.column_names:
        remedy = "give the probability with which the model was chosen; null counts as 1"
        _check_within(graded.column("propensity"), path, "propensities", remedy)
        if pc.any(pc.equal(graded.column("propensity"), 0)).as_py():
            raise ConfigError(f"{path}: a propensity is 0, and such a model is never chosen")
    return graded


def _check_within(column: pa.ChunkedArray, path: str, what: str, remedy: str) -> None:
    low, high = pc.min_max(column).as_py().values()
    if low is not None and not 0 <= low <= high <= 1:
        raise ConfigError(
            f"{path}: {what} reach from {low:g} to {high:g}, and must be in [0, 1]: {remedy}"
        )
