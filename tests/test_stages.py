from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.catalog import load_catalog
from moa.config import PolicyConfig, QueryLogConfig, RouterConfig
from moa.decisions.deciding import Deciding
from moa.prices import PriceTable
from moa.schema import OUTCOMES, PARTS, PREPARED_QUERIES, ROUTING_DECISIONS, SCORED_QUERIES
from moa.stages import Decide, Read, Score, pack, unpack
from moa.storage.query_log import find_backlog
from moa.storage.run_folder import PartName, PieceName, RunFolder
from moa.storage.scan import scan

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
POOL = ("openai/gpt-4o-mini", "google/gemini-1.5-flash", "openai/gpt-4o")
MODELS = tuple(CATALOG.models[name] for name in POOL)
PRICES = PriceTable.build(MODELS)
SCORE = Score(RouterConfig(usd_per_hour=Decimal(0)), POOL)


class Backlog:
    """A query log, its run folder, and the stages over it."""

    def __init__(self, folder: Path, table: pa.Table, **log: object) -> None:
        pq.write_table(table, folder / "log.parquet", row_group_size=25)
        self.log = QueryLogConfig.model_validate({"path": str(folder / "log.parquet"), **log})
        self.partitions = find_backlog(self.log).partitions
        self.url = str(folder / "run")
        self.run = RunFolder(self.url)
        self.run.write_scan(self.partitions, scan(self.partitions, self.log))

    def read(self, *decided: PartName) -> list[pa.Table]:
        stage = Read(self.log, self.partitions, self.url, frozenset(decided))
        return list(stage(pa.table({"partition": [p.number for p in self.partitions]})))

    def decide(self, packed: list[pa.Table]) -> list[pa.Table]:
        policy = PolicyConfig(willingness_to_pay=Decimal("0.05"))
        deciding = Deciding(MODELS, policy, PRICES, "router", "openai/gpt-4o")
        stage = Decide(deciding, self.url)
        return [one for table in packed for scored in SCORE(table) for one in stage(scored)]


def prompts(count: int) -> pa.Table:
    return pa.table(
        {
            "query_id": [f"q{n}" for n in range(count)],
            "prompt": [f"What is {n} times {n}?" for n in range(count)],
        }
    )


@pytest.mark.parametrize("part_rows", [1, 7, 25, 26, 1000])
def test_equal_rows_make_equal_parts(tmp_path: Path, part_rows: int) -> None:
    backlog = Backlog(tmp_path, prompts(60), part_rows=part_rows)

    parts = [one for table in backlog.read() for one in unpack(table)]

    names = [name for name, _, _ in parts]
    rows = [(n, r) for name, t, _ in parts for n, r in [(name.partition, t.num_rows)]]
    assert sum(r for _, r in rows) == 60
    assert all(r <= part_rows for _, r in rows)
    assert all(name.end_row - name.first_row == t.num_rows for name, t, _ in parts)
    assert names == sorted(names)
    assert names == [n for table in backlog.read() for n, _, _ in unpack(table)]


def test_a_part_travels_as_one_row_and_comes_back_whole() -> None:
    table = PREPARED_QUERIES.empty_table()
    name = PartName(3, 20, 20)

    packed = pa.concat_tables([pack(name, table, 1.5)] * 2)

    assert packed.num_rows == 2
    for part, rows, router_s in unpack(packed):
        assert (part, router_s) == (name, 1.5)
        assert rows.schema.equals(PREPARED_QUERIES)


def test_every_row_is_decided_once_and_told(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, prompts(60), part_rows=20)

    told = backlog.decide(backlog.read())

    assert all(table.schema.equals(PARTS) for table in told)
    assert sum(sum(table["rows"].to_pylist()) for table in told) == 60
    seen = []
    for part in backlog.run.decided_parts():
        decisions, queries = backlog.run.read_decisions(part), backlog.run.read_queries(part)
        assert decisions.schema.equals(ROUTING_DECISIONS)
        assert queries.schema.equals(SCORED_QUERIES)
        assert decisions["query_id"].to_pylist() == queries["query_id"].to_pylist()
        seen += decisions["query_id"].to_pylist()
    assert sorted(seen) == sorted(f"q{n}" for n in range(60))


def test_what_is_decided_is_not_read_again(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, prompts(60), part_rows=20)
    backlog.decide(backlog.read())
    decided = backlog.run.decided_parts()

    assert backlog.read(*decided) == []
    assert len(backlog.read(*decided[1:])) == 1


def test_a_decision_depends_on_its_query_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = Backlog(tmp_path / "one", prompts(60), part_rows=7)
    two = Backlog(tmp_path / "two", prompts(60), part_rows=25)

    tables = []
    for backlog in (one, two):
        backlog.decide(backlog.read())
        table = pa.concat_tables(backlog.run.tables("decisions")()).sort_by("query_id")
        tables.append(table.drop_columns(["router_s"]))

    assert tables[0].equals(tables[1])


