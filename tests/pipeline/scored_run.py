"""A run whose recorded queries are scored, by the real stages, and not decided on yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moa.catalog import Lane, Limits
from moa.config import load_config
from moa.pipeline.job import Job, check_job
from moa.pipeline.part_block import Block, read_block
from moa.pipeline.plan_maker import MadePlan, PlanMaker, Standing
from moa.plan_config import ShareConfig
from moa.planning.capacities import Learnt
from moa.stages import Keep, Read, Score
from moa.storage.query_log import find_backlog
from moa.storage.run_folder import PartName, RunFolder
from moa.storage.scan import scan

QUERIES = 240
PART_ROWS = 30
BOTH = "plan.lanes=['live','batch']"
LARGE = "openai/gpt-4o"
FLASH = "google/gemini-1.5-flash"
NOTHING_SPENT = Standing(usd=None)
AGAIN = Standing(usd=None, under_way=True, again=True)


@dataclass(frozen=True)
class ScoredRun:
    """A job, and its run folder as it is when all is scored."""

    job: Job
    run: RunFolder

    @property
    def parts(self) -> list[PartName]:
        return self.run.scored_parts()

    def block(
        self, part: PartName, lanes: Sequence[Lane], learnt: dict[str, Learnt] | None = None
    ) -> Block:
        """A part, undecided, as the planner sees it."""
        return read_block(part, self.run, self.job.deciding, lanes, learnt or {}, decided=False)

    def least_usd(self, lanes: Sequence[Lane]) -> float:
        """What the queries that have an option cost at least."""
        cheapest = [
            self.block(part, lanes).backlog.cost_usd.astype(np.float64).min(axis=(1, 2))
            for part in self.parts
        ]
        usd = np.concatenate(cheapest)
        return float(usd[np.isfinite(usd)].sum())

    def decisions(self) -> pa.Table:
        """Of all parts that are decided."""
        return pa.concat_tables(self.run.tables("decisions")())

    def queries(self) -> pa.Table:
        """Of all parts that are scored."""
        return pa.concat_tables(self.run.read_queries(part) for part in self.parts)

    def decided_usd(self) -> float:
        """What the decisions that are kept are expected to cost, by the plan's own options."""
        usd = 0.0
        for part in self.run.decided_parts():
            table = self.run.read_decisions(part)
            lanes: tuple[Lane, ...] = ("live", "flex", "batch")
            block = self.block(part, lanes)
            options = dict(zip(block.expected.good.tolist(), block.backlog.cost_usd, strict=True))
            for row, one in enumerate(table.select(["model", "lane"]).to_pylist()):
                if one["model"] is not None:
                    cost = options[row][self.job.pool.index(one["model"])]
                    usd += float(cost[lanes.index(one["lane"])])
        return usd

    def limited(self, limits: Limits) -> ScoredRun:
        """Each model with these limits."""
        models = tuple(replace(model, limits=limits) for model in self.job.models)
        return ScoredRun(replace(self.job, models=models), self.run)


def scored_run(folder: Path, *overrides: str, wishes: bool = False) -> ScoredRun:
    """The demo's job with a plan, on recorded queries.

    Args:
        folder: for the run; made anew.
        overrides: of the config.
        wishes: some queries ask for a least grade, for lanes, for models or for short answers, and
            some rows are no requests.
    """
    log = folder / "log.parquet"
    log.write_bytes(_log(wishes))
    sets = [f"run.folder={folder}/runs", f"queries.path={log}", f"queries.part_rows={PART_ROWS}"]
    job = check_job(load_config("jobs/configs/demo.toml", [*sets, *overrides]), environ={})
    run = RunFolder(job.run_folder)
    run.write_scan(job.partitions, scan(job.partitions, job.config.queries))
    for packed in _scored(wishes):
        for _ in Keep(job.run_folder)(packed):
            pass
    return ScoredRun(job, run)


@cache
def _log(wishes: bool) -> bytes:
    table = pq.read_table("moa/recordings/demo_backlog.parquet", columns=["query_id", "prompt"])
    table = table.slice(0, QUERIES)
    if wishes:
        for name, values in _wishes(table).items():
            table = table.append_column(name, values)
        prompts = table.column("prompt").to_pylist()
        missing = [None if row % 40 == 7 else text for row, text in enumerate(prompts)]
        number = table.schema.get_field_index("prompt")
        table = table.set_column(number, "prompt", pa.array(missing, pa.string()))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=QUERIES // 4)
    return bytes(sink.getvalue())


def _wishes(table: pa.Table) -> dict[str, pa.Array]:
    random = np.random.default_rng(7)

    def some(share: float, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
        picks = random.integers(0, len(values), table.num_rows)
        wanted = random.random(table.num_rows) < share
        return pa.array(
            [values[pick] if yes else None for pick, yes in zip(picks, wanted, strict=True)], kind
        )

    texts = pa.list_(pa.string())
    return {
        "min_grade": some(0.3, [0.2, 0.5, 0.7, 1.0], pa.float64()),
        "allowed_lanes": some(0.4, [["live"], ["batch"], ["live", "batch"]], texts),
        "allowed_models": some(0.2, [["openai/gpt-4o"], ["google/gemini-1.5-flash"]], texts),
        "max_output_tokens": some(0.3, [3, 40], pa.int64()),
    }


@cache
def _scored(wishes: bool) -> tuple[pa.Table, ...]:
    """All packed parts of the log; the router is asked once for all tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        path.write_bytes(_log(wishes))
        sets = [f"queries.path={path}", f"queries.part_rows={PART_ROWS}"]
        config = load_config("jobs/configs/demo.toml", sets)
        partitions = find_backlog(config.queries).partitions
        run = RunFolder(f"{folder}/run")
        run.write_scan(partitions, scan(partitions, config.queries))
        read = Read(config.queries, partitions, run.url)
        score = Score(config.router, config.pool)
        numbers = pa.table({"partition": [one.number for one in partitions]})
        return tuple(one for packed in read(numbers) for one in score(packed))


def same_but(one: pa.Table, other: pa.Table, rows: pa.Array) -> bool:
    """Whether two tables are equal where a mask is true."""
    return bool(one.filter(rows).equals(other.filter(rows)))


def lanes_of(decisions: pa.Table) -> dict[str | None, int]:
    """Lane → how many queries it was given."""
    counts = pc.value_counts(decisions.column("lane"))
    return dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))


def planned(scored: ScoredRun, now: Standing = NOTHING_SPENT) -> tuple[PlanMaker, MadePlan]:
    """All parts decided on by one plan."""
    maker = PlanMaker(scored.job)
    plan = maker.make(scored.parts, now)
    for part in scored.parts:
        maker.decide(part, plan)
    return maker, plan


def standing(usd: float, **facts: object) -> Standing:
    return replace(Standing(usd=Decimal(str(usd))), **facts)  # type: ignore[arg-type]


def shares_of(scored: ScoredRun, shares: dict[str, dict[str, float]]) -> ScoredRun:
    """The same run, whose models must be given, or may be given at most, such shares."""
    assert scored.job.config.plan is not None
    given = {name: ShareConfig.model_validate(share) for name, share in shares.items()}
    plan = scored.job.config.plan.model_copy(update={"shares": given})
    config = scored.job.config.model_copy(update={"plan": plan})
    return ScoredRun(replace(scored.job, config=config), scored.run)


def due(scored: ScoredRun, at: datetime) -> ScoredRun:
    return ScoredRun(replace(scored.job, deadline=at), scored.run)


def in_s(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
