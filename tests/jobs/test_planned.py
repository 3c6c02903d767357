"""Runs that plan their whole backlog before the first call: budgets, deadlines, batches, kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import KEYS, QUERIES, ROOT, JobUnderTest, job_in

pytestmark = pytest.mark.alone

BOTH = "plan.lanes=['live','batch']"
SOON = "plan.batch_hours=0.0001"
"""Batches are counted on to end at once, so that they are bought though the deadline is near."""

CENT = Decimal("0.01")
"""A budget may be exceeded by what the calls under way cost above their estimates."""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobUnderTest]:
    with job_in(tmp_path) as under_test:
        yield under_test


def outcomes(job: JobUnderTest) -> pa.Table:
    return pq.read_table(job.folder / "outcomes")


def plans(job: JobUnderTest) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((job.folder / "plan").iterdir())]


def assert_answered_once(job: JobUnderTest, queries: int = QUERIES) -> pa.Table:
    """Every query has one outcome, an answer, and was bought once."""
    found = outcomes(job)
    bought = Counter(
        entry["query_id"]
        for entry in job.server.ledger()
        if entry["fate"] in ("ok", "length", "refusal")
    )
    assert sorted(found["query_id"].to_pylist()) == sorted(bought)
    assert found.num_rows == queries
    assert set(found["status"].to_pylist()) == {"answered"}
    assert set(bought.values()) == {1}
    return found


def usd(table: pa.Table) -> Decimal:
    return sum(table["cost_usd"].to_pylist(), Decimal(0))


def wait_until(condition: Any, seconds: float = 60) -> None:  # noqa: ANN401
    """The job is another process: its files and its vendors' ledger are all that is seen of it."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)  # the job and its vendors are other processes, so they have to be asked


def plan_only(job: JobUnderTest, *overrides: str) -> str:
    started = job.start(*overrides, flags=("--plan-only",))
    status, out, err = started.wait()
    assert status == 0, err[-4000:]
    return out


def test_a_plan_is_shown_approved_and_carried_out(job: JobUnderTest) -> None:
    said = plan_only(job, BOTH)
    (plan,) = plans(job)
    expected_usd = plan["forecast"]["cost_usd"]["expected"]

    assert job.server.ledger() == []
    assert "plan.html" in said
    refused = job.start(BOTH, "plan.approve_usd=0.01").wait()
    assert refused[0] == 2
    assert "--approve-up-to" in refused[2]
    assert job.server.ledger() == []

    status, _, err = job.start(
        BOTH, "plan.approve_usd=0.01", flags=("--approve-up-to", f"{2 * expected_usd:.2f}")
    ).wait()

    assert status == 0, err[-4000:]
    found = assert_answered_once(job)
    assert set(found["lane"].to_pylist()) == {"batch"}  # at half the price whenever there is time
    low, high = (plan["forecast"]["cost_usd"][name] for name in ("low", "high"))
    assert low <= float(usd(found)) <= high
    assert job.server.batches_summary()["same_queries_max"] == 1


def test_what_cannot_be_is_said_before_the_first_call(job: JobUnderTest) -> None:
    status, _, said = job.start("plan.lanes=['live']", "dispatch.budget_usd=0.001").wait()

    assert status == 2
    assert "no plan keeps budget" in said
    assert "raise it by" in said
    soon = datetime.now(UTC) + timedelta(seconds=45)
    slow = job.start(f"plan.finish_by={soon.isoformat()}", "dispatch.max_in_flight=1").wait()
    assert slow[0] == 2
    assert "at the earliest" in slow[2]
    assert job.server.ledger() == []


@pytest.mark.slow
def test_a_run_keeps_its_budget_though_answers_are_twice_as_long_as_expected(
    tmp_path: Path,
) -> None:
    with job_in(tmp_path, rows=1000, part_rows=10) as job:
        plan_only(job, "plan.lanes=['live']")
        expected_usd = plans(job)[0]["forecast"]["cost_usd"]["expected"]
        job.server.set_script({"usage_factor": 2, "latency": {"median_s": 0.3}})
        budget_usd = round(expected_usd * 1.1, 4)

        job.run(
            "plan.lanes=['live']", f"dispatch.budget_usd={budget_usd}", "plan.replan_every_s=0.5",
            "dispatch.max_in_flight=8",
        )  # fmt: skip

        found = assert_answered_once(job, 1000)
        assert usd(found) <= Decimal(str(budget_usd)) + CENT
        assert len(plans(job)) > 2
        assert float(usd(found)) > 0.8 * budget_usd


@pytest.mark.slow
def test_batches_keep_the_budget_though_answers_are_twice_as_long_as_expected(
    tmp_path: Path,
) -> None:
    with job_in(tmp_path, rows=600, part_rows=20) as job:
        plan_only(job, BOTH)
        expected_usd = plans(job)[0]["forecast"]["cost_usd"]["expected"]
        job.server.set_script({"usage_factor": 2, "batch": {"takes_s": 1}})
        budget_usd = Decimal(str(round(expected_usd * 1.1, 4)))

        job.run(BOTH, f"dispatch.budget_usd={budget_usd}", "dispatch.max_in_flight=8")

        found = outcomes(job)
        answered = found.filter(pc.equal(found["status"], "answered"))
        assert found.num_rows == 600
        assert usd(found) <= budget_usd + CENT
        assert float(usd(found)) > 0.85 * float(budget_usd)
        assert answered.num_rows > 0.4 * 600  # what is expected to cost that buys half of it
        assert set(found["reason"].to_pylist()) == {None, "budget_spent"}


