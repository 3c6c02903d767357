"""A night as it would have been: recorded queries, decided on by a router, answered as recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moa.config import load_config
from moa.pipeline.job import Job, check_job
from moa.reports.cost_report import CostReport
from moa.reports.run_report import write_report
from moa.schema import OUTCOMES
from moa.stages import Decide, Read, Score
from moa.storage.run_folder import NOBODY, RunFolder, pieces_in, rows_of
from moa.storage.scan import scan

RECORDINGS = Path("moa/recordings")
POOL = tuple(load_config("jobs/configs/demo.toml").pool)
AT = datetime(2026, 11, 25, 3, tzinfo=UTC)


@cache
def queries() -> pa.Table:
    return pq.read_table(RECORDINGS / "queries.parquet")


@cache
def graded() -> pa.Table:
    table = pq.read_table(RECORDINGS / "graded_outcomes.parquet")
    return table.filter(pc.is_in(table["model"], value_set=pa.array(POOL)))


@cache
def recorded() -> dict[tuple[str, str], dict[str, Any]]:
    """Query and model → tokens."""
    return {(row["query_id"], row["model"]): row for row in graded().to_pylist()}


def of_sources(wanted: Sequence[str], split: str, *, most: int) -> pa.Table:
    """At most so many queries of each source."""
    table = queries().filter(pc.equal(queries()["split"], split))
    return pa.concat_tables(
        table.filter(pc.equal(table["source"], one)).slice(0, most) for one in wanted
    )


def log_of(table: pa.Table) -> pa.Table:
    """Recorded queries as a query log: each may be asked of the models that were recorded on it."""
    rows = table.select(["query_id", "prompt", "source"]).to_pylist()
    known = recorded()
    return pa.table(
        {
            "query_id": [row["query_id"] for row in rows],
            "prompt": [row["prompt"] for row in rows],
            "tags": [[f"source:{row['source']}"] for row in rows],
            "allowed_models": [
                [name for name in POOL if (row["query_id"], name) in known] for row in rows
            ],
        }
    )


def decided(folder: Path, log: pa.Table, *overrides: str) -> Job:
    """A run of that log in which everything is decided, by the stages of a real one."""
    pq.write_table(log, folder / "log.parquet")
    sets = [f"run.folder={folder}/runs", f"queries.path={folder}/log.parquet"]
    job = check_job(load_config("jobs/configs/demo.toml", [*sets, *overrides]), environ={})
    run = RunFolder(job.run_folder)
    run.begin(job.facts(), identity=job.identity())
    run.write_scan(job.partitions, scan(job.partitions, job.config.queries))
    read = Read(job.config.queries, job.partitions, job.run_folder)
    score, decide = Score(job.config.router, job.pool), Decide(job.deciding, job.run_folder)
    for packed in read(pa.table({"partition": [one.number for one in job.partitions]})):
        for scored in score(packed):
            assert len(list(decide(scored))) >= 1
    return job


def answer(job: Job) -> None:
    """Every query is answered by the model that was decided on, as it was recorded."""
    run = RunFolder(job.run_folder)
    for part in run.decided_parts():
        decisions = run.read_decisions(part)
        tags = run.read_queries(part, columns=["query_id", "tags"])
        tags_of = dict(zip(*tags.to_pydict().values(), strict=True))
        for piece, _ in pieces_in(part, decisions):
            if piece.provider == NOBODY:
                continue
            rows = decisions.filter(rows_of(piece, decisions)).to_pylist()
            outcomes = [_outcome(job, row, tags_of[row["query_id"]]) for row in rows]
            run.write_outcomes(piece, pa.Table.from_pylist(outcomes, schema=OUTCOMES))


def _outcome(job: Job, decision: dict[str, Any], tags: list[str]) -> dict[str, Any]:
    tokens = recorded()[decision["query_id"], decision["model"]]
    into, out = tokens["input_tokens"], tokens["output_tokens"]
    usd = job.prices.cost_usd(decision["model"], "live", input_tokens=into, output_tokens=out)
    return {
        **{name: decision[name] for name in ("query_id", "partition", "row", "model", "provider")},
        "status": "answered", "lane": "live", "first_model": decision["model"],
        "completion": "as recorded", "finish_reason": "stop", "input_tokens": into,
        "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": out,
        "reasoning_tokens": 0, "cost_usd": usd, "attempts": 1, "unknown_calls": 0,
        "lost_answers": 0, "latency_s": 1.0, "finished_at": AT, "tags": tags,
    }  # fmt: skip


def report(job: Job, *overrides: str) -> CostReport:
    """Of a run that is answered."""
    return write_report(job.run_folder, overrides=overrides).report
