"""Plans for a scored backlog, and decisions by them: budget, wishes, shares, what cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Limits
from moa.decisions.planned import SPILL
from moa.errors import RunError
from moa.pipeline import plan_maker
from moa.pipeline.committed import amounts_of
from moa.pipeline.part_block import read_block, together
from moa.pipeline.plan_maker import MadePlan, PlanMaker, Standing
from moa.plan_config import ShareConfig
from moa.planning.capacities import Committed, Learnt
from moa.schema import SCORED_QUERIES
from moa.storage.run_folder import BATCH, NOBODY, PieceName
from tests.pipeline.scored_run import (
    BOTH,
    QUERIES,
    ScoredRun,
    lanes_of,
    same_but,
    scored_run,
)

LARGE = "openai/gpt-4o"
FLASH = "google/gemini-1.5-flash"
NOTHING_SPENT = Standing(usd=None)
AGAIN = Standing(usd=None, under_way=True, again=True)


def planned(scored: ScoredRun, now: Standing = NOTHING_SPENT) -> tuple[PlanMaker, MadePlan]:
    """All parts decided on by one plan."""
    maker = PlanMaker(scored.job)
    plan = maker.make(scored.parts, now)
    for part in scored.parts:
        maker.decide(part, plan)
    return maker, plan


def standing(usd: float, **facts: object) -> Standing:
    return replace(Standing(usd=Decimal(str(usd))), **facts)  # type: ignore[arg-type]


@pytest.fixture
def both(tmp_path: Path) -> ScoredRun:
    """Queries with wishes, live or in batches."""
    return scored_run(tmp_path, BOTH, wishes=True)


@pytest.fixture
def live(tmp_path: Path) -> ScoredRun:
    """Queries without wishes, live."""
    return scored_run(tmp_path, "plan.lanes=['live']")


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


def shares_of(scored: ScoredRun, shares: dict[str, dict[str, float]]) -> ScoredRun:
    """The same run, whose models must be given, or may be given at most, such shares."""
    assert scored.job.config.plan is not None
    given = {name: ShareConfig.model_validate(share) for name, share in shares.items()}
    plan = scored.job.config.plan.model_copy(update={"shares": given})
    config = scored.job.config.model_copy(update={"plan": plan})
    return ScoredRun(replace(scored.job, config=config), scored.run)


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


def due(scored: ScoredRun, at: datetime) -> ScoredRun:
    return ScoredRun(replace(scored.job, deadline=at), scored.run)


def in_s(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


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
