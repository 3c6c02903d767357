from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from moa.config import (
    NOT_HASHED,
    RouteBatchConfig,
    config_hash,
    describe,
    load_config,
    resolved,
)
from moa.errors import ConfigError
from moa.toml_file import all_keys

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
SMALLEST = """
catalog = "catalog.toml"
pool = ["openai/a"]
[run]
id = "night-1"
folder = "runs"
[queries]
path = "log.parquet"
[router]
usd_per_hour = 0
[policy]
willingness_to_pay = 0.02
"""


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(SMALLEST)
    return path


@pytest.mark.parametrize("name", ["demo.toml", "route_batch.toml"])
def test_the_shipped_configs_are_valid(name: str) -> None:
    config = load_config(CONFIGS / name)

    assert (CONFIGS.parents[1] / config.catalog).exists()


def test_the_demo_calls_nobody_but_the_replay_server() -> None:
    config = load_config(CONFIGS / "demo.toml")

    assert config.replay is not None
    assert len(config.pool) == 6


def test_the_smallest_config_leaves_the_rest_to_defaults(smallest: Path) -> None:
    config = load_config(smallest)

    assert config.replay is None
    assert config.dispatch.fallback
    assert config.dispatch.budget_usd is None
    assert config.policy.max_novelty == 1


def test_money_is_exact(smallest: Path) -> None:
    config = load_config(smallest, ["router.usd_per_hour=0.1", "dispatch.budget_usd=12.30"])

    assert config.policy.willingness_to_pay == Decimal("0.02")
    assert config.router.usd_per_hour == Decimal("0.1")
    assert config.dispatch.budget_usd == Decimal("12.3")


