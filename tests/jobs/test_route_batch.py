from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.schema import COST_REPORT, DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.object_store import Folder
from moa.storage.run_folder import RunFolder
from tests.jobs.conftest import KEYS, QUERIES, ROOT, JobUnderTest

WHAT = ["query_id", "status", "model", "completion", "input_tokens", "output_tokens", "cost_usd"]
"""What an outcome says, whenever and however often the job was started."""


def outcomes(folder: Path) -> pa.Table:
    table = pq.read_table(folder / "outcomes")
    return table.sort_by("query_id")


def the_same(folder: Path, other: Path) -> bool:
    return bool(outcomes(folder).select(WHAT).equals(outcomes(other).select(WHAT)))


def assert_only_repeats_what_was_out(found: pa.Table, job: JobUnderTest, *, kills: int) -> None:
    """Nothing answered is asked again, and each call that may have been paid twice is listed.

    What was out when the job died is at most eight calls a vendor and kill. A call that the
    journal holds as sent may have died before it reached the vendor: listed, and not repeated.
    """
    calls = Counter(call["query_id"] for call in job.server.ledger())
    unknown = dict(
        zip(*found.select(["query_id", "unknown_calls"]).to_pydict().values(), strict=True)
    )
    assert all(1 <= calls[name] <= 1 + listed for name, listed in unknown.items())
    assert sum(unknown.values()) <= kills * 3 * 8


def test_every_query_has_one_outcome_and_a_bill(finished: JobUnderTest) -> None:
    found = outcomes(finished.folder)
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    calls = Counter(call["query_id"] for call in finished.server.ledger())

    assert found.num_rows == QUERIES
    assert len(set(found["query_id"].to_pylist())) == QUERIES
    assert set(found["status"].to_pylist()) == {"answered"}
    assert set(calls.values()) == {1}
    assert len(calls) == QUERIES
    assert sum(found["cost_usd"].to_pylist()) == Decimal(manifest["cost_usd"]) > 0
    assert manifest["outcomes"] == {"answered": QUERIES}
    for name, schema in [
        ("queries", SCORED_QUERIES), ("decisions", ROUTING_DECISIONS), ("outcomes", OUTCOMES),
    ]:  # fmt: skip
        for path in (finished.folder / name).iterdir():
            assert pq.read_schema(path).equals(schema), path


def test_what_made_the_results_stands_beside_them(finished: JobUnderTest) -> None:
    facts = json.loads((finished.folder / "config.json").read_text())
    bill = pq.read_table(finished.folder / "report" / "report.parquet")

    assert facts["config"]["policy"]["willingness_to_pay"] == "0.05"
    assert len(facts["identity"]["config"]) == 64
    assert facts["price_date"]
    assert facts["versions"]["ray"]
    assert facts["git_commit"]
    assert bill.schema.equals(COST_REPORT)
    assert f"report: {finished.folder}/report/report.html" in finished.said
    assert (finished.folder / "report" / "report.html").stat().st_size > 20_000
    assert not (finished.folder / "journal").exists()
    assert set(json.loads((finished.folder / "manifest.json").read_text())["files"]) == {
        str(path.relative_to(finished.folder))
        for path in finished.folder.rglob("*")
        if path.is_file() and path.name not in ("lock", "manifest.json")
    }


def test_a_finished_run_says_so_and_calls_nobody(finished: JobUnderTest) -> None:
    said = finished.run()

    assert "has finished before; nothing was done" in said
    assert len(finished.server.ledger()) == QUERIES


def test_another_policy_under_the_same_id_is_refused(finished: JobUnderTest) -> None:
    status, _, said = finished.start("policy.willingness_to_pay=1").wait()

    assert status == 2
    assert "was begun with another config" in said
    assert "run.id" in said