@pytest.mark.slow
def test_expired_and_stuck_batches_end_before_the_deadline_at_half_the_price(
    tmp_path: Path,
) -> None:
    with job_in(tmp_path, part_rows=60) as job:
        fates = ["expires", "stuck", "expires", "expires"]
        job.server.set_script(
            {
                "batch": {
                    "time_scale": 20_000, "waits_s": 10_000, "takes_s": 10_000,
                    "unfinished_when_expired": 0.5, "finished_when_stuck": 0.5,
                },
                "providers": {"openai": {"batch": {
                    "time_scale": 20_000, "waits_s": 10_000, "takes_s": 10_000,
                    "unfinished_when_expired": 0.5, "finished_when_stuck": 0.5, "fates": fates,
                }}},
            }
        )  # fmt: skip
        deadline = datetime.now(UTC) + timedelta(seconds=60)

        job.run(BOTH, SOON, f"plan.finish_by={deadline.isoformat()}")

        ended = datetime.fromisoformat(
            json.loads((job.folder / "starts/000.json").read_text())["to"]
        )
        found = assert_answered_once(job)
        batched = found.filter(pc.equal(found["lane"], "batch"))
        assert ended < deadline
        assert batched.num_rows > 0.5 * QUERIES
        ends = Counter(one["end"] for one in job.server.batches())
        assert ends["expired"] == 3
        assert ends["cancelled"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("at", ["waiting", "fetching"])
def test_a_job_that_is_killed_while_batches_are_out_submits_none_again(
    job: JobUnderTest, at: str
) -> None:
    job.server.set_script({"batch": {"takes_s": 6}})
    killed = job.start(BOTH)
    if at == "waiting":
        wait_until(lambda: len(job.server.batches()) >= 5)
    else:
        wait_until(lambda: any(one["fetches"] for one in job.server.batches()))
    killed.kill(family=True)
    submitted = len(job.server.batches())

    job.run(BOTH)

    assert_answered_once(job)
    assert job.server.batches_summary()["same_queries_max"] == 1
    assert len(job.server.batches()) >= submitted


@pytest.mark.slow
def test_a_planned_job_that_is_killed_among_live_calls_plans_the_rest_and_keeps_its_budget(
    tmp_path: Path,
) -> None:
    with job_in(tmp_path, rows=600, part_rows=10) as job:
        plan_only(job, "plan.lanes=['live']")
        expected_usd = plans(job)[0]["forecast"]["cost_usd"]["expected"]
        job.server.set_script({"latency": {"median_s": 0.2}})
        budget_usd = round(expected_usd * 0.9, 4)
        sets = (
            "plan.lanes=['live']", f"dispatch.budget_usd={budget_usd}", "plan.replan_every_s=1",
            "dispatch.max_in_flight=8",
        )  # fmt: skip
        for after in (80, 200):
            killed = job.start(*sets)
            wait_until(lambda after=after: len(job.server.ledger()) >= after)
            killed.kill(family=True)

        job.run(*sets)

        found = outcomes(job)
        calls = Counter(entry["query_id"] for entry in job.server.ledger())
        unknown = dict(
            zip(found["query_id"].to_pylist(), found["unknown_calls"].to_pylist(), strict=True)
        )
        assert found.num_rows == len(unknown) == 600
        assert all(calls[name] <= 1 + listed for name, listed in unknown.items())
        assert sum(unknown.values()) <= 2 * 3 * 8
        assert usd(found) <= Decimal(str(budget_usd)) + CENT
        assert set(found["status"].to_pylist()) == {"answered"}


@pytest.mark.slow
def test_batches_that_are_out_are_listed_and_cancelled(job: JobUnderTest) -> None:
    job.server.set_script({"batch": {"takes_s": 3600, "waits_s": 0}})
    started = job.start(BOTH)
    wait_until(lambda: len(job.server.batches()) >= 3)
    out = job.server.batches()

    said = listed(job)
    told = {line.split()[0]: line.split()[1:5] for line in said.splitlines() if line}
    for one in out:
        model, queries, answered, state = told[one["id"]]
        assert model.split("/")[0] == {"gemini": "google"}.get(one["provider"], one["provider"])
        assert (queries, answered) == (str(one["requests"]), "0")
        assert state in ("waiting", "running")
    assert "no batch of this run" in listed(job, "--cancel", "strange", status=2)
    listed(job, "--cancel", "all")
    status, _, err = started.wait()

    assert status == 0, err[-4000:]
    assert_answered_once(job)
    assert {one["end"] for one in job.server.batches()} == {"cancelled"}
    assert "no such run" in listed(job, "--set", "run.id=another", status=2)


def listed(job: JobUnderTest, *flags: str, status: int = 0) -> str:
    """What `jobs/list_batches.py` says."""
    config = ("--config", str(job.config), "--set", BOTH)
    ended = subprocess.run(
        [sys.executable, "jobs/list_batches.py", *config, *flags],
        cwd=ROOT,
        env={**os.environ, **KEYS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stderr[-4000:]
    return ended.stdout + ended.stderr
