"""What `jobs/size_run.py` does not reckon with, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa.errors import ConfigError
from moa.pipeline.sized import size_run
from moa.pipeline.sizing_config import SizeRunConfig
from moa.toml_file import read_toml
from tests.jobs.sizing import SHARES, SHIPPED, asked, command, demo
from tests.pipeline.answered_run import Asked, answered_run


def test_what_is_wrong_is_one_line_and_status_2() -> None:
    status, said, err = command("--config", SHIPPED, "--set", "queries=[0]")

    assert status == 2
    assert said == ""
    assert "queries has 0: give numbers from 1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queries = [10]", "none given of mix, run and sample_rows"),
        (f'queries = [10]\nmix = {SHARES}\nrun = "runs/x"', "mix and run given"),
        (f"mix = {SHARES}", "a mix has no number of its own"),
        (f"queries = [10]\nmix = {SHARES[:-1]}, {SHARES[1:]}", "the shares of mix sum to 2"),
        (
            'queries = [10]\nmix = [{ model = "x/y", share = 1.0 }]',
            "mix has 'x/y', not in the job's pool",
        ),
        (
            'queries = [10]\nmix = [{ model = "openai/gpt-4o", lane = "flex", share = 1.0 }]',
            "is sold live, batch by the catalog, not flex",
        ),
        (
            'queries = [10]\nmix = [{ model = "openai/gpt-4o", lane = "batch", share = 1.0 }]',
            "the mix has the lanes batch, and the job buys live",
        ),
        (
            f"queries = [10]\nmix = {SHARES}\n[gpu]\nparameters = 7e9\npeak_flops = 1e14\n"
            'utilisation = 0.4\nsource = "a guess"',
            "[gpu] is given, and the job's router.num_gpus is 0",
        ),
        (
            f'queries = [10]\nmix = {SHARES}\n[limits."x/y"]\nrpm = 3',
            "limits has 'x/y', not in the job's pool",
        ),
        ('run = "runs/that-was-never-started"', "has no outcomes, plan or decisions"),
        ('run = "jobs/size_run.py"', "run: jobs/size_run.py cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        size_run(demo(tmp_path, text))

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("queries=[5,1000000000000000]", "queries has 1,000,000,000,000,000: give numbers from 1"),
        ("input_tokens=1e300", "less than or equal to 1000000000"),
        ("within_hours=1e308", "less than or equal to 1000000"),
        ("speeds.calls_per_s=1e-300", "greater than or equal to 0.001"),
        ("gpu.tokens_per_s=1e-300", "greater than or equal to 0.001"),
    ],
)
def test_numbers_that_no_run_has_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_toml(SizeRunConfig, SHIPPED, [override])

    assert says in str(refused.value)


def test_figures_that_cannot_be_written_are_told_in_a_line(tmp_path: Path) -> None:
    nowhere = tmp_path / "not" / "there.json"

    status, _, err = command("--config", SHIPPED, "--json", str(nowhere))

    assert status == 2
    assert f"--json {nowhere}: No such file or directory: name a file that may be written" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no rows: nothing to sample"),
        (['{"custom_id": "a"}'], "of 1 queries that were sampled none can be asked (the first one"),
    ],
)
def test_a_log_of_which_nothing_can_be_asked_is_no_sample(
    tmp_path: Path, rows: list[str], says: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(rows))
    text = f'job = "jobs/configs/demo.toml"\njob_overrides = ["queries.path={log}"]\n'

    with pytest.raises(ConfigError) as refused:
        size_run(asked(tmp_path, f"{text}sample_rows = 20\nqueries = [100]\n"))

    assert says in str(refused.value)


def test_queries_that_no_model_may_answer_are_no_sample(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    only = {"query_id": ["a"], "prompt": ["Hello"], "allowed_models": [["x/unknown"]]}
    pq.write_table(pa.table(only), log)
    text = f'job = "jobs/configs/demo.toml"\njob_overrides = ["queries.path={log}"]\n'

    with pytest.raises(ConfigError, match="none can be asked"):
        size_run(asked(tmp_path, f"{text}sample_rows = 20\n"))


def test_a_run_in_a_bucket_that_is_not_there_is_refused(object_store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no outcomes, plan or decisions"):
        size_run(demo(tmp_path, f'run = "{object_store}-not/run"'))


def test_a_run_with_a_model_that_the_pool_no_longer_has_is_refused(tmp_path: Path) -> None:
    answered_run(f"{tmp_path}/run", [Asked("Hello", decided="x/gone")])

    with pytest.raises(ConfigError, match="has 'x/gone', not in the job's pool"):
        size_run(demo(tmp_path, f'run = "{tmp_path}/run"'))