def test_the_price_of_the_routers_machine_must_be_written(smallest: Path) -> None:
    smallest.write_text(SMALLEST.replace("usd_per_hour = 0", ""))

    with pytest.raises(ConfigError, match=r"router.usd_per_hour: missing.*USD per hour"):
        load_config(smallest)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("", "neither is given"),
        ("willingness_to_pay = 1\nquality_floor = 0.5", "both are given"),
    ],
)
def test_a_policy_has_exactly_one_criterion(smallest: Path, policy: str, said: str) -> None:
    smallest.write_text(SMALLEST.replace("willingness_to_pay = 0.02", policy))

    with pytest.raises(ConfigError, match=f"policy: {said}.*exactly one"):
        load_config(smallest)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["router.engine.tensor_parallel_size=2", "router.num_gpus=1"], "as many GPUs as share"),
        (
            ["router.num_gpus=0.5"],
            r"gpu_memory_utilization 0\.9: one replica may take at most 0\.5",
        ),
    ],
)
def test_gpus_and_what_engines_take_of_them_must_agree(
    smallest: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(smallest, overrides)

    fits = ["router.num_gpus=0.5", "router.engine.gpu_memory_utilization=0.45"]
    assert load_config(smallest, fits).router.num_gpus == 0.5


@pytest.mark.parametrize(
    "override",
    [
        "run.id=../elsewhere",
        "run.id=",
        "run.folder=",
        "run.seed=-1",
        "pool=[]",
        'pool=["a/b", "a/b"]',
        "router.replicas=0",
        "router.usd_per_hour=-1",
        "policy.willingness_to_pay=-0.1",
        "policy.max_novelty=1.1",
        "dispatch.max_in_flight=0",
        "dispatch.budget_usd=0",
        "dispatch.total_timeout_s=0",
        "queries.part_rows=0",
        "queries.format=csv",
        "queries.path=",
        "queries.path=[]",
        'queries.path=["a.parquet", " "]',
        "queries.dedupe=1",
        "dispatch.max_in_flight=true",
        "dispatch.max_in_flight='6'",
        "dispatch.total_timeout_s='6'",
        "router.usd_per_hour=true",
        "log.style=xml",
        "prices.as_of=yesterday",
        "prices.as_of=20261124",
        "prices.as_of=2026-11-24T00:00:00",
        "prices.as_of='20261124'",
    ],
)
def test_a_value_out_of_its_range_is_refused_by_its_key(smallest: Path, override: str) -> None:
    key = override.partition("=")[0]

    with pytest.raises(ConfigError) as refusal:
        load_config(smallest, [override])

    heading, line = str(refusal.value).splitlines()
    assert heading.endswith("1 problem")
    assert line.strip().startswith(key)


@pytest.mark.parametrize("override", ["run.folder=a\0b", "queries.path=['a', 'caf\udce9']"])
def test_what_no_file_can_be_called_is_refused_by_its_key(smallest: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="NUL or bytes that are no UTF-8") as refusal:
        load_config(smallest, [override])

    assert override.partition("=")[0] in str(refusal.value)


def test_a_typing_error_is_answered_with_the_key_that_was_meant(smallest: Path) -> None:
    with pytest.raises(ConfigError, match=r"dispatch.max_in_flights.*dispatch.max_in_flight\?"):
        load_config(smallest, ["dispatch.max_in_flights=3"])


def test_the_resolved_config_is_json_and_makes_the_same_config_again(smallest: Path) -> None:
    config = load_config(smallest, ["prices.as_of=2026-11-24"])

    document = json.loads(json.dumps(resolved(config)))

    assert document["prices"]["as_of"] == "2026-11-24"
    assert RouteBatchConfig.model_validate(document) == config


@pytest.mark.parametrize(
    "override",
    [
        "run.id=other",
        "run.folder=s3://bucket/runs",
        "router.replicas=4",
        "router.usd_per_hour=9",
        "dispatch.max_in_flight=7",
        "dispatch.total_timeout_s=7",
        "dispatch.budget_usd=7",
        "report.title=Night",
        "log.style=json",
    ],
)
def test_place_speed_budget_and_looks_do_not_change_the_hash(smallest: Path, override: str) -> None:
    assert config_hash(load_config(smallest, [override])) == config_hash(load_config(smallest))


def test_an_outage_of_simulated_vendors_does_not_change_the_hash() -> None:
    demo = "jobs/configs/demo.toml"

    out = load_config(demo, ['replay.script.outages=[{provider="openai", to_s=9}]'])

    assert out.replay is not None
    assert out.replay.script
    assert config_hash(out) == config_hash(load_config(demo))


@pytest.mark.parametrize(
    "override",
    [
        "catalog=other.toml",
        'pool=["openai/a", "openai/b"]',
        "run.seed=1",
        "queries.path=other.parquet",
        "queries.dedupe=true",
        "queries.part_rows=5",
        "prices.as_of=2026-11-24",
        "router.artifact=other",
        "policy.willingness_to_pay=0.03",
        "policy.max_novelty=0.5",
        "policy.default_model=openai/a",
        "dispatch.fallback=false",
        "replay.recordings=moa/recordings",
    ],
)
def test_what_decides_who_is_asked_what_changes_the_hash(smallest: Path, override: str) -> None:
    assert config_hash(load_config(smallest, [override])) != config_hash(load_config(smallest))


def test_the_hash_has_64_hex_digits(smallest: Path) -> None:
    digest = config_hash(load_config(smallest))

    assert len(digest) == 64
    assert int(digest, 16) >= 0


def test_the_list_of_what_is_not_hashed_names_keys_that_exist() -> None:
    known = set(all_keys(RouteBatchConfig))
    named = {
        f"{section}.{key}"
        for section, keys in NOT_HASHED.items()
        for key in (keys if isinstance(keys, set) else ())
    }

    assert named <= known
    assert set(NOT_HASHED) <= known


def test_every_key_has_a_meaning_in_the_description() -> None:
    rows = [row for row in describe().splitlines() if row.startswith("| `")]

    assert len(rows) > 30
    assert all(len(row.split(" | ")[-1].strip(" |")) > 4 for row in rows)
