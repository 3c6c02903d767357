"""A redrive that is killed, stopped, met by another one, short of money, or given up."""

from __future__ import annotations

import re
import signal
from decimal import Decimal

import pyarrow as pa
import pytest

from moa.pipeline.unfinished import come_of
from moa.reports.wording import money
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import RunFolder
from tests.jobs.conftest import (
    OUT,
    QUERIES,
    JobUnderTest,
    Night,
    assert_whole,
)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_asks_nothing_twice(night: Night) -> None:
    dead, night_before = night.dead(), night.report()
    slow = ("--set", "dispatch.max_in_flight=8")
    night.job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})

    for wanted in (15, 40):
        start = night.start(*slow)
        while len(night.job.server.ledger()) < wanted:
            assert not start.ended_within(0.05)
        start.kill(family=True)
    other = night.refused("--reason", "vendor_failed")
    going_on = night.redrive("--dry-run", "--set", "dispatch.budget_usd=9")
    child = RunFolder(f"{night.folder}/redrives/001")
    so_far = come_of(child, child.peek_journals)
    left_usd = 9 - Decimal(night_before["cost_usd"]) - so_far.spent_usd
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
    assert "--abandon" in other
    assert so_far.settled > 0
    assert f"would go on: {so_far.settled} of {len(dead)} queries are settled" in going_on
    assert f"budget        {money(left_usd)} of dispatch.budget_usd are left" in going_on
    assert [path.name for path in (night.folder / "redrives").iterdir()] == ["001"]


@pytest.mark.slow
def test_a_redrive_that_is_given_up_keeps_what_it_has_and_the_rest_is_sent_anew(
    night: Night,
) -> None:
    dead = night.dead()
    night.job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})
    before = sum(night.outcomes()["attempts"].to_pylist())
    start = night.start("--set", "dispatch.max_in_flight=8", "--reason", "vendor_failed")
    while len(night.job.server.ledger()) < 30:
        assert not start.ended_within(0.05)
    start.kill(family=True)
    asked = night.asked()

    said = night.redrive("--abandon")

    assert night.asked() == asked
    assert re.search(r"redrive 001, closed: .* answered, 0 refused", said)
    assert_whole(night)
    left = night.dead()
    assert 0 < len(left) < len(dead)
    # What was out when it was killed is counted, whether it had reached the vendor or not.
    calls = sum(night.outcomes()["attempts"].to_pylist()) - before
    assert asked.total() <= calls <= asked.total() + 3 * 8
    assert "no unfinished redrive" in night.refused("--abandon")
    night.job.server.reset()
    again = night.redrive()
    assert f"redrive 002: {len(left)} queries sent again, {len(left)} answered" in again
    assert night.asked() == dict.fromkeys(left, 1)
    assert_whole(night)


@pytest.mark.slow
def test_a_redrive_of_which_nothing_has_come_may_begin_otherwise(night: Night) -> None:
    dead = night.dead()
    night.job.server.set_script({"refused_keys": ["a"]})
    status, _, err = night.start("--to-model", "anthropic/claude-3.5-sonnet").wait()
    assert status == 2
    assert "KeyRefused" in err
    night.job.server.reset()

    planned = night.redrive("--dry-run")
    said = night.redrive()

    assert f"{len(dead)} queries would be sent again, as {night.folder}/redrives/001" in planned
    assert f"redrive 001: {len(dead)} queries sent again, {len(dead)} answered" in said
    assert night.asked() == dict.fromkeys(dead, 1)
    assert_whole(night)


@pytest.mark.slow
def test_of_two_at_once_one_is_refused(night: Night) -> None:
    dead = night.dead()
    night.job.server.set_script({"latency": {"median_s": 0.5}})
    first = night.start("--set", "dispatch.max_in_flight=8")
    while len(night.job.server.ledger()) < 5:
        assert not first.ended_within(0.05)

    status, _, said = night.start().wait()

    assert status == 2
    assert re.search(r"redrives/001 is worked on by process \d+ on .*: wait for it", said)
    assert "run.id" not in said
    assert first.wait()[0] == 0
    assert night.asked() == dict.fromkeys(dead, 1)
    assert_whole(night)


@pytest.mark.slow
def test_killed_after_the_report_only_the_manifest_is_made(night: Night) -> None:
    night.redrive()
    child = RunFolder(f"{night.folder}/redrives/001")
    (night.folder / "redrives/001/manifest.json").unlink()
    asked, starts = night.asked(), child.starts()

    said = night.redrive()

    assert night.asked() == asked
    assert child.starts() == starts  # no cluster was needed
    assert "redrive 001: " in said
    assert child.manifest() is not None
    assert_whole(night)


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
        assert set(found["reason"].to_pylist()) == {None, "vendor_failed"}
        assert_whole(night)
    refused = night.refused("--set", f"dispatch.budget_usd={spent_usd}")
    assert "nothing is left to send its dead letters again" in refused


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