def test_rows_that_go_to_nobody_are_dead_letters_at_once(tmp_path: Path) -> None:
    names = ["good", "null", "forbidden", "long", "leader", "follower", "cheap", "best", "wrong"]
    table = pa.table(
        {
            "query_id": names,
            "prompt": ["Hi", None, "Hi", "word " * 3_000_000, "Hello", "Hello", "A", "B", "C"],
            "allowed_models": [None, None, ["n/n"], None, ["x/y"], ["x/y"], None, None, None],
            "allowed_lanes": [["live"], *[None] * 5, ["flex", "batch"], None, ["now"]],
            "min_grade": [0.0, *[None] * 6, 1.0, None],
        }
    )
    backlog = Backlog(tmp_path, table, dedupe=True)

    backlog.decide(backlog.read())

    (part,) = {piece.part for piece in backlog.run.finished_pieces()}
    outcomes = backlog.run.read_outcomes(PieceName(part, "none"))
    letters = {
        row["query_id"]: row for table in backlog.run.tables("dead_letters")()
        for row in table.to_pylist()
    }  # fmt: skip
    assert outcomes.schema.equals(OUTCOMES)
    assert set(outcomes["status"].to_pylist()) == {"dead_letter"}
    assert letters.keys() == set(names) - {"good"}
    assert letters["null"]["reason"] == "prompt_missing"
    assert letters["forbidden"]["reason"] == "nobody_can"
    assert letters["forbidden"]["detail"].startswith("allowed_models")
    assert letters["long"]["detail"].startswith("window")
    assert letters["cheap"]["detail"].startswith("allowed_lanes")
    assert letters["best"]["detail"].startswith("min_grade")
    assert letters["wrong"]["reason"] == "request_malformed"
    assert letters["wrong"]["detail"] == "allowed_lanes takes live, flex, batch, not 'now'"
    assert outcomes.num_rows == len(letters)


def test_whoever_answers_is_expected_to_reach_the_least_grade_of_the_query(
    tmp_path: Path,
) -> None:
    least = [n / 60 for n in range(60)]
    table = prompts(60).append_column("min_grade", pa.array(least))
    backlog = Backlog(tmp_path, table)

    backlog.decide(backlog.read())

    decided = pa.concat_tables(backlog.run.tables("decisions")()).to_pylist()
    asked = dict(zip(table["query_id"].to_pylist(), least, strict=True))
    assert len(decided) == 60
    for row in decided:
        named = [*([row["model"]] if row["model"] else []), *row["fallbacks"]]
        grade = dict(zip(POOL, row["expected_grade"], strict=True))
        good = {name for name in POOL if grade[name] >= np.float32(asked[row["query_id"]])}
        assert set(named) == good
    assert {len(row["fallbacks"]) for row in decided} > {0, len(POOL) - 1}
    assert any(row["model"] is None for row in decided)


def test_a_limit_on_output_lowers_the_expected_cost(tmp_path: Path) -> None:
    table = prompts(2).append_column("max_output_tokens", pa.array([1, None], pa.int64()))
    backlog = Backlog(tmp_path, table)

    backlog.decide(backlog.read())

    (decisions,) = backlog.run.tables("decisions")()
    short, long = decisions["expected_cost_usd"].to_pylist()
    assert all(a < b for a, b in zip(short, long, strict=True))


def test_tools_and_images_count_as_prompt_in_windows_and_costs(tmp_path: Path) -> None:
    tool = '[{"function":{"name":"f","description":"' + "x" * 40_000 + '"}}]'
    huge = tool.replace("x" * 40_000, "x" * 40_000_000)
    table = prompts(3).append_column("tools", pa.array([None, tool, huge]))
    backlog = Backlog(tmp_path, table)

    backlog.decide(backlog.read())

    (queries,) = (backlog.run.read_queries(part) for part in backlog.run.decided_parts())
    (decisions,) = backlog.run.tables("decisions")()
    plain, tools, _ = (min(tokens) for tokens in queries["expected_input_tokens"].to_pylist())
    assert 10_000 < tools - plain < 10_100
    assert decisions["rule"].to_pylist()[2] == "nobody_can"
    cost = [max(one) for one in decisions["expected_cost_usd"].to_pylist()]
    assert cost[0] * 10 < cost[1]


def test_long_prompts_are_read_and_cut_by_their_bytes_at_every_start_alike(tmp_path: Path) -> None:
    texts = [f"{n}{'word ' * 400_000}" for n in range(50)]
    ids = [f"q{n}" for n in range(50)]
    backlog = Backlog(tmp_path, pa.table({"query_id": ids, "prompt": texts}))

    first, again = (
        [(str(name), part.num_rows) for table in backlog.read() for name, part, _ in unpack(table)]
        for _ in range(2)
    )

    assert first == again
    assert sum(rows for _, rows in first) == 50
    assert all(rows <= 20 for _, rows in first)
