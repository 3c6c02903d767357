"""A scored part as the planner sees it."""

from __future__ import annotations

import numpy as np

from moa.pipeline.part_block import read_block, together
from moa.planning.capacities import Learnt
from moa.schema import SCORED_QUERIES
from tests.pipeline.scored_run import (
    LARGE,
    ScoredRun,
    planned,
)


def test_a_part_that_is_not_decided_is_free_but_for_its_defects(both: ScoredRun) -> None:
    for part in both.parts:
        block = both.block(part, ("live", "batch"))
        defects = both.run.read_queries(part)["defect"].is_valid().to_pylist()
        assert block.before is None
        assert block.free.tolist() == list(range(block.expected.queries.num_rows))
        assert block.expected.good.tolist() == [n for n, bad in enumerate(defects) if not bad]
        assert block.backlog.rows == len(block.most_output_tokens) == defects.count(False)


def test_of_a_decided_part_only_what_may_still_be_moved_is_free(both: ScoredRun) -> None:
    _, plan = planned(both)
    learnt = {LARGE: Learnt(input_tokens=2.0)}

    for part in both.parts:
        block = read_block(
            part, both.run, both.job.deciding, plan.lanes, learnt, decided=True, whole=True
        )
        whole = both.block(part, plan.lanes, learnt)
        decisions = both.run.read_decisions(part)
        lanes = decisions["lane"].to_pylist()
        free = block.expected.good[block.free].tolist()
        assert free == [row for row, lane in enumerate(lanes) if lane == "live"]
        assert block.before is not None
        assert block.before.equals(decisions)
        assert np.isinf(block.backlog.cost_usd[:, :, plan.lanes.index("batch")]).all()
        live = plan.lanes.index("live")
        assert np.array_equal(
            block.backlog.cost_usd[:, :, live], whole.backlog.cost_usd[block.free][:, :, live]
        )
        assert np.array_equal(block.most_output_tokens, whole.most_output_tokens[block.free])
        assert block.queries.schema.names == SCORED_QUERIES.names


def test_backlogs_are_put_together_in_their_order(both: ScoredRun) -> None:
    blocks = [both.block(part, ("live",)).backlog for part in both.parts]

    whole = together(blocks)

    start = 0
    for one in blocks:
        again = whole.take(slice(start, start + one.rows))
        for name in ("grade", "cost_usd", "input_tokens", "output_tokens"):
            assert np.array_equal(getattr(again, name), getattr(one, name))
        start += one.rows
    assert whole.rows == start
