from __future__ import annotations

import json
import secrets
from collections import Counter
from decimal import Decimal
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.schema import DEAD_LETTERS, OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from tests.jobs.conftest import QUERIES, JobUnderTest

WHAT = ["query_id", "status", "model", "completion", "input_tokens", "output_tokens", "cost_usd"]
"""What an outcome says, whenever and however often the job was started."""


def outcomes(folder: Path) -> pa.Table:
    table = pq.read_table(folder / "outcomes")
    return table.sort_by("query_id")


def the_same(folder: Path, other: Path) -> bool:
    return bool(outcomes(folder).select(WHAT).equals(outcomes(other).select(WHAT)))


def test_every_query_has_one_outcome_and_a_bill(job: JobUnderTest) -> None:
    said = job.run()

    found = outcomes(job.folder)
    manifest = json.loads((job.folder / "manifest.json").read_text())
    calls = Counter(call["query_id"] for call in job.server.ledger())
    assert found.num_rows == QUERIES
    assert len(set(found["query_id"].to_pylist())) == QUERIES
    assert set(found["status"].to_pylist()) == {"answered"}
    assert set(calls.values()) == {1}
    assert len(calls) == QUERIES
    assert sum(found["cost_usd"].to_pylist()) == Decimal(manifest["cost_usd"]) > 0
    assert "report.html" in said
    for name, schema in [
        ("queries", SCORED_QUERIES), ("decisions", ROUTING_DECISIONS), ("outcomes", OUTCOMES),
    ]:  # fmt: skip
        for path in (job.folder / name).iterdir():
            assert pq.read_schema(path).equals(schema), path


def test_a_finished_run_says_so_and_calls_nobody(job: JobUnderTest) -> None:
    job.run()
    before = len(job.server.ledger())

    said = job.run()

    assert "has finished before; nothing was done" in said
    assert len(job.server.ledger()) == before


def test_killed_at_random_points_it_ends_as_if_undisturbed(job: JobUnderTest) -> None:
    job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})
    job.run("run.id=undisturbed", "dispatch.max_in_flight=8")
    job.server.reset()
    job.server.set_script({"latency": {"median_s": 0.4, "sigma": 0.5}})
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    random = Random(seed)
    kills = (False, True, False)

    for whole_family in kills:
        start = job.start("dispatch.max_in_flight=8")
        answered = len(job.server.ledger())
        wanted = answered + random.randint(1, 70)
        while len(job.server.ledger()) < wanted:
            assert not start.ended_within(0.05)
        start.kill(family=whole_family)
    job.run("dispatch.max_in_flight=8")

    calls = Counter(call["query_id"] for call in job.server.ledger())
    found = outcomes(job.folder)
    unknown = {
        row["query_id"]: row["unknown_calls"] for row in found.to_pylist() if row["unknown_calls"]
    }
    twice = {name: count - 1 for name, count in calls.items() if count > 1}
    assert the_same(job.folder, job.folder.with_name("undisturbed"))
    # Nothing answered is asked again: only calls that were out when the job died are repeated,
    # at most `max_in_flight` a vendor and kill, and each is accounted for.
    assert twice == unknown
    assert sum(twice.values()) <= len(kills) * 3 * 8


def test_ctrl_c_drains_and_the_next_start_goes_on(job: JobUnderTest) -> None:
    job.server.set_script({"latency": {"median_s": 0.5}})
    start = job.start("dispatch.max_in_flight=8")
    while len(job.server.ledger()) < 20:
        assert not start.ended_within(0.05)

    start.interrupt()
    status, _, said = start.wait()
    asked = len(job.server.ledger())
    job.run()

    assert status == 130
    assert "The same command goes on" in said
    assert 20 <= asked < QUERIES
    assert outcomes(job.folder).num_rows == QUERIES
    assert len(job.server.ledger()) == QUERIES


def test_bad_rows_are_dead_letters_and_the_rest_is_answered(
    job: JobUnderTest, tmp_path: Path
) -> None:
    good = pq.read_table(tmp_path / "backlog.parquet").slice(0, 20)
    rows = good.to_pylist()
    rows[3]["prompt"] = None
    rows[4]["allowed_models"] = ["openai/gpt-2"]
    rows[5]["query_id"] = rows[6]["query_id"]
    rows[7] = dict(rows[8])
    pq.write_table(pa.Table.from_pylist(rows, schema=good.schema), tmp_path / "backlog.parquet")

    job.run()

    found = outcomes(job.folder)
    letters = pq.read_table(job.folder / "dead_letters")
    assert found.num_rows == 19  # row 7 is row 8 again: answered once
    assert Counter(found["status"].to_pylist()) == {"answered": 16, "dead_letter": 3}
    assert letters.schema.equals(DEAD_LETTERS)
    assert letters.num_rows == 3
    assert all(letters["detail"].to_pylist())


def test_a_key_that_was_never_good_stops_the_run_after_one_call(job: JobUnderTest) -> None:
    job.server.set_script({"refused_keys": ["o", "a", "g"]})

    status, _, said = job.start().wait()

    assert status == 2
    assert "AccountRefused" in said
    assert "Traceback" not in said
    assert len(job.server.ledger()) <= 3


def test_another_policy_under_the_same_id_is_refused(job: JobUnderTest) -> None:
    job.run()

    status, _, said = job.start("policy.willingness_to_pay=1").wait()

    assert status == 2
    assert "was begun with another config" in said
    assert "run.id" in said


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("queries.path=nowhere/*.parquet", "nowhere"),
        ("pool=['openai/gpt-4']", "openai/gpt-4o"),
        ("router.artifact=nowhere", "nowhere"),
        ("policy.willingnes_to_pay=1", "willingness_to_pay"),
    ],
)
def test_a_mistake_is_told_before_any_call(
    job: JobUnderTest, override: str, expected: str
) -> None:
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
