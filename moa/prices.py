"""What a call costs: the list prices of one day, or what was agreed, times its tokens.

List prices come from genai-prices, which is a snapshot inside the package: nothing is fetched. It
prices a lane that it does not know like a live call, without a word; here such a lane has no
price, and asking for it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter

from moa.catalog import AgreedPrice, Lane, Model, Rates
from moa.errors import ConfigError
from moa.price_list import how_to_override, list_price

USD_STEP = Decimal("1E-12")
"""`moa.schema.USD` holds twelve decimals."""
SOON = timedelta(days=2)
"""A price that changes within this time of the table's day is warned of."""
LONG_AGO = timedelta(days=365)
"""A list price without a date is not believed to have held so long before today."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Price:
    """What one lane of one model costs."""

    model: str
    """Catalog id."""
    lane: Lane
    as_of: date
    rates: tuple[Rates, ...]
    """Ascending in `above_input_tokens`; the last one that a prompt exceeds holds for all of it."""
    valid_from: date | None
    """Since when the price holds; `None` when that is not known."""
    valid_until: date | None
    """The day of the next known change; `None` when none is known."""
    source: str
    variant_missing: bool = False
    """The price list has no price for this lane; `rates` are those of a live call."""
    varies_by_hour: bool = False
    """The list has other prices at other hours; `rates` are the dearest of the day."""
    doubts: tuple[str, ...] = ()
    """Why the price may not be the one that was meant, as sentences."""

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a prompt of so many tokens."""
        rates = self.rates[0]
        for tier in self.rates[1:]:
            if input_tokens > tier.above_input_tokens:
                rates = tier
        return rates


