"""What is left of a run, planned again: what is out stays, limits are those of the whole run."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from moa.catalog import Limits
from moa.errors import RunError
from moa.pipeline import plan_maker
from moa.pipeline.committed import amounts_of
from moa.pipeline.plan_maker import PlanMaker
from moa.planning.capacities import Learnt
from moa.storage.run_folder import BATCH
from tests.pipeline.scored_run import (
    AGAIN,
    FLASH,
    LARGE,
    NOTHING_SPENT,
    QUERIES,
    ScoredRun,
    due,
    in_s,
    planned,
    same_but,
    shares_of,
    standing,
)


def test_a_deadline_that_has_passed_is_told_so_until_the_run_is_under_way(live: ScoredRun) -> None:
    late = due(live, in_s(-5))

    with pytest.raises(RunError, match=r"plan\.finish_by has passed"):
        planned(late)
    _, plan = planned(late, AGAIN)

    assert plan.queries.rows == QUERIES
    assert live.decided_usd() == pytest.approx(live.least_usd(("live",)), rel=1e-5)


def test_a_run_that_is_late_goes_on_at_all_accounts_and_not_at_the_one_that_is_short(
    live: ScoredRun,
) -> None:
    slow = live.limited(Limits(rpm=4))  # some queries are gpt-4o's only: it is short first
    late = due(slow, in_s(240))
    with pytest.raises(RunError, match="no plan keeps openai/gpt-4o rpm;"):
        planned(late)

    planned(late, AGAIN)

    models = live.decisions()["model"].to_pylist()
    counts = [models.count(name) for name in live.job.pool]
    minutes = max(counts) / 4
    assert minutes < 240 / 4 / len(counts) * 1.1  # none could be there much earlier
    assert min(counts) > 0


def test_shares_are_of_the_whole_run_though_only_what_is_held_is_planned(live: ScoredRun) -> None:
    planned(live)
    half = len(live.parts) // 2
    kept = pa.concat_tables(live.run.read_decisions(part) for part in live.parts[:half])
    before = kept["model"].to_pylist()
    usual = max(set(before), key=before.count)
    most = round(1.2 * before.count(usual)) / QUERIES
    limited = shares_of(live, {usual: {"max": most}, FLASH: {"min": 0.2}})

    maker = PlanMaker(limited.job)
    again = maker.make(limited.parts[half:], AGAIN)
    for part in limited.parts[half:]:
        maker.decide(part, again)

    models = limited.decisions()["model"].to_pylist()
    assert before.count(FLASH) < models.count(FLASH)
    assert models.count(usual) <= most * QUERIES
    assert models.count(FLASH) >= 0.2 * QUERIES
    told = {one["name"]: one["limit"] for one in again.document["capacities"]}
    assert told[f"{usual} max share"] == pytest.approx(most * QUERIES - before.count(usual))
    assert told[f"{FLASH} min share"] == pytest.approx(0.2 * QUERIES - before.count(FLASH))
    # Another start counts what it finds, this one what it has decided.
    last = limited.run.read_decisions(limited.parts[-1])["model"].to_pylist().count(usual)
    for one in (maker, PlanMaker(limited.job)):
        told = {
            c["name"]: c["limit"]
            for c in one.make(limited.parts[-1:], AGAIN).document["capacities"]
        }
        left = most * QUERIES - models.count(usual) + last
        assert told[f"{usual} max share"] == pytest.approx(left)


def test_a_part_that_is_decided_on_again_keeps_what_is_out_and_what_has_no_choice(
    both: ScoredRun,
) -> None:
    maker, _ = planned(both)
    before = both.decisions()
    fixed = pc.fill_null(
        pc.or_kleene(pc.is_null(before["model"]), pc.equal(before["lane"], BATCH)), True
    )

    live = before.filter(pc.invert(fixed))["model"].to_pylist()
    learnt = {max(set(live), key=live.count): Learnt(output_tokens=50.0)}

    again = maker.make(both.parts, replace(AGAIN, learnt=learnt))
    pieces = [one for part in both.parts for one in maker.decide(part, again)]

    after = both.decisions()
    assert again.document["queries"] == QUERIES - pc.sum(fixed).as_py()
    assert same_but(before, after, fixed)
    moved = pc.invert(pc.equal(before["model"], after["model"]))
    assert pc.sum(pc.fill_null(moved, False)).as_py() > 0
    assert set(after.filter(pc.invert(fixed))["lane"].to_pylist()) == {"live"}
    told = {one.piece: one.rows for one in pieces}
    kept = {piece: rows for part in both.parts for piece, rows in both.run.pieces_of(part)}
    assert told == kept
    assert any(piece.in_batches for piece in told)


def test_an_equal_plan_decides_equally_by_whomever_it_is_made(live: ScoredRun) -> None:
    budget = standing(live.least_usd(("live",)) * 3)
    planned(live, budget)
    before = live.decisions()

    planned(live, budget)  # what is live is free again

    assert live.decisions().equals(before)
    first, second = live.run.plans()
    assert {**first, "created_at": ""} == {**second, "created_at": ""}


def test_a_plan_for_what_is_held_takes_prices_as_they_were_learnt(live: ScoredRun) -> None:
    maker, _ = planned(live)
    before = live.decisions()["model"].to_pylist()
    dear = max(set(before), key=before.count)

    learnt = {dear: Learnt(output_tokens=50.0)}
    again = maker.make(live.parts, replace(AGAIN, learnt=learnt))
    for part in live.parts:
        maker.decide(part, again)

    after = live.decisions()["model"].to_pylist()
    assert after.count(dear) < before.count(dear) / 2
    assert again.document["learnt"][dear]["output_tokens"] == 50


def test_in_the_middle_of_a_run_the_cheapest_is_bought_when_nothing_keeps_the_limits(
    live: ScoredRun,
) -> None:
    maker, _ = planned(live)

    again = maker.make(live.parts, replace(AGAIN, usd=Decimal("0.001")))
    for part in live.parts:
        maker.decide(part, again)

    assert live.decided_usd() == pytest.approx(live.least_usd(("live",)), rel=1e-5)
    assert again.document["again"]


@pytest.fixture
def uneven(both: ScoredRun, monkeypatch: pytest.MonkeyPatch) -> ScoredRun:
    """Of every second part much is in batches, of the others nothing; plans look at the former."""
    # Half a million queries are no test: the sample is made smaller instead.
    monkeypatch.setattr(plan_maker, "MOST_ROWS_AGAIN", QUERIES // 2)
    assert both.job.config.plan is not None
    at_once = both.job.config.plan.model_copy(update={"lanes": ["live"]})
    config = both.job.config.model_copy(update={"plan": at_once})
    for job, parts in (
        (both.job, both.parts[::2]), (replace(both.job, config=config), both.parts[1::2]),
    ):  # fmt: skip
        maker = PlanMaker(job)
        plan = maker.make(parts, NOTHING_SPENT)
        for part in parts:
            maker.decide(part, plan)
    return both


def test_a_sample_that_tells_of_too_few_queries_is_borne(uneven: ScoredRun) -> None:
    live_usd = sum(
        float(amounts_of(piece, uneven.run, uneven.job).usd)
        for part in uneven.parts
        for piece, _ in uneven.run.pieces_of(part)
        if not piece.in_batches
    )
    out_usd = uneven.decided_usd() - live_usd
    maker = PlanMaker(uneven.job)

    again = maker.make(uneven.parts, replace(AGAIN, usd=Decimal(str(0.9 * live_usd))))
    announced = again.rows
    for part in uneven.parts:
        maker.decide(part, again)

    assert again.queries.rows > announced
    assert uneven.decisions().num_rows == QUERIES
    assert uneven.decided_usd() - out_usd <= 0.9 * live_usd


def test_queries_of_parts_that_were_looked_at_are_counted(uneven: ScoredRun) -> None:
    maker = PlanMaker(uneven.job)
    first = maker.make(uneven.parts, AGAIN)
    for part in uneven.parts:
        maker.decide(part, first)

    again = maker.make(uneven.parts, AGAIN)

    lanes = uneven.decisions()["lane"].to_pylist()
    assert again.document["queries"] == lanes.count("live")
    assert again.document["sampled"] < lanes.count("live") / 2


def test_what_the_router_has_worked_stays_told_when_a_part_is_decided_again(
    live: ScoredRun,
) -> None:
    maker = PlanMaker(live.job)
    plan = maker.make(live.parts, NOTHING_SPENT)
    for number, part in enumerate(live.parts):
        maker.decide(part, plan, router_s=float(number))

    planned(live, replace(AGAIN, learnt={LARGE: Learnt(output_tokens=9.0)}))

    told = [pc.sum(live.run.read_decisions(part)["router_s"]).as_py() for part in live.parts]
    assert told == pytest.approx(list(range(len(told))))
