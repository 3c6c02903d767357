"""Dead letters of a night on which a vendor was out, sent again."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.reports.wording import money
from moa.schema import DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from tests.jobs.conftest import (
    QUERIES,
    Night,
    assert_whole,
)


def test_after_an_outage_the_dead_letters_are_answered(night: Night) -> None:
    before, dead = night.report(), night.dead()

    said = night.redrive()

    assert before["outage"]["dead_letters"] == [["vendor_failed", len(dead)]]
    assert 20 < len(dead) < QUERIES
    assert night.asked() == dict.fromkeys(dead, 1)
    assert set(night.outcomes()["status"].to_pylist()) == {"answered"}
    assert_whole(night)
    assert f"redrive 001: {len(dead)} queries sent again, {len(dead)} answered" in said
    assert f"{QUERIES} queries: {QUERIES} answered" in said
    after = night.report()
    assert after["run"]["redrives"] == 1
    assert after["run"]["wall_s"] > before["run"]["wall_s"]
    assert after["calls"] == before["calls"] + len(dead)
    assert after["outage"] is None
    assert "nothing is to be sent again: no query is dead" in night.redrive()
    finished, out, _ = night.start(command="route_batch").wait()
    assert (finished, f"{QUERIES} answered" in out) == (0, True)


def test_the_folder_of_a_redrive_is_that_of_a_run(night: Night) -> None:
    dead = night.dead()

    night.redrive("--reason", "vendor_failed")

    child = night.folder / "redrives" / "001"
    kept = json.loads((child / "config.json").read_text())
    parent = json.loads((night.folder / "config.json").read_text())
    parts = {path.name for path in (child / "queries").iterdir()}
    assert kept["redrive"] == {"of": night.name, "reasons": ["vendor_failed"], "to_model": None}
    assert kept["identity"].items() >= parent["identity"].items()
    assert parts == {path.name for path in (child / "decisions").iterdir()}
    assert parts <= {path.name for path in (night.folder / "queries").iterdir()}
    for name, schema in [
        ("queries", SCORED_QUERIES), ("decisions", ROUTING_DECISIONS), ("outcomes", OUTCOMES),
    ]:  # fmt: skip
        table = pa.concat_tables(map(pq.read_table, (child / name).iterdir()))
        assert table.schema.equals(schema)
        assert set(table["query_id"].to_pylist()) == dead
    assert not (child / "journal").exists()


@pytest.mark.slow
def test_what_is_still_dead_can_be_sent_once_more_by_its_reason(night: Night) -> None:
    dead = sorted(night.dead())
    stubborn = {name: {"status": 400, "message": "no"} for name in dead[:3]}
    lost = {name: {"kind": "cut_json"} for name in dead[3:5]}
    night.job.server.set_script({"queries": stubborn | lost})

    first = night.redrive("--set", "dispatch.max_attempts=2")
    still = night.dead()
    doubtful = night.report()
    night.job.server.reset()
    second = night.redrive("--reason", "invalid_request")

    assert still == set(dead[:5])
    assert f"{len(dead) - 5} answered, 0 refused, 5 still dead" in first
    assert doubtful["outage"]["dead_letters"] == [["vendor_failed", 2]]
    assert [one["query_id"] for one in doubtful["doubts"]] == dead[3:5]
    assert doubtful["lost_answers"] == 4
    assert night.asked() == dict.fromkeys(dead[:3], 1)
    assert night.dead() == set(dead[3:5])
    assert "redrive 002: 3 queries sent again, 3 answered" in second
    assert "not sent: 2 vendor_failed: not asked for by --reason" in second
    assert night.report()["lost_answers"] == 4
    assert_whole(night)
    letters = pa.concat_tables(night.merged.dead_letters())
    assert letters.schema.equals(DEAD_LETTERS)
    assert letters["reason"].to_pylist() == ["vendor_failed"] * 2


def test_a_dry_run_says_what_would_be_sent(night: Night) -> None:
    dead = night.dead()
    decided = pa.concat_tables(night.merged.decided()).to_pylist()
    pool = json.loads((night.folder / "config.json").read_text())["config"]["pool"]
    expected_usd = sum(
        one["expected_cost_usd"][pool.index(one["model"])]
        for one in decided
        if one["query_id"] in dead
    )
    spent_usd = Decimal(night.report()["cost_usd"])

    said = night.redrive("--dry-run", "--set", "dispatch.budget_usd=9")
    little_usd = spent_usd + Decimal(expected_usd) / 2
    scarce = night.redrive("--dry-run", "--set", f"dispatch.budget_usd={little_usd:.6f}")

    assert f"expected cost {money(expected_usd)}, without fallbacks\n" in said
    assert f"budget        {money(9 - spent_usd)} of dispatch.budget_usd are left" in said
    assert f"expected cost {money(expected_usd)}, without fallbacks: more than is left" in scarce
    assert f"{len(dead)} queries would be sent again" in said
    assert re.search(rf"vendor_failed +{len(dead)} queries", said)
    assert re.search(r"to openai/gpt-4o +\d+ queries", said)
    assert "Nothing was called and nothing written." in said
    assert night.asked() == {}
    assert not (night.folder / "redrives").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--set", "policy.willingness_to_pay=1"],
            "run was begun with 0.05, .*: leave it out",
        ),
        (["--set", "run.id=nowhere"], "no run has begun here"),
        (["--reason", "vendor_fail"], "no dead letter has that reason; there are account_refused"),
        (["--to-model", "openai/gpt-4"], "--to-model: .* has no model 'openai/gpt-4'.*gpt-4o"),
        (["--set", "dispatch.budget_usd=0.01"], "nothing is left to send its dead letters again"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_done(night: Night, flags: list[str], said: str) -> None:
    told = night.refused(*flags)

    assert re.search(said, told), told


def test_the_query_log_is_not_needed_any_more(night: Night) -> None:
    log = night.job.config.parent / "backlog.parquet"
    hidden = log.rename(log.with_suffix(".hidden"))
    try:
        said = night.redrive("--dry-run")
    finally:
        hidden.rename(log)

    assert f"{len(night.dead())} queries would be sent again" in said


def test_a_run_that_is_not_finished_is_finished_first(night: Night) -> None:
    (night.folder / "manifest.json").unlink()

    said = night.refused()

    assert "is not finished: finish it by jobs/route_batch.py" in said
