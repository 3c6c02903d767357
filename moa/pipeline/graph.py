"""The Ray Data graph: the query log in, decided parts in the run folder out."""

from __future__ import annotations

import logging
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from moa.cluster.joining import cluster_cpus
from moa.config import RouterConfig
from moa.decisions.deciding import Deciding
from moa.pipeline.job import Job
from moa.stages import Decide, Keep, Read, Score, Shadow
from moa.storage.query_log import Partition
from moa.storage.run_folder import PartName, RunFolder
from moa.storage.scan import scan

T = TypeVar("T")
BLOCK_BYTES = 16 << 20
"""Of Ray Data: small blocks let dispatch begin while scoring goes on."""

SCORE_RESTARTS = 5
"""Of one score actor; what kills it more often stops the run."""


def _restarts() -> dict[str, int]:
    return {"max_restarts": SCORE_RESTARTS, "max_task_retries": SCORE_RESTARTS}


def _on_replicas(router: RouterConfig) -> dict[str, Any]:
    """How Ray Data runs a stage that holds a router."""
    return {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(size=router.replicas),
        "num_cpus": 1,
        "num_gpus": router.num_gpus,
        "ray_remote_args_fn": _restarts,
    }


def scan_backlog(job: Job) -> None:
    """Find the duplicates among the queries, once a run; a restart sees the same ones.

    Raises:
        ConfigError: a file of the query log is damaged, or there is no row in any of them.
        RunError: the query log has changed since the run first started.
    """
    run = RunFolder(job.run_folder)
    if not run.has_scan(job.partitions):
        run.write_scan(job.partitions, scan(job.partitions, job.config.queries, _each))


def _each(
    function: Callable[..., T], partitions: Sequence[Partition], *shared: object
) -> Iterator[T]:
    """As many at once as there are CPUs."""
    remote = ray.remote(num_cpus=1)(function)
    lent = [ray.put(one) for one in shared]
    at_once = max(2, cluster_cpus())
    under_way: deque[ray.ObjectRef[T]] = deque()
    for partition in partitions:
        under_way.append(remote.remote(partition, *lent))
        if len(under_way) >= at_once:
            yield ray.get(under_way.popleft())
    while under_way:
        yield ray.get(under_way.popleft())


def decide_backlog(job: Job, decided: frozenset[PartName]) -> Generator[pa.Table, None, None]:
    """Read, score and decide the backlog; a table of `PARTS` as each part is written.

    Args:
        job: what to do.
        decided: parts that earlier starts of the run have written.
    """
    yield from _parts(job, decided, Decide(job.deciding, job.run_folder))


def score_backlog(job: Job, scored: frozenset[PartName]) -> Generator[pa.Table, None, None]:
    """Read and score the backlog; a table of `SCORED_PARTS` as each part is written.

    Args:
        job: what to do.
        scored: parts that earlier starts of the run have written.
    """
    yield from _parts(job, scored, Keep(job.run_folder))


def shadow_parts(
    job: Job, shadow: Deciding, parts: Sequence[PartName]
) -> Generator[pa.Table, None, None]:
    """Have another router decide on decided parts; a table with each one's name as it is written.

    Args:
        job: what was done.
        shadow: what its decisions have in common.
        parts: decided.
    """
    config = job.config
    keep_quiet()
    with restarts_said_the_old_way():
        written = ray.data.from_items(
            [{"part": str(part)} for part in parts], override_num_blocks=len(parts)
        ).map_batches(
            Shadow,
            fn_constructor_args=(config.router, job.deciding, shadow, job.run_folder),
            **_on_replicas(config.router),
        )
    yield from written.iter_batches(batch_size=None, batch_format="pyarrow")


def keep_quiet() -> None:
    """Have Ray Data tell nothing that the job tells itself, and raise a stage's own error."""
    context = DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # see moa.pipeline.failures
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run tells its own progress
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # and what went wrong


@contextmanager
def restarts_said_the_old_way() -> Iterator[None]:
    """Without the warning that Ray Data has for `ray_remote_args_fn`."""
    with warnings.catch_warnings():
        # How often an actor is restarted cannot be said otherwise yet; Ray is held below 2.61.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        yield


def _parts(
    job: Job, done: frozenset[PartName], last: Decide | Keep
) -> Generator[pa.Table, None, None]:
    left = _unfinished(job.partitions, done)
    if not left:
        return
    keep_quiet()
    with restarts_said_the_old_way():
        parts = _graph(job, left, done, last)
    yield from parts.iter_batches(batch_size=None, batch_format="pyarrow")


def _graph(
    job: Job, left: Sequence[Partition], done: frozenset[PartName], last: Decide | Keep
) -> ray.data.Dataset:
    """Partitions in, a row per part out. Lazy: rows stream, nothing is held whole."""
    config = job.config
    return (
        ray.data.from_items([{"partition": p.number} for p in left], override_num_blocks=len(left))
        .map_batches(
            Read(config.queries, job.partitions, job.run_folder, done),
            batch_size=1,
            batch_format="pyarrow",
        )
        .map_batches(
            Score,
            fn_constructor_args=(job.router, job.pool),
            **_on_replicas(config.router),
        )
        .map_batches(last, batch_size=1, batch_format="pyarrow")
    )


def _unfinished(partitions: Sequence[Partition], done: frozenset[PartName]) -> list[Partition]:
    """The partitions that are not known to be done to their last row."""
    rows: Counter[int] = Counter()
    for part in done:
        rows[part.partition] += part.end_row - part.first_row
    return [one for one in partitions if one.rows is None or rows[one.number] < one.rows]
