from __future__ import annotations

import pickle
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal

import numpy as np
import orjson
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import AgreedPrice, Lane, Limits, Model, Rates
from moa.errors import ConfigError
from moa.price_list import CONTEXTS
from moa.prices import PriceTable

DAY = date(2026, 11, 24)
NOON = datetime.combine(DAY, time(12), UTC)
LANES: tuple[Lane, ...] = ("live", "flex", "batch")


def listed(provider: str, ref: str, *agreed: AgreedPrice) -> Model:
    return Model(
        id=f"{provider or 'own'}/{ref}",
        provider=provider or "own",
        api_name=ref,
        context_window=2_000_000,
        max_output_tokens=8_000,
        abilities=frozenset(),
        limits=Limits(),
        price_provider=provider,
        price_ref=ref,
        prices=agreed,
    )


def agreed(lane: Lane, usd: str, *, valid_from: date | None = None) -> AgreedPrice:
    each = Decimal(usd)
    return AgreedPrice(lane, (Rates(each, each, each, each),), "contract 7", valid_from)


POOL = [
    listed("openai", "gpt-4o"),
    listed("openai", "gpt-6.1-terra"),
    listed("openai", "gpt-5.6-luna"),
    listed("anthropic", "claude-haiku-5-5"),
    listed("anthropic", "claude-sonnet-4-5"),
    listed("anthropic", "claude-3-haiku"),
    listed("google", "gemini-1.5-pro"),
    listed("google", "gemini-1.5-flash"),
    listed("google", "gemini-2.5-pro"),
    listed("google", "gemini-4-argon"),
    listed("openrouter", "qwen/qwen3-coder-flash"),
    listed("openrouter", "google/gemini-2.5-pro"),
]
TABLE = PriceTable.build(POOL, as_of=DAY, lanes=LANES)
PRICED = sorted((p.model, p.lane) for p in TABLE.prices.values() if TABLE.has(p.model, p.lane))
BY_ID = {model.id: model for model in POOL}
EDGES = [0, 1, 100_000, 100_001, 128_000, 128_001, 200_000, 200_001, 272_000, 272_001]
tokens = st.one_of(st.integers(0, 2_000_000), st.sampled_from(EDGES))


@st.composite
def usages(draw: st.DrawFn) -> dict[str, int]:
    total = draw(tokens)
    cached = draw(st.integers(0, total))
    return {
        "input_tokens": total,
        "output_tokens": draw(st.integers(0, 200_000)),
        "cached_input_tokens": cached,
        "cache_write_tokens": draw(st.integers(0, total - cached)),
    }


def their_cost(model_id: str, lane: Lane, usage: dict[str, int]) -> Decimal:
    model = BY_ID[model_id]
    return calc_price(
        Usage(
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_read_tokens=usage["cached_input_tokens"],
            cache_write_tokens=usage["cache_write_tokens"],
        ),
        model.price_ref,
        provider_id=model.price_provider,
        genai_request_timestamp=NOON,
        price_context=CONTEXTS[lane],
    ).total_price


@given(st.sampled_from(PRICED), usages())
def test_a_bill_is_what_the_price_lists_own_calculation_says(
    key: tuple[str, Lane], usage: dict[str, int]
) -> None:
    model_id, lane = key

    ours = TABLE.cost_usd(model_id, lane, **usage)

    assert abs(ours - their_cost(model_id, lane, usage)) <= Decimal("1E-12")


@given(st.sampled_from(PRICED), usages())
def test_a_bill_fits_the_twelve_decimals_of_the_tables(
    key: tuple[str, Lane], usage: dict[str, int]
) -> None:
    model_id, lane = key

    exponent = TABLE.cost_usd(model_id, lane, **usage).as_tuple().exponent

    assert isinstance(exponent, int)
    assert exponent >= -12


@pytest.mark.parametrize("lane", LANES)
@given(st.lists(st.tuples(tokens, st.integers(0, 200_000)), min_size=1, max_size=6))
def test_expected_costs_are_the_bills_of_uncached_calls(
    lane: Lane, calls: list[tuple[int, int]]
) -> None:
    ids = [model_id for model_id, priced in PRICED if priced == lane]
    shape = (len(calls), len(ids))
    asked = np.broadcast_to(np.array([[i] for i, _ in calls], np.float64), shape)
    written = np.broadcast_to(np.array([[o] for _, o in calls], np.float64), shape)

    expected = TABLE.expected_cost_usd(ids, lane, asked, written)

    assert expected.dtype == np.float64
    for row, (input_tokens, output_tokens) in enumerate(calls):
        for column, model_id in enumerate(ids):
            bill = TABLE.cost_usd(
                model_id, lane, input_tokens=input_tokens, output_tokens=output_tokens
            )
            assert expected[row, column] == pytest.approx(float(bill), rel=1e-12, abs=1e-12)


def test_a_fraction_of_a_token_above_the_step_is_billed_by_the_next_tier() -> None:
    ids = ["anthropic/claude-haiku-5-5"]

    costs = TABLE.expected_cost_usd(
        ids, "live", np.array([[100_000.0], [100_000.5]]), np.zeros((2, 1))
    )

    assert costs[1, 0] > 4.9 * costs[0, 0]


def test_a_known_call_costs_what_the_vendors_page_says() -> None:
    cost = TABLE.cost_usd(
        "openai/gpt-4o",
        "live",
        input_tokens=1_000_000,
        output_tokens=100_000,
        cached_input_tokens=400_000,
    )

    assert cost == Decimal("2.5") * 6 / 10 + Decimal("1.25") * 4 / 10 + Decimal(1)


