"""The outcome table: what a router learns from and is judged by, and what grows every night.

`queries.parquet/date=D/RUN.parquet` holds `LOGGED_QUERIES`, and
`graded_outcomes.parquet/date=D/RUN.parquet` `LOGGED_GRADES`; DuckDB, Polars and pandas read either
folder as one table. A run's two files are each whole or absent; the grades come last, so that no
grade is there without its query.

To write a night, its rows are held in memory, and fingerprints of all prompts of the table, which
are made anew: about 7 kB and 0.2 to 0.4 ms for each of 200 words (20,000 and 40,000 of them, on two
busy cores, 2026-11-26). A table of a million queries needs 7 GB and five minutes for each night; of
larger logs `share` of `jobs/grade_outcomes.py` takes some, the same ones each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from moa.errors import ConfigError
from moa.schema import LOGGED_GRADES, LOGGED_QUERIES, agree
from moa.storage.near_duplicates import NearDuplicates, fingerprint, is_held_out
from moa.storage.object_store import Folder

QUERIES = "queries.parquet"
GRADES = "graded_outcomes.parquet"
TRAIN, HELD_OUT, NEITHER = "train", "held_out", "neither"
"""Sides of a query. `NEITHER`: it is nearly the same as queries of both sides."""
_BEGAN = b"began"
"""Of a file of queries: its run's moment, in its metadata."""
_PLACED = ["prompt", "duplicate_group", "split"]


@dataclass(frozen=True, slots=True)
class Night:
    """Whose rows are written: those of one run."""

    run_id: str
    began: datetime
    """By which it is told from another run that was given the same id."""

    @property
    def day(self) -> date:
        """On which the run began."""
        return self.began.date()

    @property
    def name(self) -> str:
        """Of its file in each of the two folders."""
        return f"date={self.day.isoformat()}/{self.run_id}.parquet"


class OutcomeTable:
    """A folder on a disk or in a bucket. One process at a time may write to it."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url)

    def check(self, night: Night) -> None:
        """Check that the table has no other run with this one's id.

        Raises:
            ConfigError: it has: one would replace the other, or be taken for it.
        """
        for name in self.folder.names(QUERIES):
            if name.rpartition("/")[2] != f"{night.run_id}.parquet":
                continue
            there = self.folder.read_table(f"{QUERIES}/{name}", columns=["run_id"])
            began = (there.schema.metadata or {}).get(_BEGAN, b"").decode()
            if began != night.began.isoformat():
                raise ConfigError(
                    f"{self.folder.url} has another run {night.run_id!r}, which began at {began}, "
                    f"and this one at {night.began.isoformat()}: grade this one into another "
                    f"table, or remove {name} from {GRADES} and {QUERIES}; give runs ids of their "
                    "own (run.id)"
                )

    def write(
        self, night: Night, queries: pa.Table, grades: pa.Table, *, held_out_share: float
    ) -> None:
        """Write a night's rows, in place of those that an earlier grading of it has written.

        Args:
            night: whose they are.
            queries: `LOGGED_QUERIES` but `split` and `duplicate_group`, which are added here.
            grades: `LOGGED_GRADES`.
            held_out_share: of the groups of near duplicates that begin tonight.

        Raises:
            ConfigError: as `check`.
        """
        self.check(night)
        placed = agree(self._placed(night, queries, held_out_share), LOGGED_QUERIES, where=QUERIES)
        began = {_BEGAN: night.began.isoformat().encode()}
        self.folder.put_table(f"{QUERIES}/{night.name}", placed.replace_schema_metadata(began))
        self.folder.put_table(f"{GRADES}/{night.name}", agree(grades, LOGGED_GRADES, where=GRADES))

    def _placed(self, night: Night, queries: pa.Table, held_out_share: float) -> pa.Table:
        """The queries with their groups and sides. What an earlier grading of the run has placed
        stays where it is; then those of other nights count, then those above in this one."""
        known = NearDuplicates()
        names = self.folder.names(QUERIES)
        for name in sorted(names, key=lambda one: one != night.name):
            table = self.folder.read_table(f"{QUERIES}/{name}", columns=_PLACED)
            for row in table.to_pylist():
                known.add(fingerprint(row["prompt"]), row["duplicate_group"], row["split"])
        groups, sides = [], []
        for prompt in queries.column("prompt").to_pylist():
            group, side = _place(known, prompt, held_out_share)
            groups.append(group)
            sides.append(side)
        added = queries.append_column("split", pa.array(sides, pa.string()))
        return added.append_column("duplicate_group", pa.array(groups, pa.string()))


def _place(known: NearDuplicates, prompt: str, held_out_share: float) -> tuple[str, str]:
    mark = fingerprint(prompt)
    group, sides = known.place(mark)
    if len(sides) > 1:
        side = NEITHER
    elif sides:
        (side,) = sides
    else:
        side = HELD_OUT if is_held_out(group, held_out_share) else TRAIN
    known.add(mark, group, side)
    return group, side


def read_log(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or a folder of such files as one table, in the order of their names.

    Args:
        folder: that holds it.
        name: of the file or the folder.
        columns: of these, those that are there; by default all.

    Raises:
        ConfigError: there is neither, or a file of it is no Parquet file.
    """
    where = f"{folder.url}/{name}"
    try:
        if folder.has(name):
            return _some(folder.read_table(name), columns)
        files = [one for one in folder.names(name) if one.endswith(".parquet")]
        if not files:
            raise ConfigError(f"{where} is not there: recordings names the folder that holds it")
        tables = [_some(folder.read_table(f"{name}/{one}"), columns) for one in files]
        return pa.concat_tables(tables, promote_options="permissive")
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{where} is no Parquet file: {error}") from None


def _some(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    if columns is None:
        return table
    return table.select([name for name in columns if name in table.column_names])


def one_grade_each(grades: pa.Table) -> pa.Table:
    """Of several rows of one query and model the one that counts; those without a grade go.

    Of each grader the last one counts, by `graded_at` or as the rows come, and where that is no
    grade, it has none. Of the graders that have one, the one that has graded last counts.
    """
    known = latest(grades, ["query_id", "model", "grader"]).filter(pc.field("grade").is_valid())
    return latest(known, ["query_id", "model"])


def latest(grades: pa.Table, key: Sequence[str]) -> pa.Table:
    """Of the rows with one key the last one: by `graded_at` where there is such a column, else as
    they come. The rows that are left are in that order.
    """
    if "graded_at" in grades.column_names:
        by_time = [("graded_at", "ascending", "at_start")]
        grades = grades.take(pc.sort_indices(grades, by_time))
    numbered = grades.select(list(key)).append_column("row", pa.array(range(len(grades))))
    last = numbered.group_by(list(key)).aggregate([("row", "max")]).column("row_max")
    if len(last) == len(grades):
        return grades
    return grades.take(last.take(pc.sort_indices(last)))
