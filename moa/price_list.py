"""What genai-prices says that a lane of a model costs on a day, and whether it really says so.

genai-prices is a snapshot of the vendors' pages inside a package: nothing is fetched. It prices a
lane that it does not know like a live call, without a word; here that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

from genai_prices import __version__ as GENAI_PRICES_VERSION
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices

from moa.catalog import Lane, Model, Rates
from moa.errors import ConfigError

LIST_NAME = f"genai-prices {GENAI_PRICES_VERSION}"
CONTEXTS: dict[Lane, dict[str, str]] = {
    "live": {},
    "flex": {"service_tier": "flex"},
    "batch": {"processing": "batch"},
}
"""How genai-prices names the lanes."""
UNBILLED = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")
"""Ways of billing a text call that are not counted here: such a model needs an agreed price."""


class ListPrice(NamedTuple):
    """What the list says."""

    rates: tuple[Rates, ...]
    """Ascending in `above_input_tokens`; the last one that a prompt exceeds holds for all of it."""
    valid_from: date | None
    """Since when the price holds; `None` when that is not known."""
    valid_until: date | None
    """The day of the next known change; `None` when none is known."""
    source: str
    variant_missing: bool
    """The list has no price for this lane; `rates` are those of a live call."""
    varies_by_hour: bool
    """There are other prices at other hours; `rates` are the dearest of the day."""
    before_the_list: bool
    """All prices of the list begin after that day; `rates` are those of the first."""


def list_price(model: Model, lane: Lane, day: date) -> ListPrice:
    """Look a model up.

    Raises:
        ConfigError: it is not in the list, or billed in a way that is not counted here.
    """
    provider, info = _look_up(model)
    missing = lane != "live" and not _has_variant(provider, info, lane, day)
    listed = _over_the_day(info, {} if missing else CONTEXTS[lane], day)
    dearest = max(listed, key=_dearness)
    rates = _rates(dearest)
    odd = [key for key in UNBILLED if getattr(dearest, key) is not None]
    if rates is None or odd:
        why = f"is billed by {', '.join(odd)} too" if odd else "has no price per token both ways"
        looked_up = f"{info.id!r} of {provider.id!r} in {LIST_NAME}"
        raise ConfigError(f"{model.id}: {looked_up} {why}; {how_to_override(model.id, lane)}")
    valid_from, valid_until = _validity(info, lane, day)
    page = (provider.pricing_urls or [""])[0]
    return ListPrice(
        rates=rates,
        valid_from=valid_from,
        valid_until=valid_until,
        source=f"{LIST_NAME}: {page}" if page else LIST_NAME,
        variant_missing=missing,
        varies_by_hour=any(price != dearest for price in listed),
        before_the_list=_begins_after(info, day),
    )


def _look_up(model: Model) -> tuple[Provider, ModelInfo]:
    """Where genai-prices has the model. Without a provider it would guess one by the name."""
    try:
        if not model.price_provider:
            raise LookupError("no provider to look in")
        return get_snapshot().find_provider_model(model.price_ref, None, model.price_provider, None)
    except LookupError as error:
        raise ConfigError(
            f"{model.id}: {LIST_NAME} has no model {model.price_ref!r} of provider "
            f"{model.price_provider!r}; correct price_provider and price_ref in the catalog, or "
            f"{how_to_override(model.id, 'live')}"
        ) from error


def _has_variant(provider: Provider, info: ModelInfo, lane: Lane, day: date) -> bool:
    """Whether the list prices this lane for itself on that day, input and output both.

    The price of a model that one provider borrows from another one's list is looked up without
    its lanes.
    """
    if not any(info is own for own in provider.models):
        return False
    noon = datetime.combine(day, time(12), UTC)
    priced: set[str] = set()
    for variant in info.price_variants or ():
        active = variant.constraint is None or variant.constraint.active(noon)
        if active and variant.when == CONTEXTS[lane]:
            priced |= {key for key, value in vars(variant.prices).items() if value is not None}
    return {"input_mtok", "output_mtok"} <= priced


def _over_the_day(info: ModelInfo, context: Mapping[str, str], day: date) -> list[ModelPrice]:
    """The prices of every half hour: some vendors are cheaper at night."""
    midnight = datetime.combine(day, time(0), UTC)
    moments = (midnight + half * timedelta(minutes=30) for half in range(48))
    return [info.get_prices(moment, context) for moment in moments]


def _dearness(price: ModelPrice) -> tuple[Decimal, Decimal]:
    return _at(price.output_mtok, -1) or Decimal(0), _at(price.input_mtok, -1) or Decimal(0)


def _at(price: Decimal | TieredPrices | None, above_input_tokens: int) -> Decimal | None:
    """One price for prompts that are just longer than that."""
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= above_input_tokens]
    return reached[-1] if reached else price.base


def _rates(price: ModelPrice) -> tuple[Rates, ...] | None:
    """A step wherever one of the prices has one; `None` without a price per token both ways."""
    keys = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
    values = [getattr(price, key) for key in keys]
    tiered = [value for value in values if isinstance(value, TieredPrices)]
    rates = []
    for start in [-1, *sorted({tier.start for value in tiered for tier in value.tiers})]:
        usd_in, usd_out, cached, written = (_at(value, start) for value in values)
        if usd_in is None or usd_out is None:
            return None
        rates.append(
            Rates(
                input=usd_in,
                output=usd_out,
                cached_input=usd_in if cached is None else cached,
                cache_write=usd_in if written is None else written,
                above_input_tokens=start,
            )
        )
    return tuple(rates)


def _validity(info: ModelInfo, lane: Lane, day: date) -> tuple[date | None, date | None]:
    """Since when the prices of a day hold, and when they change next, as far as is known."""
    constraints = [one.constraint for one in info.prices] if isinstance(info.prices, list) else []
    if lane != "live":
        variants = info.price_variants or ()
        constraints += [one.constraint for one in variants if one.when == CONTEXTS[lane]]
    starts = [one.start_date for one in constraints if isinstance(one, StartDateConstraint)]
    past = [start for start in starts if start <= day]
    future = [start for start in starts if start > day]
    return max(past, default=None), min(future, default=None)


def _begins_after(info: ModelInfo, day: date) -> bool:
    prices = info.prices if isinstance(info.prices, list) else []
    starts = [p.constraint for p in prices if isinstance(p.constraint, StartDateConstraint)]
    return bool(prices) and len(starts) == len(prices) and min(s.start_date for s in starts) > day


def how_to_override(model_id: str, lane: str) -> str:
    """The remedy, for messages."""
    return (
        f'give the catalog a table [models."{model_id}".prices.{lane}] with input_usd_per_mtok, '
        "output_usd_per_mtok and source"
    )
