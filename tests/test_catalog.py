from __future__ import annotations

import re
import typing
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from moa.catalog import Ability, Limits, load_catalog
from moa.errors import ConfigError
from moa.prices import PriceTable
from moa.providers.accounts import ABILITIES
from moa.request import ChatRequest

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
SHIPPED = ["catalog.toml", "demo_catalog.toml"]
SMALL = """
[accounts.openai]
wire = "openai"
api_key_env = "OPENAI_API_KEY"

[models."openai/small"]
api_name = "gpt-4o-mini"
context_window = 128_000
max_output_tokens = 16_384
abilities = ["tools", "temperature"]
limits = { rpm = 500, tpm = 200_000 }
price_provider = "openai"
"""
OWN = """
[accounts.local]
wire = "openai"
base_url = "http://localhost:8000/v1"

[models."local/qwen"]
api_name = "Qwen/Qwen3"
context_window = 32_768
max_output_tokens = 8_192
abilities = []
[models."local/qwen".prices.live]
input_usd_per_mtok = 0.06
output_usd_per_mtok = 0.18
cached_input_usd_per_mtok = 0.01
source = "measured"
long_context = [
  { above_input_tokens = 9_000, input_usd_per_mtok = 1, output_usd_per_mtok = 2 },
  { above_input_tokens = 5_000, input_usd_per_mtok = 0.5, output_usd_per_mtok = 1 },
]
"""


