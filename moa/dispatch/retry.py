"""Which error is tried again, and after how long."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)

TAKEN_AT_THEIR_WORD = 3
"""Tries: whoever says "at once" for the fourth time is not believed."""
_REASONS = (
    (ContextExceeded, "context_exceeded"),
    (InvalidRequest, "invalid_request"),
    (AccountRefused, "account_refused"),
    (RateLimited, "rate_limited"),
    (TransientError, "vendor_failed"),
)


def reason_of(error: ProviderError) -> str:
    """Why a query is dead whose last call ended so; see ARCHITECTURE.md."""
    return next(name for kind, name in _REASONS if isinstance(error, kind))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard to try one query on one model before its next best model is asked. Once its time is
    over, each model that is left is asked once.
    """

    max_attempts: int
    give_up_after_s: float
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 60.0

    def wait_s(
        self,
        error: ProviderError,
        *,
        attempt: int,
        elapsed_s: float,
        random: Random,
        refused: int = 0,
    ) -> float | None:
        """Seconds until the next try, or `None`: no further try on this model.

        Full jitter below a doubling ceiling. A vendor's own "later" takes its place, with a little
        jitter on top so that those who were told the same do not come back together; said again
        and again, it is only a floor.

        Args:
            error: what the last try ended with.
            attempt: tries so far on this model, from 1.
            elapsed_s: since the query's first try, on whichever model.
            random: the source of jitter.
            refused: of the tries, those that were told to come later. They do not count as failed:
                nothing was done, and only time limits how often one comes back.
        """
        if not isinstance(error, TransientError) or isinstance(error, QuotaSpent):
            return None
        if attempt - refused >= self.max_attempts:
            return None
        ceiling_s = min(self.longest_backoff_s, self.first_backoff_s * 2 ** min(attempt - 1, 20))
        wait_s = random.uniform(0, ceiling_s)
        if error.retry_after_s is not None:
            told_s = error.retry_after_s * (1 + random.uniform(0, 0.1))
            wait_s = told_s if attempt <= TAKEN_AT_THEIR_WORD else max(told_s, wait_s)
        return wait_s if elapsed_s + wait_s <= self.give_up_after_s else None