def test_a_report_can_be_made_again(finished: JobUnderTest) -> None:
    page = finished.folder / "report" / "report.html"
    page.unlink()

    done = subprocess.run(
        [sys.executable, "jobs/report_costs.py", str(finished.folder)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert page.exists()
    assert f"{QUERIES:,} queries: {QUERIES:,} answered" in done.stdout


def test_every_key_of_the_config_is_explained() -> None:
    done = subprocess.run(
        [sys.executable, "jobs/route_batch.py", "--explain-config"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "| `policy.willingness_to_pay` |" in done.stdout
    assert "USD per unit of grade" in done.stdout


def test_a_dry_run_checks_everything_and_does_nothing(job: JobUnderTest) -> None:
    done = subprocess.run(
        [sys.executable, "jobs/route_batch.py", "--config", str(job.config), "--dry-run"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **KEYS},
    )  # fmt: skip

    assert '"willingness_to_pay": "0.05"' in done.stdout
    assert "accounts      openai, anthropic, google: credentials found" in done.stdout
    assert "5 partitions, 240 rows" in done.stdout
    assert job.server.ledger() == []
    assert not job.folder.exists()


def test_killed_at_random_points_it_ends_as_if_undisturbed(
    job: JobUnderTest, finished: JobUnderTest
) -> None:
    job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})
    random = Random(20_261_125)
    kills = (False, True, False)

    for whole_family in kills:
        start = job.start("dispatch.max_in_flight=8")
        answered = len(job.server.ledger())
        wanted = answered + random.randint(1, 70)
        while len(job.server.ledger()) < wanted:
            assert not start.ended_within(0.05)
        start.kill(family=whole_family)
    job.run("dispatch.max_in_flight=8")

    assert the_same(job.folder, finished.folder)
    assert_only_repeats_what_was_out(outcomes(job.folder), job, kills=len(kills))


def test_a_dispatch_actor_that_is_killed_is_followed_by_another(
    job: JobUnderTest, finished: JobUnderTest
) -> None:
    job.server.set_script({"latency": {"median_s": 0.6, "sigma": 0.5}})
    kills = 3

    start = job.start("dispatch.max_in_flight=4", "dispatch.replicas=2")
    for kill in range(kills):
        while len(job.server.ledger()) < 40 * (kill + 1):
            assert not start.ended_within(0.05)
        start.kill_one("DispatchReplica")
    status, _, said = start.wait()

    assert status == 0, said[-4000:]
    assert the_same(job.folder, finished.folder)
    assert_only_repeats_what_was_out(outcomes(job.folder), job, kills=kills)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_budget_holds_over_replicas_and_kills(
    job: JobUnderTest, finished: JobUnderTest, replicas: int
) -> None:
    job.server.set_script({"latency": {"median_s": 0.2}})
    whole_usd = sum(outcomes(finished.folder)["cost_usd"].to_pylist())
    budget_usd, in_flight = round(whole_usd / 2, 4), 8 // replicas
    override = [f"dispatch.replicas={replicas}", f"dispatch.max_in_flight={in_flight}"]
    override.append(f"dispatch.budget_usd={budget_usd}")

    start = job.start(*override)
    while len(job.server.ledger()) < 30:
        assert not start.ended_within(0.05)
    start.kill_one("DispatchReplica")
    while len(job.server.ledger()) < 50:
        assert not start.ended_within(0.05)
    start.kill(family=True)
    job.run(*override)

    found = outcomes(job.folder)
    spent_usd = sum(found["cost_usd"].to_pylist())
    dearest_usd = max(found["cost_usd"].to_pylist())
    reasons = Counter(found["reason"].to_pylist())
    assert reasons.keys() == {None, "budget_spent"}
    assert budget_usd / 2 < spent_usd <= budget_usd + replicas * 3 * in_flight * dearest_usd


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_drains_and_the_next_start_goes_on(
    job: JobUnderTest, number: signal.Signals
) -> None:
    job.server.set_script({"latency": {"median_s": 0.5}})
    start = job.start("dispatch.max_in_flight=8")
    while len(job.server.ledger()) < 20:
        assert not start.ended_within(0.05)

    start.process.send_signal(number)
    status, _, said = start.wait()
    asked = len(job.server.ledger())
    job.run()

    assert status == 130
    assert "The same command goes on" in said
    assert 20 <= asked < QUERIES
    assert outcomes(job.folder).num_rows == QUERIES
    assert len(job.server.ledger()) == QUERIES


def test_stopped_while_it_decides_it_leaves_nothing_behind(
    job: JobUnderTest, tmp_path: Path
) -> None:
    backlog = pq.read_table(tmp_path / "backlog.parquet")
    names = [f"q{n}" for n in range(100 * QUERIES)]
    many = pa.concat_tables([backlog] * 100).set_column(
        backlog.schema.get_field_index("query_id"), "query_id", pa.array(names)
    )
    pq.write_table(many, tmp_path / "backlog.parquet", row_group_size=2000)
    job.server.set_script({"latency": {"median_s": 0.2}})
    start = job.start("queries.part_rows=100")
    decisions = job.folder / "decisions"
    while not decisions.is_dir() or len(list(decisions.iterdir())) < 20:
        assert not start.ended_within(0.05)

    start.process.send_signal(signal.SIGTERM)
    status, _, said = start.wait()

    assert status == 130
    assert "SIGTERM handler" not in said  # of a second Ray that a thread would start
    assert "Traceback" not in said


def test_bad_rows_are_dead_letters_and_the_rest_is_answered(
    job: JobUnderTest, tmp_path: Path
) -> None:
    good = pq.read_table(tmp_path / "backlog.parquet").slice(0, 20)
    rows = good.to_pylist()
    rows[3]["prompt"] = None
    rows[4]["allowed_models"] = ["openai/gpt-2"]
    rows[5]["query_id"] = rows[6]["query_id"]
    rows[7] = dict(rows[8])
    rows[9]["allowed_models"] = ["openai/gpt-4o", None]
    rows[10]["query_id"] = " "
    for row in rows:
        row["max_output_tokens"] = None
    rows[11]["max_output_tokens"] = 3_000_000_000
    schema = good.schema.append(pa.field("max_output_tokens", pa.int64()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "backlog.parquet")

    job.run()

    found = outcomes(job.folder)
    letters = pq.read_table(job.folder / "dead_letters")
    assert found.num_rows == 19  # row 7 is row 8 again: answered once
    assert Counter(found["status"].to_pylist()) == {"answered": 13, "dead_letter": 6}
    assert letters.schema.equals(DEAD_LETTERS)
    assert letters.num_rows == 6
    assert all(letters["detail"].to_pylist())


def test_a_key_that_was_never_good_stops_the_run_after_one_call(job: JobUnderTest) -> None:
    job.server.set_script({"refused_keys": ["o", "a", "g"]})

    status, _, said = job.start("dispatch.replicas=2").wait()

    assert status == 2
    assert "KeyRefused: account" in said
    assert "Traceback" not in said
    calls = Counter(call["provider"] for call in job.server.ledger())
    assert set(calls.values()) == {1}, "one for each account, however many replicas there are"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("queries.path=nowhere/*.parquet", "nowhere"),
        ("pool=['openai/gpt-4']", "openai/gpt-4o"),
        ("router.artifact=nowhere", "nowhere"),
        ("policy.willingnes_to_pay=1", "willingness_to_pay"),
    ],
)
def test_a_mistake_is_told_before_any_call(job: JobUnderTest, override: str, expected: str) -> None:
    status, _, said = job.start(override).wait()

    assert status == 2
    assert expected in said
    assert "Traceback" not in said
    assert job.server.ledger() == []
    assert not job.folder.exists()


def test_a_missing_key_is_told_by_its_name(job: JobUnderTest) -> None:
    status, _, said = job.start(OPENAI_API_KEY="").wait()

    assert status == 2
    assert "OPENAI_API_KEY" in said
    assert job.server.ledger() == []


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_goes_on(
    job: JobUnderTest, finished: JobUnderTest, object_store: str
) -> None:
    backlog = Folder(f"{object_store}/logs")
    backlog.put("night.parquet", (job.config.parent / "backlog.parquet").read_bytes())
    there = [f"run.folder={object_store}/runs", f"queries.path={backlog.url}/"]
    job.server.set_script({"latency": {"median_s": 0.3}})

    start = job.start(*there, "dispatch.max_in_flight=8")
    while len(job.server.ledger()) < 60:
        assert not start.ended_within(0.05)
    start.kill(family=True)
    said = job.run(*there, "dispatch.max_in_flight=8")

    run = RunFolder(f"{object_store}/runs/demo")
    found = pa.concat_tables(run.tables("outcomes")()).sort_by("query_id")
    assert found.select(WHAT).equals(outcomes(finished.folder).select(WHAT))
    assert_only_repeats_what_was_out(found, job, kills=1)
    assert f"report: {object_store}/runs/demo/report/report.html" in said
    assert run.manifest() is not None
