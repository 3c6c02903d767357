"""Dead letters, sent to a model that the user names."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import (
    QUERIES,
    ROOT,
    JobUnderTest,
    Night,
    assert_whole,
)

SONNET = "anthropic/claude-3.5-sonnet"


@pytest.mark.slow
def test_dead_letters_go_to_another_model_that_can_take_them(night: Night) -> None:
    allowed = {
        row["query_id"]: row["allowed_models"]
        for table in map(pq.read_table, (night.folder / "queries").iterdir())
        for row in table.select(["query_id", "allowed_models"]).to_pylist()
    }
    dead = night.dead()
    can = {name for name in dead if allowed[name] is None or SONNET in allowed[name]}

    said = night.redrive("--to-model", SONNET)

    calls = night.job.server.ledger()
    report = night.report()
    assert {call["model"] for call in calls} == {SONNET}
    assert night.asked() == dict.fromkeys(can, 1)
    assert night.dead() == dead - can
    assert ("cannot take it: the query does not allow it" in said) == bool(dead - can)
    assert_whole(night)
    assert [SONNET, "redrive", len(can)] in report["routes"]
    assert sum(one["queries"] for one in report["detours"]) == len(can)
    assert {one["model"] for one in report["detours"]} == {SONNET}
    assert report["outage"]["queries"] == len(can)
    best = next(one for one in report["comparisons"] if one["model"] == "openai/gpt-4o")
    assert best["queries"] == QUERIES - len(dead - can)


@pytest.mark.slow
def test_what_nobody_in_the_pool_can_goes_to_a_model_outside_it(
    bad_night: JobUnderTest, tmp_path: Path
) -> None:
    haiku = "anthropic/claude-3-haiku"
    recorded = pq.read_table(
        ROOT / "moa/recordings/completions.parquet", columns=["query_id", "model"]
    )
    by_haiku = recorded.filter(pc.equal(recorded["model"], haiku))["query_id"]
    backlog = pq.read_table(ROOT / "moa/recordings/demo_backlog.parquet")
    rows = backlog.filter(pc.is_in(backlog["query_id"], by_haiku)).slice(0, 20).to_pylist()
    for row in rows[:5]:
        row["allowed_models"] = [haiku]
    rows[5]["prompt"] = None
    twin = {**rows[0], "query_id": "twin"}
    rows.append(twin)
    pq.write_table(pa.Table.from_pylist(rows, schema=backlog.schema), tmp_path / "log.parquet")
    bad_night.server.reset()
    night = Night(bad_night, "small-pool")
    sets = [
        *("--set", f"queries.path={tmp_path}/log.parquet"),
        *("--set", "pool=['openai/gpt-4o', 'openai/gpt-4o-mini']"),
        *("--set", "queries.dedupe=true"),
    ]
    status, _, err = night.start(*sets, command="route_batch").wait()
    assert status == 0, err[-4000:]
    bad_night.server.reset()

    nothing = night.redrive()
    bad_night.server.set_script({"queries": {rows[1]["query_id"]: {"status": 400}}})
    first = night.redrive("--to-model", haiku)
    plain = night.redrive()
    bad_night.server.set_script({})
    said = night.redrive("--to-model", haiku)

    assert "nothing is to be sent again" in nothing
    assert "not sent: 6 nobody_can: no model of the pool can take it" in nothing
    assert "6 queries sent again, 5 answered, 0 refused, 1 still dead" in first
    assert "not sent: 1 invalid_request: no model of the pool can take it" in plain
    assert "redrive 002: 1 query sent again, 1 answered" in said
    assert "not sent: 1 prompt_missing: the row is no valid request" in said
    assert {call["model"] for call in bad_night.server.ledger()} == {haiku}
    assert night.asked() == {row["query_id"]: 1 + (row is rows[1]) for row in rows[:5]}
    shared = night.outcomes().filter(pc.is_valid(night.outcomes()["same_as"])).to_pylist()
    assert [(one["query_id"], one["same_as"], one["status"]) for one in shared] == [
        ("twin", rows[0]["query_id"], "answered")
    ]
    assert night.dead() == {rows[5]["query_id"]}
    report = night.report()
    assert [haiku, "redrive", 5] in report["routes"]
    assert report["detours"] == []
    assert Decimal(report["cost_usd"]) == sum(night.outcomes()["cost_usd"].to_pylist())
