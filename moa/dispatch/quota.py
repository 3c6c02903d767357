"""How fast one account may call one model: requests and tokens together, in arrival order.

A quota has one owner. Here the owner is the dispatch replica, which holds an equal share of the
account's limits (`share`); nothing else may call the account meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from aiolimiter import AsyncLimiter

from moa.catalog import Limits

BURST_S = 0.1
"""A limiter starts full; a tenth of a second's quota is what it may let through at once."""

Clock = Callable[[], float]


def share(limits: Limits, replicas: int) -> Limits:
    """One of `replicas` equal shares of an account's limits; at least one call is under way."""

    def part(limit: float | None) -> float | None:
        return None if limit is None else limit / replicas

    return Limits(
        rpm=part(limits.rpm),
        input_tpm=part(limits.input_tpm),
        output_tpm=part(limits.output_tpm),
        tpm=part(limits.tpm),
        max_in_flight=None
        if limits.max_in_flight is None
        else max(1, limits.max_in_flight // replicas),
    )


class Pace:
    """So many units a minute, without a burst at the start, for amounts of any size."""

    def __init__(self, per_minute: float) -> None:
        self._slice = max(1.0, per_minute / 60 * BURST_S)
        self._limiter = AsyncLimiter(self._slice, self._slice * 60 / per_minute)

    async def take(self, amount: float) -> None:
        """Wait until `amount` units have flowed.

        aiolimiter raises where an amount exceeds its bucket, so a large amount goes in slices.
        There is one taker at a time (the model's line), so none is overtaken.
        """
        while amount > 0:
            await self._limiter.acquire(min(amount, self._slice))
            amount -= self._slice


class Quota:
    """What one line may use: takes requests and tokens, and stands still when the vendor says."""

    def __init__(self, limits: Limits, *, clock: Clock) -> None:
        self._paces = {
            name: Pace(limit)
            for name in ("rpm", "input_tpm", "output_tpm", "tpm")
            if (limit := getattr(limits, name)) is not None
        }
        self._clock = clock
        self._resume_at = 0.0

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long from now; never shortens an earlier pause."""
        self._resume_at = max(self._resume_at, self._clock() + seconds)

    def pause_s(self) -> float:
        """Seconds until anything may go through; 0 when nobody asked for a pause."""
        return max(0.0, self._resume_at - self._clock())

    async def take(self, input_tokens: float, output_tokens: float) -> None:
        """Wait until one request of this size may be sent, as far as rates go."""
        amounts = {
            "rpm": 1.0,
            "input_tpm": input_tokens,
            "output_tpm": output_tokens,
            "tpm": input_tokens + output_tokens,
        }
        for name, pace in self._paces.items():
            await pace.take(amounts[name])
