"""The whole loop on recorded queries: a night is routed, graded, learnt from, judged, promoted.

Yesterday's router knows 500 queries. It routes a night of others, at vendors that are replayed,
with much exploration, so that one night tells enough; what has come of it is graded from the raw
completions. All by the jobs' command lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.router.facts import read_facts
from moa.schema import LOGGED_GRADES
from moa.storage.outcome_table import GRADES, Night, OutcomeTable
from tests.jobs.conftest import RAY, ROOT, cluster

POOL = ["openai/gpt-4o", "anthropic/claude-3-haiku"]
KNOWN, ASKED = 500, 2000
"""Queries that yesterday's router has learnt from, and those of the night."""
CLUSTER = "num_cpus=4, include_dashboard=False, object_store_memory=512 << 20"
WORTH = "policy.willingness_to_pay=0.01"
GATE = "{ worth_usd = 0, loss_usd = 0.6, domain_fall = 0.15, ece = 0.08, flip_rate = 0.15 }"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Loop:
    """A team's folder, and the jobs that work on it, all on one cluster."""

    def __init__(self, home: Path, address: str) -> None:
        self.address = address
        self.home, self.table, self.routers = home, home / "outcomes", home / "routers"
        self.backlog = home / "backlog.parquet"

    def job(self, name: str, config: str, *overrides: str, flags: Sequence[str] = ()) -> str:
        """Run a job to its good end; what it says."""
        done = self.tried(name, config, *overrides, flags=flags)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def tried(
        self, name: str, config: str, *overrides: str, flags: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        path = self.home / f"{name}.toml"
        path.write_text(config)
        sets = [flag for one in overrides for flag in ("--set", one)]
        return subprocess.run(
            [sys.executable, f"jobs/{name}.py", "--config", str(path), *sets, *flags],
            cwd=ROOT, env={**os.environ, **RAY, "RAY_ADDRESS": self.address},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def route(self, run: str) -> pa.Table:
        """A night; its decisions but for the seconds that they took, in the backlog's order."""
        demo = (ROOT / "jobs/configs/demo.toml").read_text()
        self.job(
            "route_batch", demo, f"run.id={run}", f"run.folder={self.home}/runs", f"pool={POOL}",
            f"queries.path={self.backlog}", f"router.artifact={self.routers}", WORTH,
            "explore.share=0.8",
        )  # fmt: skip
        parts = sorted((self.home / "runs" / run / "decisions").glob("*.parquet"))
        return pa.concat_tables(map(pq.read_table, parts)).drop_columns(["router_s"])

    def grade(self, run: str) -> str:
        shipped = (ROOT / "jobs/configs/grade_outcomes.toml").read_text()
        return self.job(
            "grade_outcomes", shipped, f"run={self.home}/runs/{run}", f"table={self.table}",
            "held_out_share=0.5",
        )  # fmt: skip

    def train(self, name: str, table: Path | None = None) -> str:
        """A router in the folder `name`; its version."""
        self.job(
            "train_router",
            f'recordings = "{table or self.table}"\nmodels = {POOL}\nartifact = '
            f'"{self.home / name}"\ncatalog = "jobs/configs/demo_catalog.toml"\n',
        )
        return read_facts(str(self.home / name)).version

    def evaluate(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.tried(
            "evaluate_router",
            f'artifact = "{self.home / name}"\ncurrent = "{self.routers}"\n'
            f'recordings = "{self.table}"\nsplit = "held_out"\n'
            f'catalog = "jobs/configs/demo_catalog.toml"\noutput = "{self.home / name}-verdict"\n'
            f"[policy]\nmax_novelty = 0.9\n[pools.both]\nmodels = {POOL}\ntraffic = {GATE}\n",
            WORTH,
        )

    def promote(self, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.tried(
            "promote_router",
            f'promotions = "{self.routers}"\nartifact = "{self.home / name}"\n'
            f'evaluation = "{self.home / name}-verdict"\n',
            flags=flags,
        )


def recorded() -> pa.Table:
    """Recorded queries that both models have answered and were graded on, in an order by chance;
    of near duplicates one."""
    grades = pq.read_table(ROOT / "moa/recordings/graded_outcomes.parquet")
    said = pq.read_table(ROOT / "moa/recordings/completions.parquet", columns=["query_id", "model"])
    both = [
        set(table.filter(pc.field("model") == model)["query_id"].to_pylist())
        for table in (grades, said)
        for model in POOL
    ]
    queries = pq.read_table(ROOT / "moa/recordings/queries.parquet")
    queries = queries.filter(pc.is_in(queries["query_id"], pa.array(set.intersection(*both))))
    order = np.random.default_rng(7).permutation(len(queries))
    queries = queries.take(order)
    _, first = np.unique(queries["duplicate_group"].to_numpy(), return_index=True)
    return queries.take(np.sort(first))


def tags_of(queries: pa.Table) -> list[list[str]]:
    """As the demo's backlog has them."""
    named = zip(queries["domain"].to_pylist(), queries["source"].to_pylist(), strict=True)
    return [[f"domain:{domain}", f"source:{source}"] for domain, source in named]


def remember(table: OutcomeTable, queries: pa.Table) -> None:
    """What is known of both models, as a first night, all of which may be learnt from."""
    ids = [f"history/{name}" for name in queries["query_id"].to_pylist()]
    tags = tags_of(queries)
    logged = pa.table(
        {
            "query_id": ids, "prompt": queries["prompt"], "source": [one[0] for one in tags],
            "tags": tags, "run_id": ["history"] * len(ids),
        }
    )  # fmt: skip
    grades = pq.read_table(ROOT / "moa/recordings/graded_outcomes.parquet")
    grades = grades.filter(
        pc.field("query_id").isin(queries["query_id"].combine_chunks())
        & pc.field("model").isin(POOL)
    )
    rows = [
        {
            **row, "query_id": f"history/{row['query_id']}", "reason": None, "propensity": 1.0,
            "rule": "recorded", "router_version": "none", "run_id": "history", "cost_usd": 0,
            "graded_at": datetime(2026, 11, 1, tzinfo=UTC),
        }
        for row in grades.to_pylist()
    ]  # fmt: skip
    night = Night("history", datetime(2026, 11, 1, tzinfo=UTC))
    table.write(night, logged, pa.Table.from_pylist(rows, schema=LOGGED_GRADES), held_out_share=0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster that outlives the jobs."""
    with cluster(CLUSTER, says="context.address_info['gcs_address']") as found:
        yield found


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory, address: str) -> tuple[Loop, pa.Table, str]:
    """After a night by yesterday's router: its decisions, and what the grading has said."""
    loop, queries = Loop(tmp_path_factory.mktemp("loop"), address), recorded()
    remember(OutcomeTable(str(loop.table)), queries.slice(0, KNOWN))
    loop.train("first")
    assert loop.promote("first", "--force", "there is no traffic to judge it by").returncode == 0
    asked = queries.slice(KNOWN, ASKED)
    columns = {name: asked[name] for name in ("query_id", "prompt", "reference")}
    pq.write_table(
        pa.table({**columns, "tags": pa.array(tags_of(asked))}), loop.backlog, row_group_size=500
    )
    decisions = loop.route("monday")
    return loop, decisions, loop.grade("monday")


@pytest.fixture(scope="module")
def second(monday: tuple[Loop, pa.Table, str]) -> Loop:
    """A candidate has learnt from the night, and was judged on its other half."""
    loop = monday[0]
    loop.train("second")
    judged = loop.evaluate("second")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    return loop


def test_the_night_was_explored_and_graded_as_the_benchmarks_grade(
    monday: tuple[Loop, pa.Table, str],
) -> None:
    _, decisions, said = monday

    explored = pc.sum(pc.equal(decisions["rule"], "explored")).as_py()
    assert 0.75 * ASKED < explored < 0.85 * ASKED
    assert len(decisions) == ASKED
    assert "agree" in said


def test_a_sabotaged_candidate_is_refused_with_the_reasons(second: Loop) -> None:
    """Its grades are shuffled among all answers: they are those of the night, and mean nothing."""
    sabotaged = second.home / "sabotaged"
    for path in sorted(second.table.rglob("date=*/*.parquet")):
        target = sabotaged / path.relative_to(second.table)
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pq.ParquetFile(path).read()
        if GRADES in path.parts:
            order = np.random.default_rng(1).permutation(len(table))
            place = table.schema.get_field_index("grade")
            shuffled = table["grade"].take(order)
            table = table.set_column(place, table.schema.field("grade"), shuffled)
        pq.write_table(table, target)
    second.train("shuffled", sabotaged)

    judged, promoted = second.evaluate("shuffled"), second.promote("shuffled")

    assert (judged.returncode, promoted.returncode) == (1, 1)
    assert "FAILED both on logged traffic: worth less than the current router" in judged.stdout
    assert "REFUSED" in promoted.stderr
    assert "worth less than the current router" in promoted.stderr
    live = read_facts(str(second.routers)).version
    assert live == read_facts(str(second.home / "first")).version


def test_a_better_router_goes_live_and_a_rollback_restores_yesterday_bit_for_bit(
    second: Loop, monday: tuple[Loop, pa.Table, str]
) -> None:
    decisions = monday[1]

    promoted = second.promote("second")
    tuesday = second.route("tuesday")
    back = second.promote("second", "--rollback")
    wednesday = second.route("wednesday")

    assert (promoted.returncode, back.returncode) == (0, 0), promoted.stderr + back.stderr
    version = read_facts(str(second.home / "second")).version
    assert set(tuesday["router_version"].to_pylist()) == {version}
    assert not tuesday["model"].equals(decisions["model"])
    assert wednesday.equals(decisions)
    names = sorted((second.routers / "promotions").iterdir())
    assert [json.loads(one.read_text())["restores"] for one in names] == [None, None, 1]
