"""Which error is tried again, and after how long."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from moa.errors import ProviderError, QuotaSpent, TransientError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard to try one query on one model before its next best model is asked."""

    max_attempts: int
    give_up_after_s: float
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 60.0

    def wait_s(
        self, error: ProviderError, *, attempt: int, elapsed_s: float, random: Random
    ) -> float | None:
        """Seconds until the next try, or `None`: no further try on this model.

        Full jitter below a doubling ceiling; a vendor's own "later" is a floor, with a little
        jitter on top so that those who were told the same do not come back together.

        Args:
            error: what the last try ended with.
            attempt: tries so far on this model, from 1.
            elapsed_s: since the first of them.
            random: the source of jitter.
        """
        if not isinstance(error, TransientError) or isinstance(error, QuotaSpent):
            return None
        if attempt >= self.max_attempts:
            return None
        ceiling_s = min(self.longest_backoff_s, self.first_backoff_s * 2 ** (attempt - 1))
        wait_s = random.uniform(0, ceiling_s)
        if error.retry_after_s is not None:
            wait_s = error.retry_after_s * (1 + random.uniform(0, 0.1))
        return wait_s if elapsed_s + wait_s <= self.give_up_after_s else None
