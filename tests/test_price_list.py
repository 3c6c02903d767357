from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TimeOfDateConstraint

from moa.catalog import Lane, Limits, Model
from moa.errors import ConfigError
from moa.price_list import CONTEXTS, list_price

DAY = date(2026, 11, 24)


def listed_model(provider: str, ref: str) -> Model:
    return Model(
        id=f"{provider}/{ref}",
        provider=provider,
        api_name=ref,
        context_window=1_000_000,
        max_output_tokens=8_000,
        abilities=frozenset(),
        limits=Limits(),
        price_provider=provider,
        price_ref=ref,
    )


def test_a_dated_reference_finds_its_model() -> None:
    price = list_price(listed_model("openai", "gpt-4o-mini-2024-07-18"), "live", DAY)

    assert price.rates[0].input == Decimal("0.15")
    assert price.source.startswith("genai-prices 0.")
    assert "https://" in price.source


@pytest.mark.parametrize(
    ("provider", "ref", "lane", "missing"),
    [
        ("openai", "gpt-6.1-terra", "flex", False),
        ("openai", "gpt-6.1-terra", "batch", False),
        ("openai", "gpt-4o", "flex", True),
        ("anthropic", "claude-haiku-5-5", "batch", False),
        ("anthropic", "claude-haiku-5-5", "flex", True),
        ("google", "gemini-3.8-flash", "batch", False),
        ("google", "gemini-3.7-flash", "batch", True),
        ("google", "gemini-1.5-pro", "batch", True),
    ],
)
def test_a_lane_without_a_price_of_its_own_is_noticed(
    provider: str, ref: str, lane: Lane, missing: bool
) -> None:
    price = list_price(listed_model(provider, ref), lane, DAY)

    assert price.variant_missing == missing


def test_a_lane_that_is_priced_from_a_later_day_on_is_missing_before() -> None:
    opus = listed_model("anthropic", "claude-opus-5-5")

    before = list_price(opus, "batch", date(2026, 10, 13))
    after = list_price(opus, "batch", date(2026, 10, 14))

    assert before.variant_missing
    assert not after.variant_missing
    assert after.rates[0].output == before.rates[0].output / 2


def test_a_lane_of_a_model_that_is_borrowed_from_another_list_is_missing() -> None:
    borrowed = listed_model("azure", "gpt-6.1-terra")

    price = list_price(borrowed, "batch", DAY)

    provider, info = get_snapshot().find_provider_model("gpt-6.1-terra", None, "azure", None)
    assert not any(info is own for own in provider.models)
    assert price.variant_missing
    assert price.rates == list_price(borrowed, "live", DAY).rates


def test_a_price_knows_since_when_and_until_when_it_holds() -> None:
    flash = listed_model("google", "gemini-3.8-flash")

    now = list_price(flash, "live", DAY)
    later = list_price(flash, "live", date(2027, 1, 1))

    assert now.valid_until == date(2027, 1, 1)
    assert later.valid_from == date(2027, 1, 1)
    assert later.rates[0].input > now.rates[0].input


def test_a_model_that_is_not_listed_is_refused_with_what_was_looked_up_and_the_remedy() -> None:
    with pytest.raises(ConfigError) as refusal:
        list_price(listed_model("openai", "gpt-nonsense"), "live", DAY)

    said = str(refusal.value)
    assert "genai-prices" in said
    assert "'gpt-nonsense' of provider 'openai'" in said
    assert '[models."openai/gpt-nonsense".prices.live]' in said


def test_no_provider_is_guessed_from_a_models_name() -> None:
    assert calc_price(Usage(input_tokens=1), "gpt-4o").provider.id == "openai"

    with pytest.raises(ConfigError, match="no model 'gpt-4o' of provider ''"):
        list_price(listed_model("", "gpt-4o"), "live", DAY)


def test_a_model_that_is_billed_in_ways_not_counted_here_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is billed by requests_kcount"):
        list_price(listed_model("perplexity", "sonar"), "live", DAY)


def test_a_model_without_a_price_for_output_is_refused() -> None:
    with pytest.raises(ConfigError, match="no price per token both ways"):
        list_price(listed_model("openai", "text-embedding-3-small"), "live", DAY)


def test_where_the_price_varies_by_the_hour_the_dearest_hour_counts() -> None:
    snapshot = get_snapshot()
    varying = [
        (provider.id, info.id)
        for provider in snapshot.providers
        for info in provider.models
        if isinstance(info.prices, list)
        and any(isinstance(p.constraint, TimeOfDateConstraint) for p in info.prices)
    ]
    assert varying

    for provider, ref in varying:
        price = list_price(listed_model(provider, ref), "live", DAY)
        usage = Usage(input_tokens=1000, output_tokens=1000)
        hourly = [
            calc_price(
                usage,
                ref,
                provider_id=provider,
                genai_request_timestamp=datetime.combine(DAY, time(hour, 45), UTC),
            ).total_price
            for hour in range(24)
        ]
        ours = (price.rates[0].input + price.rates[0].output) / 1000
        assert price.varies_by_hour == (len(set(hourly)) > 1)
        assert ours == max(hourly)


def test_the_lanes_are_named_as_the_library_names_them() -> None:
    usage = Usage(input_tokens=1000, output_tokens=1000)
    live, flex, batch = (
        calc_price(usage, "gpt-6.1-terra", provider_id="openai", price_context=context).total_price
        for context in (CONTEXTS["live"], CONTEXTS["flex"], CONTEXTS["batch"])
    )

    assert flex == batch == live / 2
