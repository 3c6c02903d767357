"""The vendor's side of rate limits: token buckets per key and model.

A request is charged what it will be billed, at once, though vendors estimate first and settle
later (OpenAI by the larger of prompt and `max_tokens`): the ledger then shows exactly what was let
through. Refused requests are charged nothing. A full bucket holds `burst_s` seconds' worth, so a
vendor whose bucket is a minute deep lets nearly two minutes' quota through in its first minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moa.catalog import Wire
from moa.replay.script import Script, VendorLimits
from moa.replay.wire import Level, Levels, Measure, Shortage, Trouble

TOO_LARGE_RETRY_S = 60.0
"""Said to a request that is larger than its bucket, and would be refused for ever."""


class Bucket:
    """Fills by `per_minute` up to `burst_s` seconds' worth; starts full."""

    __slots__ = ("_at", "_level", "capacity", "per_minute")

    def __init__(self, per_minute: float, burst_s: float, now: float) -> None:
        self.per_minute = per_minute
        self.capacity = max(1.0, per_minute * burst_s / 60)
        self._level = self.capacity
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` fits; 0 when it does now."""
        if now > self._at:
            filled = self._level + (now - self._at) * self.per_minute / 60
            self._level = min(self.capacity, filled)
            self._at = now
        if amount > self.capacity:
            return TOO_LARGE_RETRY_S
        return max(0.0, amount - self._level) * 60 / self.per_minute

    def take(self, amount: float) -> None:
        """Use what `wait_s` said is there."""
        self._level -= amount

    def level(self) -> Level:
        """Where it stood when last asked."""
        missing = self.capacity - self._level
        return Level(self.per_minute, max(0.0, self._level), missing * 60 / self.per_minute)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, and what is left."""

    levels: Levels
    trouble: Trouble | None = None


NO_LIMITS = Verdict({})


class LimitBook:
    """The buckets of all keys and models under one script."""

    def __init__(self, script: Script, *, clock: Callable[[], float]) -> None:
        self._limits = script.limits
        self._clock = clock
        self._buckets: dict[tuple[str, str], dict[Measure, Bucket]] = {}

    def admit(
        self,
        provider: Wire,
        key: str,
        model: str,
        api_name: str,
        input_tokens: int,
        output_tokens: int,
    ) -> Verdict:
        """Charge a request to all of its buckets, or to none.

        Args:
            provider: whose limits hold when neither name has its own.
            key: the account.
            model: catalog id, or the API name of a model that was never recorded.
            api_name: what the vendor calls it.
            input_tokens: as billed.
            output_tokens: as billed.
        """
        if not self._limits:
            return NO_LIMITS
        buckets = self._buckets_of(provider, key, model, api_name)
        amounts: dict[Measure, int] = {
            "requests": 1,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "tokens": input_tokens + output_tokens,
        }
        now = self._clock()
        waits = {m: bucket.wait_s(amounts[m], now) for m, bucket in buckets.items()}
        short = max(waits, key=lambda m: waits[m], default=None)
        if short is None or waits[short] <= 0:
            for measure, bucket in buckets.items():
                bucket.take(amounts[measure])
            return Verdict(_levels(buckets))
        trouble = Trouble(
            429,
            retry_after_s=waits[short],
            shortage=Shortage(short, buckets[short].level(), amounts[short]),
            model=api_name,
        )
        return Verdict(_levels(buckets), trouble)

    def _buckets_of(
        self, provider: Wire, key: str, model: str, api_name: str
    ) -> dict[Measure, Bucket]:
        buckets = self._buckets.get((key, model))
        if buckets is None:
            names = (model, api_name, provider)
            limits = next((self._limits[n] for n in names if n in self._limits), None)
            buckets = {} if limits is None else _open(limits, self._clock())
            self._buckets[key, model] = buckets
        return buckets


def _open(limits: VendorLimits, now: float) -> dict[Measure, Bucket]:
    rates: dict[Measure, float | None] = {
        "requests": limits.rpm,
        "tokens": limits.tpm,
        "input_tokens": limits.input_tpm,
        "output_tokens": limits.output_tpm,
    }
    return {m: Bucket(rate, limits.burst_s, now) for m, rate in rates.items() if rate is not None}


def _levels(buckets: dict[Measure, Bucket]) -> Levels:
    return {measure: bucket.level() for measure, bucket in buckets.items()}
