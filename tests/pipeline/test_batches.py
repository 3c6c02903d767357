"""Batches that a run has out, as their vendors tell of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from moa.catalog import Model, load_catalog
from moa.config import RouteBatchConfig, load_config
from moa.dispatch.journal import Journal, SentBatch
from moa.errors import ConfigError, RunError
from moa.pipeline.batches import OpenBatch, open_batches_of, table
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchStatus
from moa.providers.provider import Request
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.storage.run_folder import PartName, PieceName, RunFolder
from tests.jobs.conftest import KEYS as NAMES
from tests.jobs.conftest import ROOT, catalog_at

PART = PartName(0, 0, 100)
BATCHED = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-3-haiku"}
KEYS = {name: f"key-in-{name}" for name in NAMES}
"""Longer than a letter: what a vendor says is told without its key."""
SLOW = {"synthetic": True, "batch": {"waits_s": 0, "takes_s": 3600}}


@dataclass
class Night:
    """A run with batches out, without the job."""

    config: RouteBatchConfig
    sent: list[SentBatch] = field(default_factory=list)

    @property
    def run(self) -> RunFolder:
        return RunFolder(f"{self.config.run.folder}/{self.config.run.id}")

    def submit(
        self,
        provider: str,
        queries: int,
        *,
        ago_s: float = 0,
        surely: bool = True,
        end: bool = False,
    ) -> str:
        """Submit a batch as the lane does, and keep it in the journal of a try of its own.

        Args:
            provider: its account.
            queries: it has so many, from row 0 on.
            ago_s: it was submitted so long ago, by the journal.
            surely: it is known to be this batch.
            end: it was fetched already.
        """
        return asyncio.run(self._submit(provider, queries, ago_s, surely, end))

    async def _submit(
        self, provider: str, queries: int, ago_s: float, surely: bool, end: bool
    ) -> str:
        catalog = load_catalog(self.config.catalog)
        model = catalog.models[BATCHED[provider]]
        batches = open_batches(catalog.accounts[provider], environ=KEYS)
        try:
            lines = [batches.line(f"r{row}", request_of(model, row)) for row in range(queries)]
            number = len(self.sent)
            batch_id = await batches.submit(model, lines, reference=f"ref-{number}")
        finally:
            await batches.close()
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        sent = SentBatch(f"ref-{number}", model.id, tuple(range(queries)), Decimal(1), 1.0, 1.0, at)
        journal = Journal(self.run.open_journal(PieceName(PART, provider, in_batches=True)))
        await journal.submitting(sent)
        self.sent.append(replace(sent, ids=(batch_id,), surely=surely))
        await journal.submitted(self.sent[-1])
        if end:
            await journal.fetched(sent.reference)
        await journal.close()
        return batch_id

    def look(self, *cancel: str) -> list[OpenBatch]:
        return open_batches_of(self.config, KEYS, cancel)


def request_of(model: Model, row: int) -> Request:
    chat = ChatRequest.model_validate({"messages": [{"role": "user", "content": f"Number {row}?"}]})
    return Request(f"q{row}", chat, model, "batch")


@pytest.fixture
def night(provider_server: ReplayServer, tmp_path: Path) -> Night:
    provider_server.set_script(SLOW)
    catalog = catalog_at(tmp_path / "catalog.toml", provider_server.base_url)
    text = (ROOT / "jobs/configs/demo.toml").read_text()
    path = tmp_path / "job.toml"
    path.write_text(text[: text.index("[replay]")])
    config = load_config(path, [f"catalog={catalog}", f"run.folder={tmp_path}/runs"])
    found = Night(config)
    found.run.begin({"started_at": datetime.now(UTC).isoformat()}, identity={})
    lanes = {"provider": list(BATCHED), "lane": ["batch"] * len(BATCHED)}
    found.run.write_decisions(PART, pa.table(lanes))
    return found


def test_each_batch_that_is_out_is_told_with_its_model_queries_and_state_oldest_first(
    night: Night,
) -> None:
    young = night.submit("openai", 2, ago_s=60)
    old = night.submit("anthropic", 5, ago_s=7325)
    night.submit("openai", 3, end=True)

    found = night.look()

    assert [one.id for one in found] == [old, young]
    assert [one.provider for one in found] == ["anthropic", "openai"]
    header, *lines = table(found)
    assert header.split() == ["batch", "model", "queries", "answered", "state", "age", "left"]
    assert lines[0].split()[:5] == [old, BATCHED["anthropic"], "5", "0", "running"]
    assert lines[1].split()[:5] == [young, BATCHED["openai"], "2", "0", "running"]
    assert lines[0].split()[5].startswith("2:02:0")
    assert lines[0].split()[6] == "?"


def states(batches: list[OpenBatch]) -> dict[str, str]:
    """Id → where a batch stands; its vendor can be asked."""
    told = {one.id: one.status for one in batches}
    return {name: status.state for name, status in told.items() if status is not None}


def test_a_batch_is_cancelled_by_its_id_alone(night: Night) -> None:
    one, other = night.submit("openai", 2), night.submit("anthropic", 2)

    found = states(night.look(one))

    assert found[one] in ("cancelling", "ended")
    assert found[other] == "running"


def test_all_are_cancelled_at_a_word(night: Night) -> None:
    ids = [night.submit("openai", 2), night.submit("anthropic", 2), night.submit("openai", 4)]

    found = night.look("all")

    assert states(found).keys() == set(ids)
    assert set(states(found).values()) <= {"cancelling", "ended"}


def test_a_strangers_batch_is_refused_and_none_is_cancelled(
    night: Night, provider_server: ReplayServer
) -> None:
    ours = night.submit("openai", 2)

    with pytest.raises(ConfigError, match=f"--cancel batch_x: no batch of this run.*{ours}"):
        night.look(ours, "batch_x")

    assert provider_server.batches_summary()["calls"].get("openai cancel", 0) == 0
    assert states(night.look()) == {ours: "running"}


def test_a_batch_that_may_be_of_another_run_is_shown_and_not_cancelled(night: Night) -> None:
    perhaps = night.submit("anthropic", 2, surely=False)

    found = night.look("all")

    assert states(found) == {perhaps: "running"}
    assert table(found)[1].startswith(f"{perhaps} (perhaps)")


def test_a_batch_that_its_vendor_does_not_know_says_so_beside_the_others(night: Night) -> None:
    known = night.submit("openai", 2)
    gone = replace(night.sent[0], reference="ref-gone", ids=("batch_gone",))

    async def keep() -> None:
        journal = Journal(night.run.open_journal(PieceName(PART, "openai", in_batches=True)))
        await journal.submitting(replace(gone, ids=()))
        await journal.submitted(gone)
        await journal.close()

    asyncio.run(keep())

    found = {one.id: one for one in night.look()}

    assert found[known].status is not None
    assert found["batch_gone"].status is None
    assert "batch_gone" in found["batch_gone"].problem
    assert any(found["batch_gone"].problem in line for line in table(list(found.values())))


def test_a_run_without_batches_has_none_to_list_or_cancel(night: Night) -> None:
    assert night.look() == []
    assert night.look("all") == []
    with pytest.raises(ConfigError, match="it has none"):
        night.look("batch_x")


def test_a_run_that_there_is_not_and_one_whose_vendors_are_gone_are_told(night: Night) -> None:
    other = night.config.model_copy(
        update={"run": night.config.run.model_copy(update={"id": "another"})}
    )
    replayed = load_config(ROOT / "jobs/configs/demo.toml").replay
    assert replayed is not None

    with pytest.raises(ConfigError, match="there is no such run"):
        open_batches_of(other, KEYS)
    with pytest.raises(RunError, match="lives as long as the job does"):
        open_batches_of(night.config.model_copy(update={"replay": replayed}), KEYS)


SENT = SentBatch(
    "ref", "openai/gpt-4o-mini", tuple(range(10)), Decimal(1), 1.0, 1.0, datetime.now(UTC)
)


def batch(status: BatchStatus | None, *, age_s: float = 100, problem: str = "") -> OpenBatch:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return OpenBatch("id", "openai", replace(SENT, submitted_at=at), status, problem)


def test_the_end_is_guessed_by_what_is_done() -> None:
    def left_s(answered: int, failed: int = 0) -> float | None:
        return batch(BatchStatus("id", "running", answered=answered, failed=failed)).left_s

    assert left_s(0) is None
    assert left_s(5) == pytest.approx(100, abs=1)
    assert left_s(2, 2) == pytest.approx(150, abs=1)
    assert left_s(10) == pytest.approx(0, abs=1)
    assert batch(None).left_s is None


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (
            lambda: batch(BatchStatus("id", "running", answered=5)),
            "5  running  0:01:40  about 0:01:40",
        ),
        (lambda: batch(BatchStatus("id", "ended", "expired", answered=1)), "1  expired"),
        (lambda: batch(None, problem="the key was refused"), "?  the key was refused"),
    ],
)
def test_a_line_says_how_a_batch_stands_or_why_nobody_knows(
    one: Callable[[], OpenBatch], said: str
) -> None:
    words = " ".join(table([one()])[1].split())

    assert " ".join(said.split()) in words
