"""The vendor's side of rate limits: token buckets and a day's count, per key and model.

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
from moa.replay.wire import DAY_S, Level, Levels, Measure, Shortage, Trouble

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


class DayCount:
    """A day's requests, from now on. No script is played for a day, so none are added."""

    __slots__ = ("_at", "_ends_at", "_used", "per_day")

    def __init__(self, per_day: int, now: float) -> None:
        self.per_day = per_day
        self._used = 0.0
        self._at = now
        self._ends_at = now + DAY_S

    def wait_s(self, amount: float, now: float) -> float:
        """See `Bucket.wait_s`: what is left of the day, once its requests are used."""
        self._at = now
        return 0.0 if self._used + amount <= self.per_day else self._rest_s()

    def take(self, amount: float) -> None:
        """See `Bucket.take`."""
        self._used += amount

    def level(self) -> Level:
        """See `Bucket.level`."""
        reset_s = self._rest_s() if self._used else 0.0
        return Level(self.per_day, self.per_day - self._used, reset_s, "day")

    def _rest_s(self) -> float:
        return max(1.0, self._ends_at - self._at)


Meters = list[tuple[Measure, Bucket | DayCount]]


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
        self._meters: dict[tuple[str, str], Meters] = {}

    def admit(
        self,
        provider: Wire,
        key: str,
        model: str,
        api_name: str,
        input_tokens: int,
        output_tokens: int,
    ) -> Verdict:
        """Charge a request to all of its limits, or to none.

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
        meters = self._meters_of(provider, key, model, api_name)
        amounts: dict[Measure, int] = {
            "requests": 1,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "tokens": input_tokens + output_tokens,
        }
        now = self._clock()
        waits = [meter.wait_s(amounts[measure], now) for measure, meter in meters]
        if max(waits, default=0) <= 0:
            for measure, meter in meters:
                meter.take(amounts[measure])
            return Verdict(_levels(meters))
        measure, meter = meters[waits.index(max(waits))]
        level = meter.level()
        trouble = Trouble(
            429,
            retry_after_s=max(waits),
            quota=level.per,
            shortage=Shortage(measure, level, amounts[measure]),
            model=api_name,
        )
        return Verdict(_levels(meters), trouble)

    def _meters_of(self, provider: Wire, key: str, model: str, api_name: str) -> Meters:
        meters = self._meters.get((key, model))
        if meters is None:
            names = (model, api_name, provider)
            limits = next((self._limits[n] for n in names if n in self._limits), None)
            meters = [] if limits is None else _open(limits, self._clock())
            self._meters[key, model] = meters
        return meters


def _open(limits: VendorLimits, now: float) -> Meters:
    rates: dict[Measure, float | None] = {
        "requests": limits.rpm,
        "tokens": limits.tpm,
        "input_tokens": limits.input_tpm,
        "output_tokens": limits.output_tpm,
    }
    meters: Meters = [
        (measure, Bucket(rate, limits.burst_s, now))
        for measure, rate in rates.items()
        if rate is not None
    ]
    if limits.rpd is not None:
        meters.append(("requests", DayCount(limits.rpd, now)))
    return meters


def _levels(meters: Meters) -> Levels:
    levels: dict[Measure, Level] = {}
    for measure, meter in meters:
        level = meter.level()
        if measure not in levels or level.remaining < levels[measure].remaining:
            levels[measure] = level
    return levels
