"""Who would be given how much of a backlog, by a sample of its query log: scored by the job's
router and decided on, or planned, as the job would. In this process: no Ray, and nobody is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moa.catalog import Lane
from moa.config import QueryLogConfig, RouteBatchConfig
from moa.decisions.deciding import LIVE, Deciding, matrix
from moa.decisions.planned import objective, options
from moa.errors import ConfigError, RunError
from moa.pipeline.job import exploration_of
from moa.pipeline.workload import Pool, Workload
from moa.planning.capacities import HOUR_S, Situation, capacities, lanes_in_time
from moa.planning.capacity import Backlog, Choice, with_limits
from moa.planning.planner import plan
from moa.planning.policy import NOBODY
from moa.planning.remedies import Infeasible
from moa.planning.totals import Totals
from moa.reports.plan_document import usd_per_output_token
from moa.reports.wording import duration
from moa.router.facts import read_facts, router_folder
from moa.router.router import Router
from moa.stages import READ_ROWS, scored_by
from moa.storage.duplicates import DUPLICATES
from moa.storage.prepare import prepare
from moa.storage.query_log import Partition, find_backlog, read_partition

MOST_PARTITIONS = 20
"""That a sample is read from, at even distances."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a plan has to keep, beside the vendors' limits: of what is left when all is scored."""

    usd: float | None
    seconds: float | None
    """Until the deadline, without what comes after the calls."""
    in_flight: int
    """Calls at once of an account."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Scored queries, and what may be bought for each."""

    job: RouteBatchConfig
    pool: Pool
    lanes: tuple[Lane, ...]
    rows: int
    """Defective ones too."""
    backlog: Backlog
    most_output_tokens: NDArray[np.float32]
    by_policy: Choice

    @property
    def input_tokens(self) -> float:
        """Of a mean query."""
        assert self.backlog.input_tokens is not None
        return float(self.backlog.input_tokens.mean())

    def totals(self, queries: int, bounds: Bounds) -> Totals:
        """Of a backlog of so many queries, which is like this one.

        Raises:
            ConfigError: nobody may answer any of the queries.
            RunError: no plan keeps all limits; with what would be enough.
        """
        choice = self.by_policy if self.job.plan is None else self._planned(queries, bounds)
        made = Totals(*self.backlog.shape)
        per_token = usd_per_output_token(self.pool.models, self.lanes, self.pool.prices)
        made.add(self.backlog, choice, self.most_output_tokens, per_token)
        if not made.queries.any():
            raise _nobody_asked(self.rows, "no model has the window, abilities and permission")
        return made.scaled(queries / self.rows)

    def _planned(self, queries: int, bounds: Bounds) -> Choice:
        config, tokens = self.job.plan, self.backlog.output_tokens
        assert config is not None
        assert tokens is not None
        means = tuple(tokens.mean(axis=0).tolist())
        now = Situation(queries, bounds.usd, bounds.seconds, bounds.in_flight, means)
        limits = capacities(self.pool.models, self.lanes, config, now)
        wanted = objective(self.job.policy, config)
        share = self.rows / queries
        found = plan(self.backlog, with_limits(limits, share), wanted, seed=self.job.run.seed)
        if isinstance(found, Infeasible):
            least = found.least_usd
            enough = "" if least is None else f"; for all of them ${least / share:,.2f}"
            if bounds.seconds is not None:
                enough += f"; until the deadline calls have {duration(bounds.seconds)}"
            raise RunError(
                f"{queries:,} queries, of which {self.rows:,} are planned as a sample: {found}"
                f"{enough}: raise dispatch.budget_usd, within_hours or the limits"
            )
        return found.choice


