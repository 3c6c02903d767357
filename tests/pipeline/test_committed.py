"""What pieces that are out are expected to cost and use."""

from __future__ import annotations

import pytest

from moa.decisions.planned import SPILL
from moa.pipeline.committed import amounts_of
from moa.storage.run_folder import NOBODY
from tests.pipeline.scored_run import (
    ScoredRun,
    planned,
)


def test_pieces_commit_what_their_decisions_are_expected_to_cost_and_use(both: ScoredRun) -> None:
    planned(both)
    decisions = both.decisions()
    pieces = [piece for part in both.parts for piece, _ in both.run.pieces_of(part)]

    amounts = {piece: amounts_of(piece, both.run, both.job) for piece in pieces}

    # A batch's price there is without the share of it that is reckoned to be bought live.
    batch_usd = sum(float(one.usd) for piece, one in amounts.items() if piece.in_batches)
    live_usd = sum(float(one.usd) for piece, one in amounts.items() if not piece.in_batches)
    whole = both.decided_usd()
    assert live_usd + batch_usd * (1 - SPILL + 2 * SPILL) == pytest.approx(whole, rel=1e-4)
    for name in both.job.pool:
        calls = sum(one.by_model[name].calls for one in amounts.values() if name in one.by_model)
        assert calls == decisions["model"].to_pylist().count(name)
    for piece, one in amounts.items():
        if piece.provider == NOBODY:
            assert not one.usd
            assert not one.by_model
        else:
            assert {name.split("/")[0] for name in one.by_model} == {piece.provider}
            assert one.usd > 0
