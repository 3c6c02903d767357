"""What a run that has begun is gone on with: its own config, and what may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from moa.config import config_hash, load_config, resolved
from moa.errors import ConfigError, RunError
from moa.pipeline.as_begun import as_begun
from moa.pipeline.job import run_folder_of
from moa.storage.run_folder import RunFolder

DEMO = "jobs/configs/demo.toml"


@pytest.fixture
def begun(tmp_path: Path) -> list[str]:
    """What `--set` needs to name a run that was begun with some values of its own."""
    where = [f"run.folder={tmp_path}", "run.id=night"]
    own = ["policy.max_novelty=0.5", "dispatch.fallback=false", "dispatch.max_attempts=3"]
    config = load_config(DEMO, [*where, *own])
    RunFolder(run_folder_of(config)).begin({"config": resolved(config)}, identity={})
    return where


def test_the_run_s_own_values_count_and_what_may_change_is_given_anew(begun: list[str]) -> None:
    outage = 'replay.script.outages=[{provider="openai", to_s=9}]'
    sets = [*begun, "dispatch.budget_usd=5", "report.title=Again", outage]

    found = as_begun(load_config(DEMO, sets), sets)

    own = load_config(DEMO, [*begun, "policy.max_novelty=0.5", "dispatch.fallback=false"])
    assert config_hash(found) == config_hash(own)
    assert found.policy.max_novelty == 0.5
    assert found.dispatch.budget_usd == 5
    assert found.dispatch.max_attempts == own.dispatch.max_attempts
    assert found.report.title == "Again"
    assert found.replay is not None
    assert "outages" in found.replay.script


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("policy.max_novelty=0.7", "max_novelty: the run was begun with 0.5, .*0.7: leave it out"),
        ("dispatch.fallback=true", "fallback: the run was begun with False"),
        ("pool=['openai/gpt-4o']", "pool: the run was begun with"),
    ],
)
def test_what_decides_cannot_be_set_otherwise(begun: list[str], override: str, said: str) -> None:
    sets = [*begun, override]

    with pytest.raises(ConfigError, match=said):
        as_begun(load_config(DEMO, sets), sets)


def test_the_same_may_be_said_again(begun: list[str]) -> None:
    sets = [*begun, "policy.max_novelty=0.5"]

    assert as_begun(load_config(DEMO, sets), sets).policy.max_novelty == 0.5


def test_a_run_that_there_is_not_is_told(tmp_path: Path) -> None:
    sets = [f"run.folder={tmp_path}", "run.id=nowhere"]

    with pytest.raises(RunError, match="no run has begun here: name one"):
        as_begun(load_config(DEMO, sets), sets)
