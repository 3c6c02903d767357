"""A run → the outcome table: graded part by part on Ray Data, then written whole.

What is graded waits in `grading/RUN/` of the table's folder until all of it is; so a start that
follows a killed one grades what is left, and nobody reads half a night.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import ray
import ray.data
import structlog
import xxhash
from ray.data import ActorPoolStrategy

from moa.cluster.address import LOCAL, ray_address
from moa.cluster.joining import cluster_cpus, join_ray
from moa.errors import RunError
from moa.grading.bradley_terry import fitter
from moa.grading.graders import open_grader
from moa.grading.judgements import read_judgements
from moa.pipeline.failures import told_plainly
from moa.pipeline.grade_config import GradeOutcomesConfig
from moa.pipeline.grade_part import GRADED, Choice, PartGrader
from moa.pipeline.graph import keep_quiet, restarts_said_the_old_way
from moa.pipeline.judged_grades import with_judgements
from moa.pipeline.stop import Stop, held
from moa.schema import LOGGED_GRADES, LOGGED_QUERIES, agree
from moa.storage.merged_run import MergedRun
from moa.storage.object_store import Folder
from moa.storage.outcome_table import Night, OutcomeTable
from moa.storage.run_folder import PartName, RunFolder

OBJECT_STORE_BYTES = 256 << 20
"""Of a Ray of the job's own: what goes through it are names of parts."""
ACTOR_RESTARTS = 3
"""Of a grading actor that was killed, with its part. Graders keep what may break in processes of
their own; so nothing in a completion ends an actor."""
HELD = (
    "one grading at a time writes to an outcome table: wait for it, or end it; the same command "
    "then grades what is left"
)
_PLACED = ("split", "duplicate_group")

log = structlog.get_logger()


class GradedNight(NamedTuple):
    """What was written."""

    night: Night
    graded: pa.Table
    """`GRADED` of the whole run."""
    parts: int
    earlier: int
    """Parts that an earlier start had graded."""
    judgements: list[str]
    """What they say of the models, in lines."""


def grade_run(config: GradeOutcomesConfig) -> GradedNight:
    """Grade a run and write its rows into the outcome table, or go on with that.

    Raises:
        ConfigError: a grader or a folder is not as the config says, or the table has another run
            of this id.
        RunError: there is no run, nothing of it is answered, or another process writes the table.
        Interrupted: SIGINT or SIGTERM came.
    """
    run = RunFolder(config.run)
    night = _night(run)
    versions = [open_grader(one.grader, one.options).version for one in config.graders]
    judgements = read_judgements(config.judgements)
    if judgements.pairs:
        fitter()  # that it is missing is not to be found at the end
    table = OutcomeTable(config.table)
    table.folder.check()
    with told_plainly(), Stop() as stop, held(config.table, stop, remedy=HELD):
        table.check(night)
        parts = _named(run, config, versions)
        staged = Staged(table.folder, night)
        left = [(part, name) for part, name in parts if not staged.has(name)]
        if left:
            with _cluster() as workers:
                stop.listen()
                _grade(config, staged, left, config.workers or workers, stop.check)
        stop.check()
        graded = pa.concat_tables([staged.read(name) for _, name in parts], promote_options="none")
        if not len(graded):
            raise RunError(f"{config.run}: no model has answered any query of it yet")
        graded, told = with_judgements(graded, judgements, enough=config.enough_judgements)
        _write(table, night, graded, config.held_out_share)
        staged.remove()
    return GradedNight(night, graded, len(parts), len(parts) - len(left), told)


class Staged:
    """Graded parts of one run that wait for the others."""

    def __init__(self, folder: Folder, night: Night) -> None:
        began = f"{night.began:%Y%m%dT%H%M%S.%f}"
        self._folder, self._below = folder, f"grading/{night.run_id}/{began}"
        self._there = frozenset(folder.names(self._below))

    def has(self, name: str) -> bool:
        """Whether an earlier start has graded it."""
        return name in self._there

    def put(self, name: str, graded: pa.Table) -> None:
        """Keep a part: from now on it is graded."""
        self._folder.put_table(f"{self._below}/{name}", agree(graded, GRADED, where=name))

    def read(self, name: str) -> pa.Table:
        """`GRADED` of one part."""
        return self._folder.read_table(f"{self._below}/{name}", columns=GRADED.names).cast(GRADED)

    def remove(self) -> None:
        """The table has it all."""
        self._folder.remove_all(self._below)