def test_more_cached_tokens_than_input_give_no_money_back() -> None:
    cost = TABLE.cost_usd(
        "openai/gpt-4o", "live", input_tokens=0, output_tokens=0, cached_input_tokens=1_000_000
    )

    assert cost == Decimal("1.25")


def test_a_lane_without_a_price_is_warned_of_and_refused() -> None:
    assert any("gemini-1.5-pro" in line and "batch" in line for line in TABLE.warnings)
    assert TABLE.prices["google/gemini-1.5-pro", "batch"].variant_missing

    with pytest.raises(ConfigError, match=r"has no batch price on 2026-11-24.*prices.batch\]"):
        TABLE.cost_usd("google/gemini-1.5-pro", "batch", input_tokens=1, output_tokens=1)
    one = np.ones((1, 1))
    with pytest.raises(ConfigError, match="no batch price"):
        TABLE.expected_cost_usd(["google/gemini-1.5-pro"], "batch", one, one)


def test_an_agreed_price_opens_a_lane_that_the_list_does_not_have() -> None:
    pro = listed("google", "gemini-1.5-pro", agreed("batch", "0.5"))

    table = PriceTable.build([pro], as_of=DAY, lanes=("live", "batch"))

    cost = table.cost_usd(pro.id, "batch", input_tokens=1_000_000, output_tokens=1_000_000)
    assert cost == 1
    assert table.warnings == ()
    assert "contract 7" in table.sources


def test_an_agreed_price_goes_before_the_list_from_its_day_on() -> None:
    model = listed("openai", "gpt-4o", agreed("live", "1", valid_from=DAY))

    before = PriceTable.build([model], as_of=date(2026, 11, 23)).price(model.id, "live")
    from_then = PriceTable.build([model], as_of=DAY).price(model.id, "live")

    assert before.rates[0].input == Decimal("2.5")
    assert from_then.rates[0].input == 1


def test_an_agreed_price_that_begins_later_is_told_where_the_list_counts_meanwhile() -> None:
    model = listed("openai", "gpt-4o", agreed("live", "1", valid_from=date(2026, 12, 1)))

    (line,) = PriceTable.build([model], as_of=DAY).warnings

    assert "agreed price begins on 2026-12-01; on 2026-11-24 the list price counts" in line


def test_an_agreed_price_that_begins_later_is_refused_where_there_is_no_list() -> None:
    model = listed("", "qwen", agreed("live", "1", valid_from=date(2026, 12, 1)))

    with pytest.raises(ConfigError, match=r"begins on 2026-12-01, and prices of 2026-11-24"):
        PriceTable.build([model], as_of=DAY)


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-6.1-terra"])
def test_a_day_before_the_list_began_is_warned_of(name: str) -> None:
    table = PriceTable.build([listed("openai", name)], as_of=date(2019, 1, 1))

    assert any("has no price of 2019-01-01" in line for line in table.warnings)


def test_an_override_goes_before_the_catalogs_own_price() -> None:
    model = listed("openai", "gpt-4o", agreed("live", "1"))

    table = PriceTable.build([model], as_of=DAY, overrides={model.id: [agreed("live", "7")]})

    assert table.price(model.id, "live").rates[0].input == 7


def test_a_model_of_ones_own_needs_no_list_and_has_only_its_own_lanes() -> None:
    own = listed("", "qwen", agreed("live", "0.1"))

    table = PriceTable.build([own], as_of=DAY, lanes=("live", "batch"))

    assert table.has("own/qwen", "live")
    assert not table.has("own/qwen", "batch")
    assert any("own/qwen" in line and "batch" in line for line in table.warnings)


def test_a_model_without_any_price_refuses_to_start() -> None:
    with pytest.raises(ConfigError, match=r"own/qwen: .*no model 'qwen'"):
        PriceTable.build([listed("", "qwen")], as_of=DAY)


def test_a_lane_that_was_not_built_is_refused_with_those_that_were() -> None:
    table = PriceTable.build(POOL[:1], as_of=DAY)

    with pytest.raises(ConfigError, match=r"flex.*openai/gpt-4o/live"):
        table.price("openai/gpt-4o", "flex")


def test_a_price_about_to_change_is_warned_of() -> None:
    flash = [listed("google", "gemini-3.8-flash")]

    eve = PriceTable.build(flash, as_of=date(2026, 12, 31))
    long_before = PriceTable.build(flash, as_of=DAY)

    assert any("2027-01-01" in line for line in eve.warnings)
    assert long_before.warnings == ()


def test_the_version_follows_the_prices_and_neither_the_day_nor_the_order() -> None:
    pool = [listed("google", "gemini-3.8-flash"), listed("openai", "gpt-4o")]

    version = PriceTable.build(pool, as_of=DAY).version

    assert re.fullmatch("[0-9a-f]{12}", version)
    assert PriceTable.build(pool[::-1], as_of=date(2026, 11, 20)).version == version
    assert PriceTable.build(pool, as_of=date(2027, 1, 1)).version != version
    assert PriceTable.build(pool[:1], as_of=DAY).version != version


def test_without_a_day_todays_prices_count() -> None:
    before = datetime.now(UTC).date()

    table = PriceTable.build(POOL[:1])

    assert before <= table.as_of <= datetime.now(UTC).date()


def test_a_table_travels_to_other_processes_unchanged() -> None:
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE


def test_a_table_is_kept_as_json_without_loss() -> None:
    text = orjson.dumps(TABLE.document())

    kept = PriceTable.from_document(orjson.loads(text))

    assert kept == TABLE
