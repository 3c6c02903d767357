"""Plans in which some queries are explored: they are paid for, and the rest is planned around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from moa.pipeline.plan_maker import PlanMaker
from moa.planning.policy import EXPLORED
from tests.pipeline.scored_run import (
    AGAIN,
    BOTH,
    QUERIES,
    ScoredRun,
    planned,
    same_but,
    scored_run,
    standing,
)

SHARE = 0.3


@pytest.fixture
def exploring(tmp_path: Path) -> ScoredRun:
    return scored_run(tmp_path, BOTH, f"explore.share={SHARE}", wishes=True)


def explored(decisions: pa.Table) -> pa.Array:
    return pc.equal(decisions["rule"], EXPLORED)


def test_a_plan_asks_drawn_models_that_can_take_their_queries(exploring: ScoredRun) -> None:
    planned(exploring)

    decisions, queries = exploring.decisions(), exploring.queries()
    found = 0
    for one, wish in zip(decisions.to_pylist(), queries.to_pylist(), strict=True):
        if one["rule"] != EXPLORED:
            assert one["model"] == one["preferred_model"]
            continue
        found += 1
        assert wish["allowed_models"] is None  # of the log's lists each has one model only
        assert wish["allowed_lanes"] is None or one["lane"] in wish["allowed_lanes"]
        grade = one["expected_grade"][exploring.job.pool.index(one["model"])]
        assert wish["min_grade"] is None or grade >= wish["min_grade"]
        if one["model"] != one["preferred_model"]:
            assert one["fallbacks"][0] == one["preferred_model"]
            assert one["propensity"] <= SHARE / 2
        else:
            assert one["propensity"] > 1 - SHARE
    assert 20 < found < 0.45 * QUERIES


def test_what_is_drawn_is_the_same_whatever_else_is_planned(tmp_path: Path) -> None:
    models = []
    for number, lanes in enumerate((BOTH, "plan.lanes=['live']")):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = scored_run(folder, lanes, f"explore.share={SHARE}")
        planned(run)
        rows = run.decisions().to_pylist()
        models.append({row["query_id"]: row["model"] for row in rows if row["rule"] == EXPLORED})

    assert models[0] == models[1]


@pytest.mark.parametrize("surplus", [1.02, 1.3])
def test_the_budget_is_kept_with_what_is_explored(exploring: ScoredRun, surplus: float) -> None:
    usd = surplus * exploring.least_usd(("live", "batch"))

    planned(exploring, standing(usd))

    assert exploring.decided_usd() <= usd * (1 + 1e-6)
    assert pc.sum(explored(exploring.decisions())).as_py() > 20


def test_planned_again_the_same_queries_are_explored_by_the_same_models(
    exploring: ScoredRun,
) -> None:
    planned(exploring)
    before = exploring.decisions()

    maker = PlanMaker(exploring.job)
    plan = maker.make(exploring.parts, AGAIN)
    for part in exploring.parts:
        maker.decide(part, plan)

    after = exploring.decisions()
    assert explored(after).equals(explored(before))
    drawn = explored(before)
    assert same_but(
        after.select(["query_id", "model"]), before.select(["query_id", "model"]), drawn
    )


def test_nothing_is_drawn_without_the_section(tmp_path: Path) -> None:
    run = scored_run(tmp_path, BOTH, wishes=True)
    planned(run)

    decisions = run.decisions()
    assert not pc.any(explored(decisions)).as_py()
    assert np.all(decisions["propensity"].to_numpy() == 1)
