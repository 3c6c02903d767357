from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import ray

from moa.pipeline.load import Load
from moa.pipeline.replicas import DispatchReplica
from moa.replay.process import ReplayServer
from moa.storage.run_folder import NOBODY
from tests.jobs.conftest import KEYS, catalog_at
from tests.pipeline.scored_run import QUERIES, planned, scored_run


@pytest.fixture
def owners() -> Iterator[None]:
    """A Ray for the owners of the accounts' limits; the replica is no actor here."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level=logging.WARNING,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.usefixtures("owners")
async def test_what_has_ended_is_told_of_until_its_result_has_come(
    tmp_path: Path, provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    catalog = catalog_at(tmp_path / "catalog.toml", provider_server.base_url)
    scored = scored_run(tmp_path, "plan.lanes=['live']", f"catalog='{catalog}'")
    planned(scored)
    found = [one for part in scored.run.decided_parts() for one in scored.run.pieces_of(part)]
    pieces = {str(piece): rows for piece, rows in found if piece.provider != NOBODY}
    first, *others = pieces
    replica, load = DispatchReplica(scored.job, None), Load()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(replica.dispatch(*one)) for one in pieces.items()]
    results = [task.result() for task in tasks]
    untaken = await replica.progress(draining=False, taken=[])
    later = await replica.progress(draining=False, taken=others)
    await replica.close()

    load.learn(untaken)
    standing = load.standing(pieces.keys())
    assert untaken is not None
    assert standing is not None
    assert later is not None
    assert (untaken.done, untaken.spent_usd) == (0, Decimal(0))
    assert standing.done == sum(pieces.values()) == QUERIES
    assert standing.spent_usd == sum(result.cost_usd for result in results) > 0
    assert list(later.handed_over) == [first]
    for name, result in zip(pieces, results, strict=True):
        assert result.rest is not None
        assert name not in result.rest.handed_over
