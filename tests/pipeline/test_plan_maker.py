"""Plans for a scored backlog, and decisions by them: budget, wishes, shares, what cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Limits
from moa.errors import RunError
from moa.pipeline import plan_maker
from moa.pipeline.plan_maker import PlanMaker, Standing
from moa.planning.capacities import Committed
from moa.storage.run_folder import NOBODY, PieceName
from tests.pipeline.scored_run import (
    BOTH,
    FLASH,
    LARGE,
    NOTHING_SPENT,
    QUERIES,
    ScoredRun,
    due,
    in_s,
    lanes_of,
    planned,
    scored_run,
    shares_of,
    standing,
)


def test_every_row_is_decided_on_and_each_query_as_it_wishes(both: ScoredRun) -> None:
    planned(both)

    decisions, queries = both.decisions(), both.queries()
    assert decisions["query_id"].to_pylist() == queries["query_id"].to_pylist()
    grades = np.array([row or [0.0] * 6 for row in decisions["expected_grade"].to_pylist()])
    for row, (one, wish) in enumerate(zip(decisions.to_pylist(), queries.to_pylist(), strict=True)):
        if one["model"] is None:
            assert one["lane"] is None
            continue
        assert wish["defect"] is None
        assert wish["allowed_lanes"] is None or one["lane"] in wish["allowed_lanes"]
        for name in (one["model"], *one["fallbacks"]):
            assert wish["allowed_models"] is None or name in wish["allowed_models"]
            grade = grades[row, both.job.pool.index(name)]
            assert wish["min_grade"] is None or grade >= wish["min_grade"]
    counts = lanes_of(decisions)
    assert counts["batch"] > counts["live"] > 0  # half the price, but for those that forbid it


def test_rows_that_go_to_nobody_are_buried_once(both: ScoredRun) -> None:
    planned(both)

    decisions = both.decisions()
    nobody = decisions.filter(pc.is_null(decisions["model"]))
    buried = {
        row["query_id"]: row["reason"]
        for table in both.run.tables("dead_letters")()
        for row in table.to_pylist()
    }
    assert set(buried) == set(nobody["query_id"].to_pylist())
    assert set(buried.values()) == {"prompt_missing", "nobody_can"}
    assert both.run.finished_pieces() == [
        PieceName(part, NOBODY) for part in both.parts
    ]  # fmt: skip


@settings(max_examples=6)
@given(st.floats(0.001, 1.5), st.booleans(), st.booleans())
def test_by_its_own_expectations_a_plan_keeps_the_budget(
    above: float, wishes: bool, again: bool
) -> None:
    with TemporaryDirectory() as folder:
        scored = scored_run(Path(folder), BOTH, wishes=wishes)
        budget_usd = scored.least_usd(("live", "batch")) * (1 + above)

        _, plan = planned(scored, standing(budget_usd, again=again))

        assert scored.decided_usd() <= budget_usd * (1 + 1e-6)
        assert plan.queries.over == 0
        assert plan.queries.cost_usd == pytest.approx(scored.decided_usd(), rel=1e-6)
        assert plan.document["gap"] < 0.05


def test_more_money_never_buys_lower_grades(live: ScoredRun) -> None:
    least_usd = live.least_usd(("live",))
    maker = PlanMaker(live.job)

    worths = [
        maker.make(live.parts, standing(least_usd * factor)).document["worth"]
        for factor in (1.01, 1.5, 3, 10)
    ]

    assert worths == sorted(worths)
    assert worths[0] < worths[-1]


def test_shares_are_kept(tmp_path: Path) -> None:
    shares = f'plan.shares={{ "{FLASH}" = {{ min = 0.2 }}, "{LARGE}" = {{ max = 0.3 }} }}'
    (tmp_path / "plain").mkdir()
    plain = scored_run(tmp_path / "plain", BOTH)
    planned(plain)
    scored = scored_run(tmp_path, BOTH, shares)

    planned(scored)

    before, models = (one.decisions()["model"].to_pylist() for one in (plain, scored))
    assert before.count(FLASH) < 0.2 * QUERIES
    assert before.count(LARGE) > 0.3 * QUERIES
    assert models.count(FLASH) >= 0.2 * QUERIES
    assert models.count(LARGE) <= 0.3 * QUERIES


@pytest.mark.parametrize("wishes", [True, False])
def test_a_budget_that_is_too_small_is_refused_with_one_that_is_enough(
    tmp_path: Path, wishes: bool
) -> None:
    scored = scored_run(tmp_path, BOTH, wishes=wishes)
    least_usd = scored.least_usd(("live", "batch"))
    budget_usd = Decimal(str(round(least_usd / 3, 6)))

    with pytest.raises(RunError) as caught:
        planned(scored, Standing(usd=budget_usd))

    said = str(caught.value)
    assert said.startswith("no plan keeps budget; ")
    needed, left, more = (Decimal(one) for one in re.findall(r"\$([\d.]+\d)", said))
    assert float(needed) == pytest.approx(least_usd, abs=1.01e-4)
    assert left == pytest.approx(budget_usd, abs=Decimal("0.0001"))
    with pytest.raises(RunError, match="no plan keeps budget"):
        planned(scored, Standing(usd=needed - Decimal("0.0002")))
    for enough in (needed, budget_usd + more):
        assert PlanMaker(scored.job).make(scored.parts, Standing(usd=enough))
    _, plan = planned(scored, Standing(usd=needed))
    assert plan.queries.over == 0
    assert scored.decided_usd() <= float(needed)


def test_nothing_is_kept_of_a_plan_that_cannot_be(live: ScoredRun) -> None:
    with pytest.raises(RunError, match="no plan keeps budget"):
        planned(live, standing(0))

    assert live.run.plans() == []
    assert live.run.decided_parts() == []


def test_a_deadline_that_cannot_be_met_is_refused_with_the_earliest_end(tmp_path: Path) -> None:
    live = scored_run(tmp_path, "plan.lanes=['live']", "policy.max_novelty=1")
    slow = live.limited(Limits(rpm=4))  # 24 a minute of six models: 240 take ten and a half
    began = datetime.now(UTC)

    with pytest.raises(RunError, match="at the earliest") as caught:
        planned(due(slow, in_s(60)))

    said = str(caught.value)
    (told,) = re.findall(r"answered by (\S+ \S+) UTC", said)
    earliest = datetime.fromisoformat(f"{told}Z")
    assert all(f"{name} rpm" in said for name in live.job.pool)
    assert (earliest - began).total_seconds() == pytest.approx(600 / 0.95, abs=10)
    with pytest.raises(RunError, match="at the earliest"):
        planned(due(slow, earliest - timedelta(seconds=20)))
    _, plan = planned(
        due(slow, earliest + timedelta(seconds=10)), replace(NOTHING_SPENT, again=True)
    )
    assert plan.queries.over == 0


def test_no_lane_that_ends_in_time_is_told_with_how_long_they_take(tmp_path: Path) -> None:
    scored = due(scored_run(tmp_path, "plan.lanes=['batch']"), in_s(3600))

    with pytest.raises(RunError, match=r"within 24 h .*add 'live', or finish later"):
        planned(scored)


def test_shares_that_cannot_be_are_told_without_talk_of_money(both: ScoredRun) -> None:
    few = shares_of(both, {name: {"max": 0.1} for name in both.job.pool})

    with pytest.raises(RunError, match=r"max share.*loosen plan\.shares") as caught:
        planned(few)

    assert "$" not in str(caught.value)


def test_what_is_out_leaves_less_of_the_time(live: ScoredRun) -> None:
    slow = due(live.limited(Limits(rpm=10)), in_s(600))  # 95 of each model
    out = {name: Committed(calls=50) for name in live.job.pool}
    too_many = {name: Committed(calls=90) for name in live.job.pool}
    quick = replace(NOTHING_SPENT, again=True)  # without a frontier

    with pytest.raises(RunError, match="at the earliest"):
        planned(slow, replace(quick, committed=too_many))
    planned(slow, replace(quick, committed=out))

    models = live.decisions()["model"].to_pylist()
    assert max(models.count(name) for name in live.job.pool) <= 45


@pytest.mark.parametrize("most_rows", [60, 120, 239])
def test_a_plan_from_a_sample_of_parts_keeps_the_budget(
    tmp_path: Path, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five million queries are no test: the sample is made smaller instead.
    monkeypatch.setattr(plan_maker, "MOST_ROWS", most_rows)
    scored = scored_run(tmp_path, BOTH, wishes=True)
    budget_usd = scored.least_usd(("live", "batch")) * 2.5

    _, plan = planned(scored, standing(budget_usd))

    assert plan.document["sampled"] <= most_rows
    assert scored.decided_usd() <= budget_usd * (1 + 1e-6)
    assert scored.decided_usd() > 0.6 * budget_usd
    assert scored.decisions().num_rows == QUERIES
