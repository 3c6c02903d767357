from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from moa.catalog import load_catalog
from moa.errors import ConfigError
from moa.evaluation.config import EvaluateRouterConfig
from moa.evaluation.evaluation import Evaluation
from moa.prices import PriceTable
from moa.router.router import Router
from moa.toml_file import read_toml
from moa.training.dataset import EVERY_SPLIT, read_dataset
from moa.training.evaluate import evaluate_router
from moa.training.judge import answered_by_all, judge, read_domains

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "jobs/configs/evaluate_router.toml"
QUICK = ["replicates=100", "sweep_points=30", "perturb=false"]
CLAUDE = "anthropic/claude-3.5-sonnet"
MINI = "openai/gpt-4o-mini"


@pytest.fixture(scope="module")
def quick_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped one, but that no router is trained without a source: that takes minutes."""
    lines = CONFIG.read_text().splitlines(keepends=True)
    path = tmp_path_factory.mktemp("config") / "quick.toml"
    path.write_text("".join(line for line in lines if not line.startswith("train_config")))
    return path


Config = Callable[..., EvaluateRouterConfig]


@pytest.fixture(scope="module")
def config(quick_config: Path) -> Config:
    def read(*overrides: str) -> EvaluateRouterConfig:
        return read_toml(EvaluateRouterConfig, quick_config, [*QUICK, *overrides])

    return read


@pytest.fixture(scope="module")
def evaluation(config: Config) -> Evaluation:
    return evaluate_router(config())


def test_the_recorded_figures_are_those_of_the_data(evaluation: Evaluation) -> None:
    six, three = evaluation.pools
    grades = {point.name: point.grade.value for point in six.metrics.models}

    assert (six.metrics.queries, three.metrics.queries) == (760, 1158)
    assert round(six.metrics.oracle.grade.value, 3) == 0.936
    assert round(three.metrics.oracle.grade.value, 3) == 0.899
    assert round(grades[CLAUDE], 3) == 0.841
    assert three.metrics.best_constant == "openai/gpt-4o"
    assert round(three.metrics.of_best_constant.grade.value, 3) == 0.816


def test_every_source_and_domain_is_measured(evaluation: Evaluation) -> None:
    _, three = evaluation.pools

    assert sum(one.queries for one in three.by_source.values()) == 1158
    assert sum(one.queries for one in three.by_domain.values()) == 1158
    assert len(three.by_source) == 7
    assert "math" in three.by_domain
    assert {one.model for one in evaluation.calibration} == set(evaluation.pools[0].pool)
    assert set(evaluation.calibration_by_domain) == set(three.by_domain)


@pytest.mark.parametrize("split", ["train", EVERY_SPLIT])
def test_queries_that_the_router_was_fitted_on_are_told_of(
    evaluation: Evaluation, config: Config, split: str
) -> None:
    found = evaluate_router(config(f'split="{split}"'))

    assert not any("flatter" in note for note in evaluation.basis.notes)
    assert any("fitted on 12,165 of these" in note for note in found.basis.notes)
    assert found.basis.taught == 12_165
    assert not found.passed


def test_another_best_constant_can_be_named(config: Config) -> None:
    job = config(f"pools.P6.best_constant={MINI}")

    six = evaluate_router(job.model_copy(update={"pools": {"P6": job.pools["P6"]}})).pools[0]

    assert six.metrics.best_constant == MINI
    assert six.metrics.against_best_constant.model == MINI


def test_only_queries_that_all_have_answered_are_judged() -> None:
    catalog = load_catalog(ROOT / "jobs/configs/demo_catalog.toml")
    pool = ["openai/gpt-4o", "openai/gpt-4o-mini"]
    prices = PriceTable.build([catalog.models[name] for name in pool])
    router = Router.load("moa/router/embedded")
    data = read_dataset(ROOT / "moa/recordings", pool, split="demo")
    scores = router.score(data.texts, pool)

    found = judge(data, scores, pool, prices, best_constant=pool[1])

    everybody = answered_by_all(data, pool)
    assert found.queries == everybody.sum() < len(data.texts)
    assert (found.grade == data.grade[everybody]).all()
    assert found.domains == found.sources
    assert found.best_constant == 1
    first = int(np.flatnonzero(everybody)[0])
    tokens = (int(data.input_tokens[first, 0]), int(data.output_tokens[first, 0]))
    exact = prices.cost_usd(pool[0], "live", input_tokens=tokens[0], output_tokens=tokens[1])
    assert found.cost_usd[0, 0] == pytest.approx(float(exact))


def test_domains_are_those_of_the_recordings() -> None:
    data = read_dataset(ROOT / "moa/recordings", ["openai/gpt-4o"], split="demo")

    domains = dict(zip(data.sources, read_domains(ROOT / "moa/recordings", data), strict=True))

    assert domains["zeroeval-gsm"] == "math"
    assert domains["farel"] == "logic"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["pools.P3.models=['openai/gpt-4o','v/none']"], "was not trained on v/none"),
        (["split=nowhere"], "in nowhere"),
        (["recordings=nowhere"], "nowhere/queries.parquet is not there"),
    ],
)
def test_what_is_not_there_is_named(config: Config, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate_router(config(*overrides))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pools.P6.best_constant=v/none", "is none of models"),
        ("pools.P6.models=['openai/gpt-4o','openai/gpt-4o']", "named more than once"),
        ("pools.P6.gate.ece=1.5", "less than or equal to 1"),
        ("pools.P6.gate.eec=0.1", "did you mean pools.P6.gate.ece"),
        ("regret_at=[0.0]", "greater than 0, each"),
        ("replicates=10", "greater than or equal to 100"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: Config, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(override)


def run(config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/evaluate_router.py", "--config", str(config)]
    for one in (*QUICK, *overrides):
        command += ["--set", one]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_exit_code_is_the_verdict(tmp_path: Path, quick_config: Path) -> None:
    nothing_asked = [
        f"pools.{pool}.gate={{ grade_difference = {bound} }}"
        for pool, bound in (("P6", -1.0), ("P3", -1.0))
    ]

    passed = run(quick_config, f"output={tmp_path}/a", *nothing_asked)
    refused = run(
        quick_config, f"output={tmp_path}/b", nothing_asked[0], "pools.P3.gate={ aiq = 0.99 }"
    )
    bad = run(quick_config, f"output={tmp_path}/c", "artifact=nowhere")

    assert [passed.returncode, refused.returncode, bad.returncode] == [0, 1, 2]
    assert "worth it" in passed.stdout
    assert "FAILED P3: AIQ" in refused.stdout
    assert bad.stderr.startswith("ArtifactError")
    assert orjson.loads((tmp_path / "a/verdict.json").read_bytes())["passed"] is True
    assert orjson.loads((tmp_path / "b/verdict.json").read_bytes())["passed"] is False
    assert (tmp_path / "a/evaluation.html").stat().st_size > 10_000
    assert "evaluation" in orjson.loads((tmp_path / "a/evaluation.json").read_bytes())
    assert not (tmp_path / "c").exists()


def test_every_key_is_explained() -> None:
    command = [sys.executable, "jobs/evaluate_router.py", "--explain-config"]

    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "| `policy.willingness_to_pay` |" in said
    assert "| `replicates` |" in said
    assert "| `gate.flip_rate` |" in said
