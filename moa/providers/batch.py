"""What the rest of the project knows of a vendor's batches: many requests, half the price, later.

A batch is of one model. It is cut, submitted, looked at, fetched and cancelled; none of these calls
retries. Its requests are known by a `custom_id`, and come back in any order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from moa.catalog import Model
from moa.errors import ProviderError
from moa.providers.provider import Completion, Request

BatchState = Literal["waiting", "running", "cancelling", "ended"]
BatchEnd = Literal["completed", "failed", "expired", "cancelled"]


class BatchLimits(NamedTuple):
    """What a vendor takes in one batch."""

    requests: int
    bytes: int
    """Of all its lines, line breaks counted."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """Where a batch stands, as its vendor says."""

    id: str
    state: BatchState
    end: BatchEnd | None = None
    """How it ended; `None` before. An expired or cancelled one may have results, too."""
    requests: int = 0
    """0 where the vendor does not say."""
    answered: int = 0
    failed: int = 0
    created_at: datetime | None = None
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    results: str | None = None
    """Where its results are, in the vendor's own words; `None` while, or where, there are none."""
    error: ProviderError | None = None
    """Why all of it failed, of the class that says what to do: `QuotaSpent` where the queue was
    full, `InvalidRequest` where the file was none."""


class BatchResult(NamedTuple):
    """What became of one request of a batch."""

    custom_id: str
    answer: Completion | ProviderError
    """An error of the class that says what to do: `TransientError` of one that expired, was
    cancelled or failed on the vendor's side, `InvalidRequest` of one that would fail again."""


class BatchProvider(Protocol):
    """Batches of one account at one vendor. Open once per event loop, close in `finally`."""

    name: str
    limits: BatchLimits
    keeps_references: bool
    """Whether the vendor keeps our name of a batch, so that what `find` finds is surely it."""

    def line(self, custom_id: str, request: Request) -> bytes:
        """A request as it stands in a batch, with its line break; its lane counts for nothing.

        Args:
            custom_id: 1 to 64 letters, digits, `-` and `_`, which all vendors take.
            request: of the batch's model.

        Raises:
            InvalidRequest: it holds what the vendor cannot do.
            ValueError: `custom_id` is another.
        """
        ...

    async def submit(self, model: Model, lines: Sequence[bytes], *, reference: str) -> str:
        """Upload and begin a batch; its id.

        Args:
            model: of all its requests.
            lines: of `line`, within `limits`.
            reference: a name of ours, by which `find` finds it again; letters, digits, `-`, `_`.

        Raises:
            ProviderError: `maybe_billed` when it may have begun all the same.
        """
        ...

    async def find(self, reference: str, *, since: datetime, requests: int) -> list[BatchStatus]:
        """Batches that may be the one that was submitted under `reference`.

        One at most where the vendor keeps our name; elsewhere all that were made since then with
        as many requests, and only their results tell.

        Args:
            reference: as given to `submit`.
            since: when it was submitted; clocks may differ by a minute.
            requests: how many it had.
        """
        ...

    async def look(self, batch_id: str) -> BatchStatus:
        """Where a batch stands.

        Raises:
            InvalidRequest: the vendor has no such batch (any more).
            ProviderError: the vendor cannot be asked now.
        """
        ...

    def results(self, status: BatchStatus) -> AsyncIterator[BatchResult]:
        """What has come of an ended batch, in any order. Requests that are missing from it were
        not answered and are not billed.

        Raises:
            ProviderError: it could not be read to its end.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; what it has answered by then is kept, and billed. One that
        has ended is left as it is.
        """
        ...

    async def forget(self, status: BatchStatus) -> None:
        """Delete what a fetched batch has left with the vendor, where the vendor keeps files."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
