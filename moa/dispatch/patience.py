"""How long an answer takes, learnt from those that came, and which calls have hung."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from moa.dispatch.outcome import Choice

FORGET = 0.998
FITTED_AFTER = 20
"""Answers, before the line means anything."""
LEARNT_AFTER = 100
"""Answers, before anything is called late."""
LATE = 2.0
"""Times what 99 in 100 answers of that length take. Where latencies are spread as they usually are
(lognormal), one in ten thousand is cut by mistake, and asked again with twice the time.
"""
LOOK_EVERY = 50
"""Answers."""
LEAST_S = 2.0
LONGER = 4.0
"""So many times longer than expected any answer may be, and as much longer as recent ones were."""
RECENT = 512
LOOK_EVERY_S = 0.25


class Latencies:
    """Seconds to an answer: a line in its output tokens, and how far answers lie from it."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._start_s, self._token_s = 0.0, 0.0
        self._ratios: deque[float] = deque(maxlen=RECENT)
        self._slowest = 1.0
        """Of the ratios, without the slowest hundredth."""
        self._longer: deque[float] = deque(maxlen=RECENT)
        self._longest = 1.0
        """Times the expected length, of recent answers."""
        self._answers = 0

    def learn(self, output_tokens: float, seconds: float, *, expected_tokens: float) -> float:
        """An answer came; how much longer it took than its length lets expect, as a ratio."""
        self._longer.append(output_tokens / max(1.0, expected_tokens))
        ratio = seconds / self.expected_s(output_tokens) if self._answers else 1.0
        self._answers += 1
        self._n = FORGET * self._n + 1
        self._x = FORGET * self._x + output_tokens
        self._y = FORGET * self._y + seconds
        self._xx = FORGET * self._xx + output_tokens * output_tokens
        self._xy = FORGET * self._xy + output_tokens * seconds
        self._fit()
        if self._answers > FITTED_AFTER:
            self._ratios.append(ratio)
            if self._answers % LOOK_EVERY == 0:
                self._slowest = sorted(self._ratios)[int(0.99 * len(self._ratios))]
                self._longest = max(self._longer)
        return ratio

    def expected_s(self, output_tokens: float) -> float:
        """Of an answer of that length."""
        return max(1e-3, self._start_s + self._token_s * output_tokens)

    def late_s(self, choice: Choice) -> float | None:
        """When the answer to a call must have come, or it hangs; `None` until that is known."""
        if self._answers < LEARNT_AFTER:
            return None
        longer = max(LONGER, self._longest)
        longest = min(longer * choice.output_tokens, choice.model.max_output_tokens)
        return max(LEAST_S, LATE * self._slowest * self.expected_s(longest))

    def _fit(self) -> None:
        """Least squares; an answer never takes less for being longer."""
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        slope = (self._xy / self._n - mean_x * mean_y) / spread if spread > 1e-9 else 0.0
        self._token_s = min(max(0.0, slope), mean_y / mean_x if mean_x else 0.0)
        self._start_s = mean_y - self._token_s * mean_x


class Watch:
    """Cuts the calls of one line that have hung. It learns while they are out, so that the first
    ones of a run are cut as well.
    """

    def __init__(self, latencies: Latencies, clock: Callable[[], float]) -> None:
        self._latencies = latencies
        self._clock = clock
        self._out: dict[asyncio.Timeout, tuple[float, Choice, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, choice: Choice, timeouts: int) -> asyncio.Timeout:
        """A call goes out; enter what is returned around it, and `end` it.

        Args:
            choice: what is called.
            timeouts: calls for the same query that were cut: each doubles the next one's time.
        """
        cut = asyncio.timeout(None)
        self._out[cut] = self._clock(), choice, 2.0**timeouts
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        return cut

    def end(self, cut: asyncio.Timeout) -> None:
        """The call has ended."""
        del self._out[cut]

    def _look(self) -> None:
        self._timer = None
        if not self._out:
            return
        now, loop = self._clock(), asyncio.get_running_loop()
        for cut, (sent_at, choice, longer) in self._out.items():
            late_s = self._latencies.late_s(choice)
            if late_s is not None and now - sent_at > late_s * longer and cut.when() is None:
                cut.reschedule(loop.time())
        self._timer = loop.call_later(LOOK_EVERY_S, self._look)
