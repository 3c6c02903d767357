"""A run folder's report, made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.catalog import AgreedPrice, Model, Rates, load_catalog
from moa.config import RouteBatchConfig, load_config, resolved
from moa.errors import ConfigError, RunError
from moa.prices import PriceTable
from moa.reports.run_report import write_report
from moa.schema import GRADED_OUTCOMES, OUTCOMES, ROUTING_DECISIONS
from moa.storage.run_folder import PartName, PieceName, RunFolder
from tests.reports.test_cost_report import decision, grade, outcome

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
POOL = ("openai/gpt-4o", "openai/gpt-4o-mini")
QUERIES = 80


def config(**changes: object) -> RouteBatchConfig:
    demo = resolved(load_config("jobs/configs/demo.toml"))
    report = {"title": None, "graded_outcomes": None}
    document = {**demo, "pool": list(POOL), "replay": None, "report": report, **changes}
    return RouteBatchConfig.model_validate(document)


def prices(usd: str) -> PriceTable:
    """One price for every token of both models."""
    each = Decimal(usd)
    agreed = [AgreedPrice("live", (Rates(each, each, each, each),), "a contract")]
    return PriceTable.build(models(), overrides=dict.fromkeys(POOL, agreed))


def models() -> list[Model]:
    catalog = load_catalog("jobs/configs/demo_catalog.toml")
    return [catalog.models[name] for name in POOL]


def begun(folder: Path, *, kept: PriceTable | None, starts: list[dict[str, Any]]) -> RunFolder:
    """A run of one part with a piece that has ended and, of as many queries, one that has not."""
    run = RunFolder(str(folder))
    facts = {
        "started_at": NOON.isoformat(), "price_date": "2026-11-24", "git_commit": "abc",
        "router": {"version": "r", "best_constant": POOL[0], "best_constant_why": "it was"},
        "versions": {"ray": "2.60"}, "config": resolved(config()),
        **({"prices": kept.document()} if kept else {}),
    }  # fmt: skip
    run.begin(facts, identity={"config": "c" * 64, "router": "r", "prices": "another"})
    for number, start in enumerate(starts):
        run.note_start(number, start)
    (folder / "scan.json").write_text(json.dumps({"queries": 2 * QUERIES}))
    part = PartName(0, 0, 2 * QUERIES)
    rows = [outcome(n, None) | {"first_model": POOL[0]} for n in range(2 * QUERIES)]
    decided = [decision(row, POOL) for row in rows]
    for n, row in enumerate(decided):
        row["provider"] = "openai" if n < QUERIES else "other"
    run.write_decisions(part, pa.Table.from_pylist(decided, schema=ROUTING_DECISIONS))
    ended = [
        row | {
            "status": "answered", "model": POOL[0], "lane": "live", "reason": None,
            "cost_usd": Decimal("0.001"), "input_tokens": 100, "output_tokens": 100, "attempts": 1,
        }
        for row in rows[:QUERIES]
    ]  # fmt: skip
    table = pa.Table.from_pylist(ended, schema=OUTCOMES)
    run.write_outcomes(PieceName(part, "openai"), table)
    return run


def start(seconds: float, **fields: object) -> dict[str, Any]:
    end = NOON + timedelta(seconds=seconds)
    return {"from": NOON.isoformat(), "to": end.isoformat(), **fields}


def grades(path: Path) -> str:
    rows = [grade(n, model, 1.0) for n in range(QUERIES) for model in POOL]
    pq.write_table(pa.Table.from_pylist(rows, schema=GRADED_OUTCOMES), path)
    return str(path)


def test_alternatives_are_priced_as_on_the_day_of_the_run(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])
    graded = grades(tmp_path / "graded.parquet")

    report = write_report(run.url, overrides=[f"report.graded_outcomes={graded}"]).report

    mini = report.comparison(POOL[1])
    assert mini is not None
    assert mini.cost_usd == QUERIES * Decimal("0.002")  # 200 tokens at 10 USD a million
    assert report.prices.version == prices("10").version


def test_an_outcome_table_grades_the_runs_own_answers_and_compares_nobody(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])
    name = config().run.id
    rows = [{**grade(n, POOL[0], n % 2), "grader": "old"} for n in range(QUERIES)]
    rows += [grade(n, POOL[0], 1.0) for n in range(QUERIES)]
    mine = [{**row, "query_id": f"{name}/{row['query_id']}"} for row in rows]
    others = [{**row, "query_id": f"another/{row['query_id']}", "grade": 0.0} for row in rows]
    folder = tmp_path / "table/graded_outcomes.parquet/date=2026-11-25"
    folder.mkdir(parents=True)
    for file, part in (("a", mine), ("b", others)):
        table = pa.Table.from_pylist(part, schema=GRADED_OUTCOMES)
        pq.write_table(table, folder / f"{file}.parquet")

    named = f"report.graded_outcomes={folder.parent}"
    report = write_report(run.url, overrides=[named]).report

    assert report.graded_queries == QUERIES
    assert report.grade is not None
    assert report.grade.value == 1.0
    compared = report.comparison(POOL[1])
    assert compared is not None
    assert compared.graded_queries == 0
    itself = report.comparison(POOL[0])
    assert itself is None or itself.grade is None


def test_prices_that_cannot_be_found_again_are_not_replaced_by_others(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=None, starts=[start(60)])

    with pytest.raises(RunError, match="did not keep its prices"):
        write_report(run.url)


def test_another_config_changes_the_looks_only(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(3600)])
    report = {"title": "Again", "graded_outcomes": grades(tmp_path / "graded.parquet")}
    other = config(
        pool=["google/gemini-1.5-pro"],
        report=report,
        router={"usd_per_hour": "7"},
        policy={"quality_floor": 0.5},
    )

    written = write_report(run.url, other)

    assert written.report.pool == POOL
    assert written.report.graded_queries == QUERIES
    assert written.report.router.usd_per_hour == 7
    assert written.report.policy.quality_floor is None
    assert "<h1>Again</h1>" in Path(written.page).read_text()


@pytest.mark.parametrize("key", ["pool", "policy.willingness_to_pay", "router.artifact", "report"])
def test_what_the_run_was_made_with_cannot_be_changed_afterwards(tmp_path: Path, key: str) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])

    with pytest.raises(ConfigError, match=rf"--set {key}: a report can change"):
        write_report(run.url, overrides=[f"{key}=1"])


def test_a_key_of_the_report_that_is_unknown_is_told(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])

    with pytest.raises(ConfigError, match="titel"):
        write_report(run.url, overrides=["report.titel=x"])


@pytest.mark.parametrize(
    ("starts", "held_s"),
    [
        ([start(60, router_s=100.0), start(60, router_s=50.0)], 150.0),
        ([start(60)], pytest.approx(2 * QUERIES * 0.001, rel=1e-5)),
    ],
)
def test_the_router_costs_what_its_machines_were_held_for(
    tmp_path: Path, starts: list[dict[str, Any]], held_s: float
) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=starts)

    report = write_report(run.url, overrides=["router.usd_per_hour=36"]).report

    assert report.router.held_s == held_s
    assert report.router.worked_s == pytest.approx(2 * QUERIES * 0.001, rel=1e-5)
    assert float(report.router_cost_usd) == pytest.approx(0.01 * report.router.held_s)


def test_the_forecast_of_an_unfinished_run_is_of_what_has_ended(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])

    report = write_report(run.url).report

    assert (report.ended, report.backlog) == (QUERIES, 2 * QUERIES)
    assert report.forecast.cost_usd == QUERIES * Decimal("0.002")
    assert sum(queries for _, _, queries in report.routes) == QUERIES


def test_a_redrive_counts_in_the_report_of_its_run(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60, router_s=60.0)])
    redrive = run.redrive(1)
    redrive.begin({"redrive": {"of": "night"}}, identity={})
    redrive.note_start(0, start(30))
    before = write_report(run.url).report
    redrive.write_selection(5, {})
    again = [
        outcome(n, POOL[1]) | {"first_model": POOL[1], "cost_usd": Decimal("0.002")}
        for n in range(5)
    ]
    part = run.decided_parts()[0]
    decided = [decision(row, POOL) | {"provider": "openai", "rule": "redrive"} for row in again]
    redrive.write_decisions(part, pa.Table.from_pylist(decided, schema=ROUTING_DECISIONS))
    table = pa.Table.from_pylist(again, schema=OUTCOMES)
    redrive.write_outcomes(PieceName(part, "openai"), table)

    after = write_report(run.url).report

    assert (after.queries, after.ended) == (before.queries, before.ended)
    assert after.calls == before.calls + 5
    assert (before.run.redrives, before.run.redrive_open) == (0, True)
    assert (after.run.redrives, after.run.redrive_open) == (1, False)
    assert after.run.wall_s == 90
    assert after.router.held_s == 60
    assert after.forecast == before.forecast
    assert (POOL[1], "redrive", 5) in after.routes
    assert [(one.first_model, one.model, one.queries) for one in after.detours] == [(*POOL, 5)]
    with pytest.raises(RunError, match="is a redrive of night"):
        write_report(redrive.url)


def test_an_open_redrive_is_said_and_not_counted(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", kept=prices("10"), starts=[start(60)])
    ended, cut = run.redrive(1), run.redrive(2)
    part = run.decided_parts()[0]
    again = [outcome(n, POOL[1]) | {"first_model": POOL[1]} for n in range(4)]
    decided = [
        decision(row, POOL) | {"provider": ("openai", "other")[n % 2]}
        for n, row in enumerate(again)
    ]
    for redrive in (ended, cut):
        redrive.begin({"redrive": {"of": "night"}}, identity={})
        redrive.write_decisions(part, pa.Table.from_pylist(decided, schema=ROUTING_DECISIONS))
        redrive.write_selection(4, {})
        one_of_two = pa.Table.from_pylist(again[::2], schema=OUTCOMES)
        redrive.write_outcomes(PieceName(part, "openai"), one_of_two)
    ended.write_outcomes(
        PieceName(part, "other"), pa.Table.from_pylist(again[1::2], schema=OUTCOMES)
    )

    written = write_report(run.url)

    assert (written.report.run.redrives, written.report.run.redrive_open) == (1, True)
    assert (
        "UNFINISHED: a redrive is open; its answers are partly not in the bill" in written.summary
    )
    page = Path(written.page).read_text()
    assert "its dead letters sent again once." in page
    assert "A redrive is open:" in page


def _begin_nothing(folder: Path) -> None:
    folder.mkdir()


def _begin_without_scan(folder: Path) -> None:
    begun(folder, kept=prices("10"), starts=[])
    (folder / "scan.json").unlink()


@pytest.mark.parametrize(
    ("begin", "said"), [(_begin_nothing, "no run has begun"), (_begin_without_scan, "not been sca")]
)
def test_a_run_that_has_not_begun_has_no_report(
    tmp_path: Path, begin: Callable[[Path], None], said: str
) -> None:
    begin(tmp_path / "run")

    with pytest.raises(RunError, match=said):
        write_report(str(tmp_path / "run"))