_PRICES = TypeAdapter(list[Price])
"""As JSON: money as text, so that nothing is rounded."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices of a run. Build it with `PriceTable.build`."""

    prices: dict[tuple[str, str], Price]
    """By catalog id and lane."""
    as_of: date
    version: str
    """Hash of all prices, 12 hex digits."""
    sources: tuple[str, ...]
    warnings: tuple[str, ...]
    """What a user should know before spending by this table; one sentence each."""

    @classmethod
    def build(
        cls,
        models: Sequence[Model],
        *,
        as_of: date | None = None,
        lanes: Sequence[Lane] | None = None,
        overrides: Mapping[str, Sequence[AgreedPrice]] | None = None,
    ) -> PriceTable:
        """Look every model up in every lane.

        Args:
            models: of the catalog.
            as_of: whose list prices count; `None` is today, UTC.
            lanes: to be priced; `None`: those that each model has. One that the list does not price
                for a model gives a warning here, and a ConfigError where that price is asked for.
            overrides: catalog id → agreed prices that go before the catalog's own.

        Raises:
            ConfigError: a model has no price at all.
        """
        day = as_of or datetime.now(UTC).date()
        prices: dict[tuple[str, str], Price] = {}
        for model in models:
            agreed = (*(overrides or {}).get(model.id, ()), *model.prices)
            for lane in model.lanes if lanes is None else lanes:
                prices[model.id, lane] = _price(model, lane, day, agreed)
        return cls._of(prices, day)

    def document(self) -> dict[str, JsonValue]:
        """All of the table as JSON holds it, money as text; `from_document` gives it back."""
        prices = _PRICES.dump_python(list(self.prices.values()), mode="json")
        return {"as_of": self.as_of.isoformat(), "prices": prices}

    @classmethod
    def from_document(cls, document: Mapping[str, JsonValue]) -> PriceTable:
        """The table that `document` was made from, whatever the price list says by now."""
        prices = _PRICES.validate_python(document["prices"])
        day = date.fromisoformat(str(document["as_of"]))
        return cls._of({(one.model, one.lane): one for one in prices}, day)

    @classmethod
    def _of(cls, prices: dict[tuple[str, str], Price], day: date) -> PriceTable:
        return cls(
            prices=prices,
            as_of=day,
            version=_version(prices),
            sources=tuple(sorted({price.source for price in prices.values()})),
            warnings=tuple(line for price in prices.values() for line in _warnings(price)),
        )

    def price(self, model_id: str, lane: str) -> Price:
        """The price of a lane of a model.

        Raises:
            ConfigError: the lane has no price of its own for this model.
        """
        price = self.prices.get((model_id, lane))
        if price is None:
            known = sorted("/".join(key) for key in self.prices)
            raise ConfigError(f"no price for {model_id} in the {lane} lane; there are {known}")
        if price.variant_missing:
            raise ConfigError(f"{_missing(price)}; {how_to_override(model_id, lane)}")
        return price

    def has(self, model_id: str, lane: str) -> bool:
        """Whether `price` would answer."""
        price = self.prices.get((model_id, lane))
        return price is not None and not price.variant_missing

    def cost_usd(
        self,
        model_id: str,
        lane: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> Decimal:
        """What a call with this usage costs, in USD, exact to the twelfth decimal.

        Args:
            model_id: catalog id.
            lane: how the call was bought.
            input_tokens: all of the prompt, cached tokens too.
            output_tokens: all that is billed as output, reasoning too.
            cached_input_tokens: of the prompt, read from the vendor's cache.
            cache_write_tokens: of the prompt, written to it.

        Raises:
            ConfigError: as for `price`.
        """
        rates = self.price(model_id, lane).rates_for(input_tokens)
        # A vendor that reports more cached tokens than input is not given money back.
        plain_tokens = max(0, input_tokens - cached_input_tokens - cache_write_tokens)
        usd = (
            rates.input * plain_tokens
            + rates.cached_input * cached_input_tokens
            + rates.cache_write * cache_write_tokens
            + rates.output * output_tokens
        ).scaleb(-6)
        return usd.quantize(USD_STEP)

    def expected_cost_usd(
        self, model_ids: Sequence[str], lane: str, input_tokens: Floats, output_tokens: Floats
    ) -> Floats:
        """What calls cost when nothing is cached, in USD.

        Args:
            model_ids: catalog ids, one per column.
            lane: how all of them are bought.
            input_tokens: expected, shape (n, models).
            output_tokens: expected, reasoning too, shape (n, models).

        Returns:
            float64, shape (n, models).

        Raises:
            ConfigError: as for `price`.
        """
        costs = np.empty(np.shape(input_tokens))
        for column, model_id in enumerate(model_ids):
            rates = self.price(model_id, lane).rates
            above = np.array([tier.above_input_tokens for tier in rates[1:]], np.float64)
            usd_in = np.array([float(tier.input) for tier in rates]) / 1e6
            usd_out = np.array([float(tier.output) for tier in rates]) / 1e6
            tokens = np.asarray(input_tokens[:, column], np.float64)
            tier = np.searchsorted(above, tokens, side="left")
            costs[:, column] = usd_in[tier] * tokens + usd_out[tier] * output_tokens[:, column]
        return costs


def _price(model: Model, lane: Lane, day: date, agreed: Sequence[AgreedPrice]) -> Price:
    valid = [one for one in agreed if one.valid_from is None or one.valid_from <= day]
    by_lane = {one.lane: one for one in reversed(valid)}
    if lane in by_lane:
        return _agreed(model, lane, day, by_lane[lane])
    if not model.price_provider and "live" in by_lane:
        return _agreed(model, lane, day, by_lane["live"], missing=True)
    starts = [one.valid_from for one in agreed if one.lane == lane and one.valid_from is not None]
    if not model.price_provider and starts:
        raise ConfigError(
            f"{model.id}: the agreed price of its {lane} lane begins on {min(starts)}, and prices "
            f"of {day} are asked for: correct valid_from or prices.as_of, or give price_provider "
            "to look the earlier price up"
        )
    return _listed(model, lane, day, agreed_from=min(starts, default=None))


def _listed(model: Model, lane: Lane, day: date, *, agreed_from: date | None) -> Price:
    """The list's price, and what is doubtful about it on that day."""
    listed = list_price(model, lane, day)
    name = f"{model.id}, {lane} lane"
    doubts = []
    if agreed_from is not None:
        doubts.append(
            f"{name}: the agreed price begins on {agreed_from}; on {day} the list price counts"
        )
    undated = listed.valid_from is None and day <= datetime.now(UTC).date() - LONG_AGO
    if listed.before_the_list or undated:
        doubts.append(
            f"{name}: {listed.source} has no price of {day}; the first price that it has counts"
        )
    return Price(
        model=model.id,
        lane=lane,
        as_of=day,
        rates=listed.rates,
        valid_from=listed.valid_from,
        valid_until=listed.valid_until,
        source=listed.source,
        variant_missing=listed.variant_missing,
        varies_by_hour=listed.varies_by_hour,
        doubts=tuple(doubts),
    )


def _agreed(
    model: Model, lane: Lane, day: date, price: AgreedPrice, *, missing: bool = False
) -> Price:
    return Price(
        model=model.id,
        lane=lane,
        rates=price.rates,
        as_of=day,
        valid_from=price.valid_from,
        valid_until=None,
        source=price.source,
        variant_missing=missing,
    )


def _version(prices: Mapping[tuple[str, str], Price]) -> str:
    document = [
        [
            *key,
            price.variant_missing,
            *(
                [tier.above_input_tokens]
                + [f"{usd.normalize():f}" for usd in (tier.input, tier.output)]
                + [f"{usd.normalize():f}" for usd in (tier.cached_input, tier.cache_write)]
                for tier in price.rates
            ),
        ]
        for key, price in sorted(prices.items())
    ]
    return hashlib.sha256(orjson.dumps(document)).hexdigest()[:12]


def _warnings(price: Price) -> list[str]:
    name = f"{price.model}, {price.lane} lane"
    lines = list(price.doubts)
    if price.variant_missing:
        lines.append(f"{_missing(price)}; the {price.lane} lane is refused for it")
    if price.varies_by_hour:
        lines.append(f"{name}: the price varies by the hour; the dearest hour of the day counts")
    if price.valid_until is not None and price.valid_until - price.as_of <= SOON:
        lines.append(
            f"{name}: the price changes on {price.valid_until}; calls from then on are still "
            f"counted at that of {price.as_of}"
        )
    return lines


def _missing(price: Price) -> str:
    return (
        f"{price.model}: {price.source} has no {price.lane} price on {price.as_of}, only a live one"
    )
