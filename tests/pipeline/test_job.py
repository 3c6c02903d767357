"""What is checked before the first call."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.config import load_config
from moa.errors import ConfigError
from moa.pipeline.job import Job, check_job, job_again

DEMO = "jobs/configs/demo.toml"
CATALOG = "jobs/configs/demo_catalog.toml"


def checked(*overrides: str) -> Job:
    return check_job(load_config(DEMO, overrides), environ={})


def test_the_demo_is_in_order(tmp_path: Path) -> None:
    job = checked(f"run.folder={tmp_path}/runs")

    assert job.pool == tuple(load_config(DEMO).pool)
    assert job.warnings == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.folder=/etc/passwd", "/etc/passwd is none"),
        ("run.folder=/etc/passwd/runs", "/etc/passwd is none"),
        ("run.folder=s3://", "no bucket"),
        ("run.folder=gs:///runs", "no bucket"),
        ("report.graded_outcomes=nowhere.parquet", "graded_outcomes: nowhere.parquet is not there"),
        ("report.graded_outcomes=README.md", "graded_outcomes: README.md"),
        (
            "report.graded_outcomes=moa/recordings/demo_backlog.parquet",
            "columns .*'model'.* are missing",
        ),
        ("replay.recordings=nowhere", "nowhere/completions.parquet: no such file"),
        ("replay.script.latencies=1", "latencies: unknown key; did you mean latency"),
        ("prices.as_of=2999-01-01", "prices.as_of is 2999-01-01"),
    ],
)
def test_what_would_fail_later_is_refused_now(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked(override)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    shut = Path("/proc/self")  # nobody makes folders there, root neither

    with pytest.raises(ConfigError, match="cannot be written: /proc/self"):
        checked(f"run.folder={shut}/runs")


def test_tomorrows_prices_may_be_asked_for() -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)

    assert checked(f"prices.as_of={tomorrow}").prices.as_of == tomorrow


def test_prices_from_before_the_list_began_are_doubted() -> None:
    job = checked("prices.as_of=1990-01-01")

    assert job.prices.as_of == date(1990, 1, 1)
    assert any("has no price of 1990-01-01" in line for line in job.warnings)


def test_files_that_are_left_out_are_a_warning(tmp_path: Path) -> None:
    table = pa.table({"query_id": ["a"], "prompt": ["Hi"]})
    pq.write_table(table, tmp_path / "a.parquet")
    for name in ("b.csv", "c.csv", "d.csv", "e.csv"):
        (tmp_path / name).write_text("x")

    job = checked(f"queries.path={tmp_path}")

    (line,) = job.warnings
    assert "4 files are left out" in line
    assert "b.csv" in line
    assert "e.csv" not in line


def test_an_ability_that_no_call_can_ask_for_is_refused(tmp_path: Path) -> None:
    text = Path(CATALOG).read_text()
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(text.replace('wire = "openai"', 'wire = "anthropic"'))

    with pytest.raises(ConfigError, match=r"openai/gpt-4o: .*logprobs.*anthropic wire.*it has"):
        checked(f"catalog={catalog}")


def test_all_missing_keys_are_told_at_once(tmp_path: Path) -> None:
    config = load_config(DEMO, [f"run.folder={tmp_path}/runs"]).model_copy(update={"replay": None})

    with pytest.raises(ConfigError) as caught:
        check_job(config, environ={"ANTHROPIC_API_KEY": "a"})

    assert "OPENAI_API_KEY" in str(caught.value)
    assert "GEMINI_API_KEY" in str(caught.value)
    assert "ANTHROPIC" not in str(caught.value)


def test_more_replicas_than_a_model_takes_calls_are_refused(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    text = (
        Path(CATALOG)
        .read_text()
        .replace(
            'api_name = "gpt-4o-2024-11-20"\n',
            'api_name = "gpt-4o-2024-11-20"\nlimits = { max_in_flight = 2 }\n',
        )
    )
    catalog.write_text(text)

    with pytest.raises(ConfigError, match=r"dispatch.replicas is 3, .*gpt-4o.* at most 2 replicas"):
        checked(f"catalog={catalog}", "dispatch.replicas=3", f"run.folder={tmp_path}/runs")


def again(*overrides: str, to_model: str | None, environ: dict[str, str]) -> Job:
    """The job of a redrive of a real run, whose prices were others than today's."""
    first = checked().facts()
    for price in first["prices"]["prices"]:
        price["rates"] = [{**rate, "output": "7"} for rate in price["rates"]]
    config = load_config(DEMO, ["router.artifact=nowhere", *overrides])
    real = config.model_copy(update={"replay": None})
    return job_again(real, first, to_model=to_model, run_folder="runs/x", environ=environ)


def test_a_redrive_needs_neither_router_nor_log_and_keeps_the_run_s_prices(tmp_path: Path) -> None:
    keys = {"OPENAI_API_KEY": "o", "ANTHROPIC_API_KEY": "a", "GEMINI_API_KEY": "g"}

    job = again("queries.path=nowhere", f"run.folder={tmp_path}", to_model=None, environ=keys)

    assert job.pool == tuple(load_config(DEMO).pool)
    assert job.router_version == checked().router_version
    assert {price.rates[0].output for price in job.prices.prices.values()} == {7}


def test_a_redrive_to_a_model_needs_its_account_s_key_only(tmp_path: Path) -> None:
    sonnet = "anthropic/claude-3.5-sonnet"
    small = "pool=['openai/gpt-4o']"
    where = f"run.folder={tmp_path}"

    job = again(where, small, to_model=sonnet, environ={"ANTHROPIC_API_KEY": "a"})

    assert job.pool == (sonnet,)
    assert list(job.accounts) == [job.models[0].provider]
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY") as caught:
        again(where, small, to_model=sonnet, environ={"OPENAI_API_KEY": "o"})
    assert "GEMINI" not in str(caught.value)