def by_sample(
    job: RouteBatchConfig,
    pool: Pool,
    rows: int,
    seconds: float | None,
    bounds: Callable[[int, float], Bounds],
) -> Workload:
    """As the job would decide on a backlog of which its query log is a fair sample.

    Args:
        job: with the log, the router, the policy and the plan, if it has one.
        pool: of the job, with its limits.
        rows: of the log that are scored.
        seconds: from the start until the deadline.
        bounds: of a plan for so many queries, of so many input tokens in the mean.

    Raises:
        ConfigError, ArtifactError: the log or the router cannot be read, or of the sample nothing
            can be asked.
        RunError: no lane ends before the deadline.
    """
    found = find_backlog(job.queries)
    lanes = (LIVE,) if job.plan is None else lanes_in_time(job.plan, seconds)
    if not lanes:
        raise RunError(
            f"none of plan.lanes {job.plan.lanes if job.plan else []} ends within "
            f"{(seconds or 0) / HOUR_S:g} h: add 'live', or give more time (within_hours)"
        )
    sample = _sampled(job, pool, lanes, _scored(job, pool, found.partitions, rows))
    counts = [one.rows for one in found.partitions]
    known = [count for count in counts if count is not None]
    return Workload(
        lanes,
        lambda queries: sample.totals(queries, bounds(queries, sample.input_tokens)),
        sum(known) if len(known) == len(counts) else None,
        f"{sample.rows:,} queries of the log, scored by the job's router",
    )


def _sampled(
    job: RouteBatchConfig, pool: Pool, lanes: tuple[Lane, ...], scored: pa.Table
) -> Sample:
    facts = read_facts(job.router.artifact)
    best = facts.best_constant(pool.names).model
    deciding = Deciding(
        pool.models,
        job.policy,
        pool.prices,
        facts.version,
        job.policy.default_model or best,
        exploration_of(job),
    )
    expected = deciding.expect(scored, lanes)
    if not len(expected.good):
        defect = scored.column("defect")[0].as_py()
        raise _nobody_asked(scored.num_rows, f"the first one's defect is {defect!r}")
    backlog = options(expected, deciding, drawn=deciding.drawn(expected))
    chosen = deciding.by_policy_or_drawn(expected)[0].chosen
    choice = np.where(chosen == NOBODY, -1, chosen * len(lanes)).astype(np.int16)
    most = matrix(expected.queries.column("most_output_tokens"), len(pool.models))
    return Sample(job, pool, lanes, scored.num_rows, backlog, most, choice)


def _scored(
    job: RouteBatchConfig, pool: Pool, partitions: Sequence[Partition], rows: int
) -> pa.Table:
    """The first rows of partitions at even distances, of each in proportion to its rows; of JSONL,
    which says how many only when it is read, of each as many.
    """
    read_facts(job.router.artifact).check_pool(pool.names)
    router = Router.load(router_folder(job.router.artifact), job.router.model, job.router.engine)
    chosen = partitions[:: -(-len(partitions) // MOST_PARTITIONS)]
    known = [one.rows for one in chosen if one.rows is not None]
    weights = known if len(known) == len(chosen) else [1] * len(chosen)
    ends = np.rint(np.cumsum(weights) / sum(weights) * rows).astype(int)
    tables = []
    for partition, wanted in zip(chosen, np.diff(ends, prepend=0).tolist(), strict=True):
        for table in _first_rows(partition, job.queries, wanted):
            prepared = prepare(table, partition.number, DUPLICATES.empty_table())
            tables.append(scored_by(router, pool.names, prepared))
    if not tables:
        raise ConfigError(f"queries.path: {job.queries.path} holds no rows: nothing to sample")
    return pa.concat_tables(tables)


def _first_rows(partition: Partition, config: QueryLogConfig, wanted: int) -> Iterator[pa.Table]:
    if not wanted:
        return
    for table in read_partition(partition, config, batch_rows=min(wanted, READ_ROWS)):
        yield table.slice(0, wanted)
        wanted -= table.num_rows
        if wanted <= 0:
            return


def _nobody_asked(rows: int, why: str) -> ConfigError:
    return ConfigError(
        f"of {rows:,} queries that were sampled none can be asked ({why}): mend the log, map its "
        "columns (queries.columns), change the pool, or sample more"
    )
