"""Dead letters of a night on which a vendor was out, sent again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.schema import DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import RunFolder
from tests.jobs.conftest import KEYS, QUERIES, RAY, ROOT, JobUnderTest, Start, job_in

HASTY = ("dispatch.fallback=false", "dispatch.give_up_after_s=1")
OUT = {"outages": [{"provider": "openai", "to_s": 3600}]}
SONNET = "anthropic/claude-3.5-sonnet"


@dataclass
class Night:
    """A finished run with dead letters, in a folder of its own."""

    job: JobUnderTest
    name: str

    @property
    def folder(self) -> Path:
        return self.job.folder.parent / self.name

    @property
    def merged(self) -> MergedRun:
        return MergedRun(RunFolder(str(self.folder)))

    def start(self, *flags: str, command: str = "redrive_dead_letters") -> Start:
        config = ["--config", str(self.job.config), "--set", f"run.id={self.name}"]
        sets = [flag for one in HASTY for flag in ("--set", one)]
        process = subprocess.Popen(
            [sys.executable, f"jobs/{command}.py", *config, *sets, *flags],
            cwd=ROOT,
            env={**os.environ, **KEYS, **RAY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Start(process)
        self.job.starts.append(started)
        return started

    def redrive(self, *flags: str) -> str:
        status, out, err = self.start(*flags).wait()
        assert status == 0, err[-4000:]
        return out

    def refused(self, *flags: str) -> str:
        """What is said of a command that does nothing."""
        asked, files = len(self.job.server.ledger()), sorted(self.folder.rglob("*"))
        status, _, err = self.start(*flags).wait()
        assert status == 2
        assert "Traceback" not in err
        assert len(self.job.server.ledger()) == asked
        assert sorted(self.folder.rglob("*")) == files
        return err

    def outcomes(self) -> pa.Table:
        return pa.concat_tables(self.merged.outcomes()).sort_by("query_id")

    def dead(self) -> set[str]:
        letters = [table["query_id"].to_pylist() for table in self.merged.dead_letters()]
        return {name for names in letters for name in names}

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "report/report.json").read_text())
        return document

    def asked(self) -> Counter[str]:
        return Counter(call["query_id"] for call in self.job.server.ledger())


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobUnderTest]:
    """A run that has ended while OpenAI was out, without fallbacks."""
    with job_in(tmp_path_factory.mktemp("bad_night")) as job:
        job.server.set_script(OUT)
        job.said = job.run(*HASTY)
        yield job


@pytest.fixture
def night(bad_night: JobUnderTest, request: pytest.FixtureRequest) -> Night:
    """A copy of it, and vendors that are well again."""
    copy = Night(bad_night, re.sub(r"\W+", "-", request.node.name)[:60])
    shutil.copytree(bad_night.folder, copy.folder)
    bad_night.server.reset()
    return copy


def assert_whole(night: Night) -> None:
    """One outcome a query, one dead letter for each that is dead, and a bill that is their sum."""
    found, report = night.outcomes(), night.report()
    manifests = [json.loads(path.read_text()) for path in night.folder.rglob("manifest.json")]
    dead = found.filter(pc.equal(found["status"], "dead_letter"))
    assert found.schema.equals(OUTCOMES)
    assert len(set(found["query_id"].to_pylist())) == found.num_rows == QUERIES
    assert set(dead["query_id"].to_pylist()) == night.dead()
    assert sum(found["cost_usd"].to_pylist()) == Decimal(report["cost_usd"])
    assert sum(Decimal(one["cost_usd"]) for one in manifests) == Decimal(report["cost_usd"])
    assert report["queries"] == report["ended"] == QUERIES
    assert report["dead_letters"] == dead.num_rows
    assert sum(queries for _, _, queries in report["routes"]) == QUERIES


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
def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(night: Night) -> None:
    dead = night.dead()
    slow = ("--set", "dispatch.max_in_flight=8")
    night.job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})

    for wanted in (15, 40):
        start = night.start(*slow)
        while len(night.job.server.ledger()) < wanted:
            assert not start.ended_within(0.05)
        start.kill(family=True)
    other = night.refused("--reason", "vendor_failed")
    going_on = night.redrive("--dry-run")
    night.redrive(*slow)

    found = night.outcomes()
    unknown = dict(
        zip(found["query_id"].to_pylist(), found["unknown_calls"].to_pylist(), strict=True)
    )
    assert night.asked().keys() == dead
    assert all(1 <= calls <= 1 + unknown[name] for name, calls in night.asked().items())
    assert sum(unknown.values()) <= 2 * 3 * 8
    assert set(found["status"].to_pylist()) == {"answered"}
    assert_whole(night)
    assert "was begun with neither --reason nor --to-model and is not finished" in other
    assert "is not finished, and would go on" in going_on
    assert [path.name for path in (night.folder / "redrives").iterdir()] == ["001"]


def test_a_dry_run_says_what_would_be_sent(night: Night) -> None:
    dead = night.dead()

    said = night.redrive("--dry-run", "--set", "dispatch.budget_usd=9")

    assert f"{len(dead)} queries would be sent again" in said
    assert re.search(rf"vendor_failed +{len(dead)} queries", said)
    assert re.search(r"to openai/gpt-4o +\d+ queries", said)
    assert "of dispatch.budget_usd are left" in said
    assert "Nothing was called and nothing written." in said
    assert night.asked() == {}
    assert not (night.folder / "redrives").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "policy.willingness_to_pay=1"], "was begun with another config"),
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


@pytest.mark.slow
def test_asked_to_stop_it_drains_and_the_same_command_goes_on(night: Night) -> None:
    dead = night.dead()
    night.job.server.set_script({"latency": {"median_s": 0.5}})
    start = night.start("--set", "dispatch.max_in_flight=8")
    while len(night.job.server.ledger()) < 20:
        assert not start.ended_within(0.05)

    start.process.send_signal(signal.SIGINT)
    status, _, said = start.wait()
    asked = len(night.job.server.ledger())
    night.redrive()

    assert status == 130
    assert "The same command goes on" in said
    assert 20 <= asked < len(dead)
    assert night.asked() == dict.fromkeys(dead, 1)
    assert_whole(night)


@pytest.mark.slow
def test_a_budget_counts_what_the_run_and_its_redrives_have_spent(night: Night) -> None:
    spent_usd = Decimal(night.report()["cost_usd"])
    budget_usd = [spent_usd + Decimal(n) / 100 for n in (2, 4)]
    sets = ["--set", "dispatch.max_in_flight=2"]
    night.job.server.set_script({"latency": {"median_s": 0.05}})

    for most_usd in budget_usd:
        night.redrive(*sets, "--set", f"dispatch.budget_usd={most_usd}")

        found = night.outcomes()
        whole_usd = sum(found["cost_usd"].to_pylist())
        dearest_usd = max(found["cost_usd"].to_pylist())
        assert most_usd - dearest_usd * 2 < whole_usd < most_usd + dearest_usd * 2
        assert set(found["reason"].to_pylist()) == {None, "budget_spent"}
        assert_whole(night)
    refused = night.refused("--set", f"dispatch.budget_usd={spent_usd}")
    assert "nothing is left to send its dead letters again" in refused


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
    pq.write_table(pa.Table.from_pylist(rows, schema=backlog.schema), tmp_path / "log.parquet")
    bad_night.server.reset()
    night = Night(bad_night, "small-pool")
    sets = [
        *("--set", f"queries.path={tmp_path}/log.parquet"),
        *("--set", "pool=['openai/gpt-4o', 'openai/gpt-4o-mini']"),
    ]
    status, _, err = night.start(*sets, command="route_batch").wait()
    assert status == 0, err[-4000:]
    bad_night.server.reset()

    nothing = night.redrive(*sets)
    said = night.redrive(*sets, "--to-model", haiku)

    assert "nothing is to be sent again" in nothing
    assert "not sent: 5 nobody_can: no model of the pool can take it" in nothing
    assert "5 queries sent again, 5 answered" in said
    assert "not sent: 1 prompt_missing: the row is no valid request" in said
    assert {call["model"] for call in bad_night.server.ledger()} == {haiku}
    assert night.asked() == {row["query_id"]: 1 for row in rows[:5]}
    assert night.dead() == {rows[5]["query_id"]}
    report = night.report()
    assert [haiku, "redrive", 5] in report["routes"]
    assert report["detours"] == []
    assert Decimal(report["cost_usd"]) == sum(night.outcomes()["cost_usd"].to_pylist())


@pytest.mark.slow
def test_dead_letters_in_a_bucket_are_sent_again(
    bad_night: JobUnderTest, object_store: str
) -> None:
    bad_night.server.reset()
    bad_night.server.set_script(OUT)
    night = Night(bad_night, "night")
    there = ["--set", f"run.folder={object_store}/runs"]
    status, _, err = night.start(*there, command="route_batch").wait()
    assert status == 0, err[-4000:]
    bad_night.server.reset()
    bad_night.server.set_script({"latency": {"median_s": 0.3}})

    start = night.start(*there, "--set", "dispatch.max_in_flight=8")
    while len(bad_night.server.ledger()) < 30:
        assert not start.ended_within(0.05)
    start.kill(family=True)
    said = night.redrive(*there)

    run = RunFolder(f"{object_store}/runs/night")
    merged = MergedRun(run)
    found = pa.concat_tables(merged.outcomes())
    assert found.num_rows == QUERIES
    assert set(found["status"].to_pylist()) == {"answered"}
    assert sum(table.num_rows for table in merged.dead_letters()) == 0
    calls, unknown = night.asked(), sum(found["unknown_calls"].to_pylist())
    assert calls.total() <= len(calls) + unknown
    assert [one.url for one in run.redrives()] == [f"{run.url}/redrives/001"]
    assert f"report: {run.url}/report/report.html" in said


def test_a_run_that_is_not_finished_is_finished_first(night: Night) -> None:
    (night.folder / "manifest.json").unlink()

    said = night.refused()

    assert "is not finished: finish it by jobs/route_batch.py" in said
