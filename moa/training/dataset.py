"""Graded outcomes → what a router is fitted on. A missing grade is missing, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from moa.errors import ConfigError, SchemaError
from moa.schema import GRADED_OUTCOMES, agree

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
        )


LEAST_OTHER = 200
"""Grades of a model beyond those asked for, for it to tell how easy queries are."""
EVERY_SPLIT = "*"


def read_dataset(folder: Path, models: Sequence[str], *, split: str) -> Dataset:
    """The queries of one split that at least one of the models has a grade on.

    Args:
        folder: with `queries.parquet`, see `read_queries`, and `graded_outcomes.parquet`, which is
            `GRADED_OUTCOMES`; as in `moa/recordings`.
        models: catalog ids.
        split: `train`, `demo`, whatever the queries say, or `EVERY_SPLIT`.

    Raises:
        ConfigError: a file or a column is missing, or a model has no graded outcome.
    """
    queries = read_queries(folder)
    if split != EVERY_SPLIT:
        queries = queries.filter(pc.field("split") == split)
    everybody = _graded(folder / "graded_outcomes.parquet").filter(
        pc.field("query_id").isin(queries.column("query_id").combine_chunks())
    )
    graded = everybody.filter(pc.field("model").isin(list(models)))
    seen = pc.is_in(queries.column("query_id"), value_set=pc.unique(graded.column("query_id")))
    asked = queries.filter(seen).sort_by("query_id")
    ids = asked.column("query_id")
    unseen = sorted(set(models) - set(graded.column("model").unique().to_pylist()))
    if unseen:
        raise ConfigError(f"{folder} has no graded outcome of {', '.join(unseen)} in {split}")
    others = _others(everybody, models)

    def matrix(name: str) -> Floats:
        return _matrix(graded, name, ids, models)

    def texts(name: str) -> tuple[str, ...]:
        values: list[Any] = asked.column(name).to_pylist()
        return tuple(values)

    return Dataset(
        texts("query_id"),
        texts("prompt"),
        tuple(models),
        matrix("grade"),
        matrix("input_tokens"),
        matrix("output_tokens"),
        texts("source"),
        texts("duplicate_group"),
        _matrix(everybody, "grade", ids, others),
    )


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


def read_queries(folder: Path) -> pa.Table:
    """The queries of a folder: `query_id`, `prompt`, and what may be left out in one's own logs:
    `split` (all are `train` then), `source` (one for all), and `duplicate_group` (queries whose
    prompts differ in case and spaces only).

    Raises:
        ConfigError: there is no such file, or it has no such columns.
    """
    path = folder / "queries.parquet"
    queries = _read(path)
    for name in ("query_id", "prompt"):
        if name not in queries.column_names:
            raise ConfigError(f"{path} has no column {name!r}; it has {queries.column_names}")
    queries = _as_text(queries, path)
    if pc.count_distinct(queries.column("query_id")).as_py() < len(queries):
        raise ConfigError(f"{path} has a query_id more than once: leave out the repetitions")
    if "split" not in queries.column_names:
        queries = queries.append_column("split", pa.array(["train"] * len(queries)))
    if "source" not in queries.column_names:
        queries = queries.append_column("source", pa.array(["log"] * len(queries)))
    if "duplicate_group" not in queries.column_names:
        prompts = queries.column("prompt").to_pylist()
        plain = (" ".join(str(prompt).lower().split()) for prompt in prompts)
        groups = [xxhash.xxh3_64_hexdigest(text.encode()) for text in plain]
        queries = queries.append_column("duplicate_group", pa.array(groups))
    return queries


def _as_text(queries: pa.Table, path: Path) -> pa.Table:
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


def _graded(path: Path) -> pa.Table:
    try:
        graded = agree(_read(path), GRADED_OUTCOMES, where=str(path))
    except SchemaError as error:
        raise ConfigError(f"{error}: it must be as GRADED_OUTCOMES of moa/schema.py") from None
    low, high = pc.min_max(graded.column("grade")).as_py().values()
    if low is not None and not 0 <= low <= high <= 1:
        raise ConfigError(
            f"{path}: grades reach from {low:g} to {high:g}, and must be in [0, 1]: scale them; a "
            "missing one is null"
        )
    return _latest(graded)


def _latest(graded: pa.Table) -> pa.Table:
    """The rows with a grade; of several of one query and model the last: whoever grades again has
    thought again.

    The files of a folder are read in the order of their names, which the endpoint gives by time.
    """
    graded = graded.filter(pc.field("grade").is_valid())
    rows = graded.select(["query_id", "model"]).append_column("row", pa.array(range(len(graded))))
    last = rows.group_by(["query_id", "model"]).aggregate([("row", "max")]).column("row_max")
    return graded if len(last) == len(graded) else graded.take(pc.take(last, pc.sort_indices(last)))


def _read(path: Path) -> pa.Table:
    if not path.exists():  # a folder of files is one table, as the endpoint writes it
        raise ConfigError(f"{path} is not there: recordings names the folder that holds it")
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is no Parquet file: {error}") from None
