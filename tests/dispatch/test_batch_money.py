"""Whatever goes wrong with batches, what the budget was charged is what there is to show for it."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moa.providers.batch import BatchProvider
from moa.replay.process import ReplayServer
from tests.dispatch.batch_night import (
    Deaths,
    Gone,
    Night,
    costs_usd,
    rows_of,
    with_limits,
)

FATES = st.sampled_from(["ok", "expires", "invalid", "queue_full"])
SHARES = st.sampled_from([0.0, 0.2, 0.5])
EXPECTED_USD = Decimal("0.00001575")
"""Of one query at gpt-4o-mini's price in batches: 10 tokens in, 50 out."""


@dataclass(frozen=True)
class Trouble:
    """What happens to a few batches."""

    kind: str
    rows: int
    a_batch: int
    fates: list[str]
    fails_retryably: float
    fails_fatally: float
    lost_uploads: int
    lost_submissions: int
    may_live: bool
    affords: int
    """So many queries, by what is expected of them."""
    deaths: Deaths | None

    def script(self) -> dict[str, Any]:
        return {
            "fates": self.fates,
            "fails_retryably": self.fails_retryably,
            "fails_fatally": self.fails_fatally,
            "lost_uploads": self.lost_uploads,
            "lost_submissions": self.lost_submissions,
            "expires_after_s": 0.15,
        }


TROUBLES = st.builds(
    Trouble,
    kind=st.sampled_from(["openai", "anthropic"]),
    rows=st.integers(4, 8),
    a_batch=st.integers(3, 8),
    fates=st.lists(FATES, max_size=3),
    fails_retryably=SHARES,
    fails_fatally=SHARES,
    lost_uploads=st.integers(0, 1),
    lost_submissions=st.integers(0, 2),
    may_live=st.booleans(),
    affords=st.sampled_from([3, 1000]),
    deaths=st.none()
    | st.builds(
        Deaths,
        st.sampled_from(["submitting", "submitted", "answered", "failed", "fetched", "sent"]),
        st.booleans(),
        st.integers(0, 2),
    ),
)


async def seen_through(night: Night, trouble: Trouble, wrap: type) -> None:
    lanes = None if trouble.may_live else ["batch"]
    queries = night.rows(trouble.rows, lanes=lanes)
    limit_usd = trouble.affords * EXPECTED_USD
    if trouble.deaths is not None:
        async with night.start(deaths=trouble.deaths, limit_usd=limit_usd, wrap=wrap) as start:
            await start.dies_before(asyncio.ensure_future(start.answer(queries)))
    known_usd = night.history().spent_usd

    async with night.start(limit_usd=limit_usd, wrap=wrap) as start:
        settled = await start.answer(queries)

    history = night.history()
    risked_usd = sum(history.risked_usd.values(), Decimal(0))
    paid_usd = costs_usd(settled)
    assert rows_of(settled) == list(range(trouble.rows))
    assert known_usd + start.money.charged_usd == paid_usd + risked_usd
    assert history.spent_usd == paid_usd + risked_usd
    assert history.batches == {}
    lost = sum(outcome.lost_answers + outcome.unknown_calls for outcome, _ in settled)
    if not lost:
        assert night.bill_usd() == paid_usd
        assert risked_usd == 0
    else:
        assert night.bill_usd() >= paid_usd


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trouble=TROUBLES)
def test_what_was_charged_is_what_was_paid_and_what_was_risked(
    provider_server: ReplayServer, trouble: Trouble
) -> None:
    provider_server.reset()
    with tempfile.TemporaryDirectory() as folder:
        night = Night(provider_server, Path(folder), trouble.kind)
        night.script(**trouble.script())
        asyncio.run(seen_through(night, trouble, with_limits(trouble.a_batch)))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trouble=TROUBLES)
def test_so_it_is_where_results_are_lost(provider_server: ReplayServer, trouble: Trouble) -> None:
    provider_server.reset()
    limits = with_limits(trouble.a_batch)

    def wrap(batches: BatchProvider) -> object:
        return limits(Gone(batches))

    with tempfile.TemporaryDirectory() as folder:
        night = Night(provider_server, Path(folder), "openai")
        night.script(**trouble.script())
        asyncio.run(seen_through(night, trouble, wrap))  # type: ignore[arg-type] # it makes one