def catalog_file(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_catalogs_are_valid_and_every_model_has_a_price(name: str) -> None:
    catalog = load_catalog(CONFIGS / name)

    table = PriceTable.build(list(catalog.models.values()), as_of=date(2026, 11, 24))

    assert all(table.has(model, "live") for model in catalog.models)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_catalogs_promise_nothing_that_a_wire_cannot_carry(name: str) -> None:
    catalog = load_catalog(CONFIGS / name)

    for model in catalog.models.values():
        wire = catalog.accounts[model.provider].wire
        assert model.abilities <= ABILITIES[wire], model.id


def test_the_examples_in_comments_are_valid_too(tmp_path: Path) -> None:
    text = (CONFIGS / "catalog.toml").read_text()
    examples = text[text.index("# [accounts.local]") :]
    setting = re.compile(r'^# (\[|\]|  [{"]|[a-z_]+ = )')
    lines = [line[2:] for line in examples.splitlines() if setting.match(line)]

    catalog = load_catalog(catalog_file(tmp_path, "\n".join(lines)))
    table = PriceTable.build(list(catalog.models.values()), as_of=date(2026, 11, 24))

    assert set(catalog.accounts) == {"local", "openrouter", "azure"}
    assert table.price("azure/gpt-6.1-terra", "live").source.startswith("contract")


def test_a_model_is_read_with_its_account(tmp_path: Path) -> None:
    catalog = load_catalog(catalog_file(tmp_path, SMALL))

    model = catalog.models["openai/small"]
    assert model.provider == "openai"
    assert model.api_name == "gpt-4o-mini"
    assert model.abilities == {"tools", "temperature"}
    assert model.limits == Limits(rpm=500, tpm=200_000)
    assert model.price_ref == "gpt-4o-mini"
    assert catalog.accounts["openai"].api_key_env == "OPENAI_API_KEY"


def test_requests_a_day_are_a_limit_too(tmp_path: Path) -> None:
    text = SMALL.replace("tpm = 200_000", "tpm = 200_000, rpd = 10_000")

    catalog = load_catalog(catalog_file(tmp_path, text))

    assert catalog.models["openai/small"].limits == Limits(rpm=500, tpm=200_000, rpd=10_000)


def test_agreed_prices_are_read_with_their_tiers_in_order(tmp_path: Path) -> None:
    catalog = load_catalog(catalog_file(tmp_path, OWN))

    (price,) = catalog.models["local/qwen"].prices
    assert [rates.above_input_tokens for rates in price.rates] == [-1, 5000, 9000]
    assert price.rates[0].cached_input == Decimal("0.01")
    assert price.rates[0].cache_write == Decimal("0.06")
    assert price.rates[2].output == 2


def test_the_version_changes_with_the_content_and_not_with_the_layout(tmp_path: Path) -> None:
    version = load_catalog(catalog_file(tmp_path, SMALL)).version

    commented = load_catalog(catalog_file(tmp_path, "# note\n" + SMALL)).version
    changed = load_catalog(catalog_file(tmp_path, SMALL.replace("128_000", "64_000"))).version

    assert re.fullmatch("[0-9a-f]{12}", version)
    assert commented == version
    assert changed != version


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        (
            "api_key_env",
            "api_keys_env",
            "api_keys_env: unknown key; did you mean accounts.openai.api",
        ),
        ("context_window", "context_windows", "context_windows: unknown key; did you mean"),
        ("context_window = 128_000", "context_window = 0", "context_window = 0: should be greater"),
        ('"tools"', '"tool"', "abilities.*'tools'"),
        ('wire = "openai"', 'wire = "cohere"', "wire = 'cohere'.*'anthropic'"),
        ("rpm = 500", "rpm = 0", r"limits.rpm = 0.*Requests per minute; > 0"),
        ('"OPENAI_API_KEY"', '"sk-not-a-name"', "never the key"),
        ('models."openai/small"', 'models."opnai/small"', "no account 'opnai'.*openai"),
        ('models."openai/small"', 'models."small"', "write it as account/name"),
        ("accounts.openai", 'accounts."open.ai"', "accounts.open.ai: files of a run"),
        ('price_provider = "openai"', "", "no price: give price_provider"),
        ("context_window = 128_000", "context_window = 16_383", "max_output_tokens 16,384 is more"),
        (
            'api_key_env = "OPENAI',
            'base_url = "http://"\napi_key_env = "OPENAI',
            "base_url = 'http",
        ),
        ('api_key_env = "OPENAI', 'base_url = "ftp://x"\napi_key_env = "OPENAI', "base_url = 'ftp"),
        ("context_window = 128_000", 'context_window = "128_000"', "should be a valid integer"),
        ("rpm = 500", "rpm = true", "limits.rpm = True"),
        ("rpm = 500", "rpd = 0", r"limits.rpd = 0.*Requests a day; > 0"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, find: str, put: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_catalog(catalog_file(tmp_path, SMALL.replace(find, put)))


def test_a_secret_in_place_of_its_name_is_not_repeated(tmp_path: Path) -> None:
    secret = "sk-" + "a1" * 20

    with pytest.raises(ConfigError) as refusal:
        load_catalog(catalog_file(tmp_path, SMALL.replace("OPENAI_API_KEY", secret)))

    assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("= 9_000", "= 5_000", "two rates above 5,000 input tokens"),
        ("output_usd_per_mtok = 0.18", "output_usd_per_mtok = 1_000_001", "0 to 1,000,000"),
        ("output_usd_per_mtok = 0.18", "output_usd_per_mtok = true", "output_usd_per_mtok = True"),
        ('source = "measured"', 'source = "x"\nvalid_from = 20261124', "a day, as YYYY-MM-DD"),
        ('source = "measured"', 'source = "x"\nvalid_from = 2026-11-24T00:00:00', "a day, as"),
    ],
)
def test_an_agreed_price_that_cannot_be_meant_is_refused(
    tmp_path: Path, find: str, put: str, said: str
) -> None:
    assert find in OWN

    with pytest.raises(ConfigError, match=said):
        load_catalog(catalog_file(tmp_path, OWN.replace(find, put)))


def test_an_agreed_price_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prices.live.source: missing"):
        load_catalog(catalog_file(tmp_path, OWN.replace('source = "measured"', "")))


def test_the_abilities_of_a_catalog_are_those_that_a_request_can_ask_for() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    asking = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}],
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 1,
        "stop": ["."],
        "frequency_penalty": 1,
        "reasoning_effort": "low",
        "logprobs": True,
        "tools": [{"function": {"name": "f"}}],
    }
    hot = {**asking, "temperature": 1.5, "response_format": {"type": "json_object"}}
    schema = {"type": "json_schema", "json_schema": {"name": "s"}}

    asked = {
        ability
        for document in (asking, hot, {**asking, "response_format": schema})
        for ability in ChatRequest.model_validate(document).abilities()
    }

    assert asked == set(typing.get_args(Ability))
