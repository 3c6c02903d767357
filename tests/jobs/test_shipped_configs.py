"""The configs of the loop are valid, and one writes where the next one reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from moa.evaluation.config import EvaluateRouterConfig
from moa.evaluation.promotion import PromoteRouterConfig
from moa.pipeline.grade_config import GradeOutcomesConfig
from moa.pipeline.judge_config import JudgeOutcomesConfig
from moa.toml_file import Section, read_toml
from moa.training.train import TrainRouterConfig

CONFIGS = Path(__file__).parents[2] / "jobs/configs"


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("grade_outcomes", GradeOutcomesConfig),
        ("judge_outcomes", JudgeOutcomesConfig),
        ("train_router", TrainRouterConfig),
        ("evaluate_router", EvaluateRouterConfig),
    ],
)
def test_a_shipped_config_is_valid(name: str, section: type[Section]) -> None:
    assert read_toml(section, CONFIGS / f"{name}.toml")


def test_from_a_night_to_a_promotion_each_config_reads_what_the_one_before_writes() -> None:
    grading = read_toml(GradeOutcomesConfig, CONFIGS / "grade_outcomes.toml")
    training = read_toml(TrainRouterConfig, CONFIGS / "train_on_outcomes.toml")
    gate = read_toml(EvaluateRouterConfig, CONFIGS / "evaluate_on_outcomes.toml")
    promotion = read_toml(PromoteRouterConfig, CONFIGS / "promote_router.toml")

    assert grading.table == training.recordings == gate.recordings
    assert training.artifact == gate.artifact == promotion.artifact
    assert gate.output == promotion.evaluation
    assert gate.current == promotion.promotions
    assert set(gate.pools["ours"].models) <= set(training.models)
