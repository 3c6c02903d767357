"""`jobs/size_run.py`: by shares, by a run, by a sample of the log; and beside real runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.config import load_config
from moa.errors import ConfigError, RunError
from moa.pipeline.sized import size_run
from moa.reports.sizing import document, tables
from tests.jobs.conftest import QUERIES, JobUnderTest, job_in
from tests.jobs.sizing import SHARES, SHIPPED, asked, command, demo, found
from tests.pipeline.answered_run import Asked, answered_run


def test_the_shipped_config_says_how_long_how_much_and_what_binds(tmp_path: Path) -> None:
    status, said, err = command("--config", SHIPPED, "--json", str(tmp_path / "sizes.json"))

    assert status == 0, err
    sizes = json.loads((tmp_path / "sizes.json").read_text())["sizes"]
    assert [one["queries"] for one in sizes] == [100_000, 10_000_000, 1_000_000_000]
    for one in sizes:
        usd = one["cost_usd"]
        options_usd = sum(option["cost_usd"] for option in one["options"])
        assert usd["all"] == pytest.approx(options_usd + usd["router"] + usd["cpus"])
        assert sum(option["queries"] for option in one["options"]) == pytest.approx(one["queries"])
        assert one["binds"]
        assert all(name in said for name in one["binds"])
    assert sizes[0]["ends_in_s"]["expected"] < sizes[0]["deadline_s"]
    assert "deadline" not in sizes[0]["binds"]
    assert {"budget", "deadline"} <= set(sizes[2]["binds"])


def test_every_key_is_explained_without_a_config() -> None:
    status, said, _ = command("--explain-config")

    assert status == 0
    for key in ("`queries`", "`within_hours`", "`gpu.utilisation`", "`speeds.calls_per_s`"):
        assert key in said


def test_what_a_run_of_batches_has_bought_live_is_sized_too(tmp_path: Path) -> None:
    answered_run(f"{tmp_path}/run", [Asked("Hello", decided="openai/gpt-4o")])
    text = f'job_overrides = ["plan.lanes=[\'batch\']"]\nrun = "{tmp_path}/run"'

    one = found(asked(tmp_path, f'job = "jobs/configs/demo.toml"\n{text}'))

    assert [(option["model"], option["lane"]) for option in one["options"]] == [
        ("openai/gpt-4o", "live")
    ]


def test_a_run_in_a_bucket_is_sized(object_store: str, tmp_path: Path) -> None:
    answered_run(f"{object_store}/run", [Asked("Hello", decided="openai/gpt-4o")] * 4)

    one = found(demo(tmp_path, f'run = "{object_store}/run"'))

    assert one["queries"] == 4
    assert one["options"][0]["input_tokens"] == 4 * 9


def test_limits_of_the_config_go_before_the_catalogs(tmp_path: Path) -> None:
    text = f"queries = [1_000_000]\nmix = {SHARES}\n"
    free = found(demo(tmp_path, text))
    bound = found(demo(tmp_path, text + '[limits."openai/gpt-4o"]\nrpm = 100\n'))

    assert "openai/gpt-4o rpm" not in [one["name"] for one in free["bounds"]]
    assert bound["binds"] == ["openai/gpt-4o rpm"]
    assert bound["spans_s"]["calls"]["expected"] == pytest.approx(400_000 / 100 * 60, rel=1e-3)


def test_a_router_on_a_gpu_reads_as_fast_as_its_operations_allow(tmp_path: Path) -> None:
    text = (
        'job = "jobs/configs/demo.toml"\n'
        'job_overrides = ["prices.as_of=2026-11-26", "router.num_gpus=1", '
        '"router.usd_per_hour=0.8"]\n'
        f"queries = [1_000_000]\ninput_tokens = 400\nmachines = 'configured'\nmix = {SHARES}\n"
        "[gpu]\nparameters = 7e9\npeak_flops = 121e12\nutilisation = 0.5\nsource = 'a guess'\n"
    )
    reads_per_s = 0.5 * 121e12 / (2 * 7e9)

    sizing = document(size_run(asked(tmp_path, text)))
    measured = document(size_run(asked(tmp_path, text, ["gpu.tokens_per_s=1000"])))

    assert sizing["sizes"][0]["spans_s"]["score"] == pytest.approx(4e8 / reads_per_s)
    assert sizing["router_pass"]["usd"] == pytest.approx(400 / reads_per_s / 3600 * 0.8)
    assert measured["sizes"][0]["spans_s"]["score"] == pytest.approx(4e8 / 1000)


def test_one_call_costs_what_the_price_table_says(tmp_path: Path) -> None:
    text = f"queries = [1]\ninput_tokens = 1_000_000\noutput_tokens = 0\nmix = {SHARES}"

    calls = {one["model"]: one for one in document(size_run(demo(tmp_path, text)))["calls"]}

    # USD per million input tokens of November 2024, when the demo's models were current.
    assert calls["openai/gpt-4o"]["live_usd"] == pytest.approx(2.5)
    assert calls["openai/gpt-4o-mini"]["live_usd"] == pytest.approx(0.15)
    # Of a batch 2 % are reckoned to be bought live in the end.
    assert calls["openai/gpt-4o"]["batch_usd"] == pytest.approx(0.98 * 1.25 + 0.02 * 2.5)


def test_a_part_that_is_next_to_nothing_is_told_as_that(tmp_path: Path) -> None:
    text = f"queries = [10]\nmix = {SHARES}"

    *_, gemini = tables(size_run(demo(tmp_path, text)))

    assert gemini.split("|")[-2].strip() == "< 0.01 %"


def test_a_sample_of_the_log_is_scored_and_decided_on_as_the_job_would(tmp_path: Path) -> None:
    one = found(demo(tmp_path, "sample_rows = 1158"))
    few = found(demo(tmp_path, "sample_rows = 300"))

    assert one["queries"] == few["queries"] == 1158
    # `make demo` forecasts $2.3379 with these prices, of the same queries.
    assert one["cost_usd"]["calls"]["expected"] == pytest.approx(2.3379, abs=5e-4)
    low, high = (one["cost_usd"]["calls"][name] for name in ("low", "high"))
    assert low < few["cost_usd"]["calls"]["expected"] < high


def test_a_sample_is_planned_for_as_many_queries_as_are_asked_for(tmp_path: Path) -> None:
    """Limits are of all queries, not of the sample: more of them, and a plan has to give way."""
    text = (
        'job = "jobs/configs/demo.toml"\n'
        "job_overrides = [\"plan.lanes=['live']\", 'prices.as_of=2026-11-26', "
        "'policy.max_novelty=1.0']\n"
        "sample_rows = 300\nwithin_hours = 1\nqueries = [1_000, 100_000]\n"
        '[limits."openai/gpt-4o"]\nrpm = 60\n'
    )

    few, many = document(size_run(asked(tmp_path, text)))["sizes"]

    def share(one: dict[str, Any], model: str) -> float:
        given = sum(option["queries"] for option in one["options"] if option["model"] == model)
        return float(given) / float(one["queries"])

    assert share(few, "openai/gpt-4o") > 0.03
    assert share(many, "openai/gpt-4o") * 100_000 <= 60 * 60
    with pytest.raises(RunError, match="no plan keeps budget"):
        size_run(asked(tmp_path, text, ["job_overrides=['plan.lanes=[\"live\"]', "
                                        "'dispatch.budget_usd=1']"]))  # fmt: skip


def test_a_sample_is_planned_within_what_scoring_leaves_of_time_and_money(tmp_path: Path) -> None:
    rates = "".join(
        f'[limits."{model}"]\nrpm = 600\n' for model in load_config("jobs/configs/demo.toml").pool
    )
    text = (
        'job = "jobs/configs/demo.toml"\n'
        "job_overrides = [\"plan.lanes=['live']\", 'prices.as_of=2026-11-26', "
        "'policy.max_novelty=1.0', 'router.num_gpus=1', 'router.usd_per_hour=40', "
        "'dispatch.budget_usd=120']\n"
        "sample_rows = 300\nwithin_hours = 1\nqueries = [100_000]\n"
        "[gpu]\nparameters = 7e9\npeak_flops = 121e12\nutilisation = 0.4\nsource = 'a guess'\n"
    )

    one = found(asked(tmp_path, text + rates))

    assert "deadline" not in one["binds"]
    assert "budget" not in one["binds"]
    assert 0.9 * 3600 < one["ends_in_s"]["expected"] < 3600
    assert one["cost_usd"]["router"] > 30
    assert 0.95 * 120 < one["budget"]["used_usd"] <= 120
    with pytest.raises(RunError, match="until the deadline calls have 0 ms"):
        size_run(asked(tmp_path, text + rates, ["machines=configured", "within_hours=0.5"]))


def test_each_row_group_is_in_the_sample_by_its_size(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    models = ["openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude-3-haiku"]
    sizes = [3000, 1500, 1500]
    schema = pa.schema(
        [
            ("query_id", pa.string()),
            ("prompt", pa.string()),
            ("allowed_models", pa.list_(pa.string())),
        ]
    )
    with pq.ParquetWriter(log, schema) as writer:
        for model, size in zip(models, sizes, strict=True):
            ids = [f"{model} {n}" for n in range(size)]
            writer.write_table(pa.table([ids, ids, [[model]] * size], schema))
    text = f'job = "jobs/configs/demo.toml"\njob_overrides = ["queries.path={log}"]\n'

    many = found(asked(tmp_path, f"{text}sample_rows = 4_800\n"))
    few = found(asked(tmp_path, f"{text}sample_rows = 4\n"))

    for one in (many, few):
        assert {option["model"]: round(option["queries"]) for option in one["options"]} == dict(
            zip(models, sizes, strict=True)
        )


def test_a_log_that_does_not_say_how_long_it_is_needs_a_number(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with log.open("w") as file:
        for row in range(40):
            messages = [{"role": "user", "content": f"What is {row} times 17?"}]
            body = {"model": "any", "messages": messages}
            url = "/v1/chat/completions"
            call = {"custom_id": f"q{row}", "method": "POST", "url": url, "body": body}
            file.write(json.dumps(call) + "\n")
    text = f'job = "jobs/configs/demo.toml"\njob_overrides = ["queries.path={log}"]\n'
    text += "sample_rows = 20\n"

    with pytest.raises(ConfigError, match="the log does not say how many rows it has"):
        size_run(asked(tmp_path, text))

    one = found(asked(tmp_path, text, ["queries=[5_000]"]))
    assert sum(option["queries"] for option in one["options"]) == pytest.approx(5_000)


@dataclass
class Beside:
    """A run that was planned, then carried out, with what was reckoned of it each time."""

    plan: dict[str, Any]
    by_plan: dict[str, Any]
    by_sample: dict[str, Any]
    job: JobUnderTest
    by_outcomes: dict[str, Any]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    folder = tmp_path_factory.mktemp("beside")
    with job_in(folder, limits="rpm = 600") as job:
        sets = [flag for one in BOTH for flag in ("--set", one)]
        status, _, err = job.start(flags=("--plan-only", *sets)).wait()
        assert status == 0, err[-4000:]
        (plan,) = [json.loads(path.read_text()) for path in (job.folder / "plan").iterdir()]
        head = (
            f'job = "{job.config}"\njob_overrides = {json.dumps(BOTH)}\nmachines = "configured"\n'
        )
        head += "partition_rows = 50\n"
        by_plan = found(asked(folder, f'{head}run = "{job.folder}"\n'))
        by_sample = found(asked(folder, f"{head}sample_rows = 120\n"))
        job.run(*BOTH)
        by_outcomes = found(asked(folder, f'{head}run = "{job.folder}"\n'))
        yield Beside(plan, by_plan, by_sample, job, by_outcomes)


BOTH = ["plan.lanes=['live','batch']", "prices.as_of=2026-11-26"]


@pytest.mark.slow
def test_of_a_planned_run_the_reckoning_is_the_plans_own(beside: Beside) -> None:
    told, mine = beside.plan["forecast"], beside.by_plan

    assert mine["queries"] == QUERIES
    assert mine["cost_usd"]["calls"]["expected"] == pytest.approx(told["cost_usd"]["expected"])
    for name in ("low", "expected", "high"):
        assert mine["spans_s"]["calls"][name] == pytest.approx(told["ends_in_s"][name], rel=1e-4)
    for name in ("low", "high"):  # of single answers it knows the mean only
        assert mine["cost_usd"]["calls"][name] == pytest.approx(told["cost_usd"][name], rel=0.1)


@pytest.mark.slow
def test_a_sample_is_within_the_forecast_of_the_whole_plan(beside: Beside) -> None:
    told, mine = beside.plan["forecast"], beside.by_sample

    cost, ends = told["cost_usd"], told["ends_in_s"]
    assert mine["queries"] == QUERIES
    assert cost["low"] <= mine["cost_usd"]["calls"]["expected"] <= cost["high"]
    assert ends["low"] <= mine["spans_s"]["calls"]["expected"] <= ends["high"]


@pytest.mark.slow
def test_of_a_finished_run_the_reckoning_is_its_bill_and_its_files(beside: Beside) -> None:
    report = json.loads((beside.job.folder / "report/report.json").read_text())
    mine = beside.by_outcomes

    assert mine["cost_usd"]["calls"]["expected"] == pytest.approx(float(report["cost_usd"]))
    assert mine["queries"] == QUERIES
    # Row groups of 50, parts of 30, and each part has something for both vendors.
    assert mine["parts"] == len(list((beside.job.folder / "decisions").iterdir())) == 10
    files = [path for path in beside.job.folder.rglob("*") if path.is_file()]
    by_the_second_start = 3  # its times, its plan, and the page that --plan-only has written
    assert mine["files"] == len(files) - len(["manifest.json"]) - by_the_second_start