class GradeParts:
    """Names of parts in, the same names out when the parts are kept. Lives in an actor."""

    def __init__(self, config: GradeOutcomesConfig, staged: Staged) -> None:
        choices = [
            Choice(open_grader(one.grader, one.options), frozenset(one.tags))
            for one in config.graders
        ]
        self._grade = PartGrader(
            RunFolder(config.run),
            choices,
            share=config.share,
            refusal_grade=config.refusal_grade,
        )
        self._staged = staged

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Grade the parts of a batch, one after another."""
        for row in batch.to_pylist():
            graded = self._grade(PartName.parse(row["part"]))
            self._staged.put(row["name"], graded)
            yield pa.table({"name": [row["name"]], "queries": [len(graded)]})


def _night(run: RunFolder) -> Night:
    first = run.first_start()
    if first is None:
        raise RunError(f"{run.url}: no run has begun here (there is no config.json)")
    if "redrive" in first:
        raise RunError(
            f"{run.url} is a redrive of {first['redrive']['of']}: give that run's folder"
        )
    return Night(first["config"]["run"]["id"], datetime.fromisoformat(first["started_at"]))


def _named(
    run: RunFolder, config: GradeOutcomesConfig, versions: Sequence[str]
) -> list[tuple[PartName, str]]:
    """The parts that have outcomes, each with the name under which its grades are kept: other
    graders, or outcomes that have come since, are other grades.
    """
    how = [[one.model_dump(mode="json") for one in config.graders], versions]
    asked = orjson.dumps([*how, config.share, config.refusal_grade])
    merged, named = MergedRun(run), []
    for part in run.decided_parts():
        if pieces := merged.pieces_of(part):
            mark = xxhash.xxh3_64_hexdigest(asked + orjson.dumps(pieces))
            named.append((part, f"{part}.{mark}.parquet"))
    if not named:
        raise RunError(f"{run.url}: none of its queries has an outcome yet")
    return named


def _grade(
    config: GradeOutcomesConfig,
    staged: Staged,
    left: Sequence[tuple[PartName, str]],
    workers: int,
    check: Callable[[], None],
) -> None:
    """Stream the parts through the actors."""
    keep_quiet()
    items = [{"part": str(part), "name": name} for part, name in left]
    with restarts_said_the_old_way():
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            GradeParts,
            fn_constructor_args=(config, staged),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(workers, len(items))),
            num_cpus=1,
            ray_remote_args_fn=_restarts,
        )
    # Without prefetching: a part is told when it is done, not when the next one is.
    told = done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for number, batch in enumerate(told):
        log.info("grading.part", done=number + 1, of=len(left), queries=batch["queries"][0].as_py())
        check()


def _restarts() -> dict[str, int]:
    return {"max_restarts": ACTOR_RESTARTS, "max_task_retries": ACTOR_RESTARTS}


@contextmanager
def _cluster() -> Iterator[int]:
    """The cluster that `RAY_ADDRESS` names, or a Ray of the job's own; how many CPUs it has."""
    address = ray_address()
    own: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # as moa.pipeline.run
        own = {
            "num_cpus": max(os.cpu_count() or 1, 2),
            "object_store_memory": OBJECT_STORE_BYTES,
            "log_to_driver": False,
        }
    join_ray(address, **own)
    try:
        yield max(1, cluster_cpus() - 1)  # one is left for Ray Data's own tasks
    finally:
        ray.shutdown()


def _write(table: OutcomeTable, night: Night, graded: pa.Table, held_out_share: float) -> None:
    of_query = [name for name in LOGGED_QUERIES.names if name not in _PLACED]
    grades = graded.select(LOGGED_GRADES.names)
    table.write(night, graded.select(of_query), grades, held_out_share=held_out_share)
