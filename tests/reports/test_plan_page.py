from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.plan_config import PlanConfig, ShareConfig
from moa.planning.capacities import Learnt
from moa.planning.capacity import Objective
from moa.planning.forecast import Forecast
from moa.reports.plan_page import plan_page, plan_text
from moa.reports.plan_words import what_more_buys
from tests.browser import looked_at, shades
from tests.planning.test_forecast import backlog
from tests.reports.plans import BY_GRADE, document, live_only


@settings(max_examples=8)
@given(st.integers(0, 60), st.integers(0, 99), st.one_of(st.none(), st.floats(0.2, 1)))
def test_what_a_document_says_adds_up(rows: int, seed: int, share: float | None) -> None:
    queries = backlog(rows, seed=seed)
    dearest = float(np.where(np.isfinite(queries.cost_usd), queries.cost_usd, 0).max((1, 2)).sum())
    cheapest = float(queries.cost_usd.min((1, 2)).sum())
    usd = None if share is None else cheapest + share * (dearest - cheapest) + 1e-9

    plan = document(queries=queries, usd=usd, again=True)

    told = Forecast.from_document(plan["forecast"])
    assert told.queries == plan["queries"] == rows
    assert told.cost_usd.expected == pytest.approx(sum(row.cost_usd for row in told.rows))
    assert plan["worth"] <= plan["bound"] + 1e-9
    assert plan["gap"] >= 0
    for one in plan["capacities"]:
        assert one["used"] <= one["limit"] * (1 + 1e-9)
        assert one["name"] != "budget" or one["used"] == pytest.approx(told.cost_usd.expected)
    assert orjson.loads(orjson.dumps(plan)) == plan
    assert plan_text(plan)
    assert plan_page(plan)


def test_a_plan_from_a_sample_is_told_for_all_queries() -> None:
    queries = backlog(2_000)
    whole = document(queries=queries, usd=2.0)
    half = document(queries=queries.take(slice(0, 1_000)), share=0.5, usd=2.0)

    assert half["queries"] == 2_000
    assert half["sampled"] == 1_000
    for name in ("cost_usd", "grade"):
        ours, theirs = half["forecast"][name], whole["forecast"][name]
        assert ours["expected"] == pytest.approx(theirs["expected"], rel=0.03)
        assert ours["high"] - ours["low"] == pytest.approx(theirs["high"] - theirs["low"], rel=0.1)
    assert half["worth"] == pytest.approx(whole["worth"], rel=0.05)
    assert half["capacities"][0]["used"] == pytest.approx(2.0, rel=0.01)
    assert half["frontier"][-1]["usd"] == pytest.approx(whole["frontier"][-1]["usd"], rel=0.05)


@pytest.mark.parametrize("objective", [Objective(0.05), BY_GRADE])
def test_what_a_dollar_would_buy_is_what_it_buys(objective: Objective) -> None:
    queries = live_only(backlog(3_000))
    plans = [document(queries=queries, objective=objective, usd=usd) for usd in (3.0, 3.5)]
    grades = [one["forecast"]["grade"]["expected"] * 3_000 for one in plans]

    sentence = what_more_buys(plans[0])[0]

    said = float(sentence.split("would buy ")[1].split(" more")[0])
    assert sentence.startswith("One more dollar of budget")
    assert said == pytest.approx((grades[1] - grades[0]) / 0.5, rel=0.15)


def test_what_more_requests_and_more_time_would_be_worth_is_what_they_are_worth() -> None:
    queries = live_only(backlog(1_000))

    def made(rpm: float, seconds: float = 3 * 3600.0) -> dict[str, Any]:
        return document(
            queries=queries, objective=Objective(0.5), seconds=seconds, limits={"rpm": rpm}
        )

    plan, faster, longer = made(2), made(2.1), made(2, 3.1 * 3600.0)

    requests, more_time = what_more_buys(plan)

    gained = 10 * (faster["worth"] - plan["worth"])
    assert requests.startswith("1 more requests a minute of v/dear would be worth $")
    assert float(requests.rstrip(".").split("$")[1]) == pytest.approx(gained, rel=0.2)
    assert more_time.startswith("One more hour until the deadline would be worth $")
    assert float(more_time.rstrip(".").split("$")[1]) == pytest.approx(
        10 * (longer["worth"] - plan["worth"]), rel=0.2
    )


def test_each_limit_is_named_in_its_own_unit() -> None:
    shares = {"v/cheap": ShareConfig(max=0.3), "v/dear": ShareConfig(min=0.1)}
    by_share = document(config=PlanConfig(lanes=["live"], shares=shares), usd=1.0)
    target = document(objective=Objective(0.0, target_grade=0.6))
    daily = document(
        queries=live_only(backlog(300)), objective=BY_GRADE, seconds=86_400.0, limits={"rpd": 100}
    )
    queued = document(objective=Objective(0.05), seconds=1e5, limits={"batch_queue_tokens": 2_000})

    assert any("One more point of share for v/cheap would" in s for s in what_more_buys(by_share))
    assert what_more_buys(target)[0].startswith("One point more of mean grade would cost $")
    assert what_more_buys(daily)[0].startswith("10 more requests a day of v/dear would buy ")
    assert any("1,000 more input tokens in the batch queue of v/dear" in s
               for s in what_more_buys(queued))  # fmt: skip


def test_a_plan_that_nothing_binds_says_so() -> None:
    plan = document()

    assert what_more_buys(plan) == []
    assert any(line.startswith("nothing binds") for line in plan_text(plan))
    assert "Nothing: no limit, no budget and no deadline" in plan_page(plan)


def test_a_plan_is_told_with_cost_end_models_limits_and_budgets() -> None:
    plan = document(objective=BY_GRADE, usd=0.25, seconds=30 * 3600.0, limits={"rpm": 100})

    text = "\n".join(plan_text(plan))

    assert text.startswith("plan for 300 queries, made 2026-11-24 12:00 UTC")
    assert "are left for it" in text
    assert "to finish by 2026-11-25 18:00 UTC" in text
    assert "v/dear" in text
    assert "budget: $" in text
    assert "One more dollar of budget would buy" in text
    assert "what other budgets would buy" in text


def test_the_middle_of_a_run_has_no_frontier_and_says_what_was_learnt() -> None:
    plan = document(again=True, learnt={"v/dear": Learnt(1.0, 1.8, 2.5)})

    page = plan_page(plan)

    assert plan["frontier"] == []
    assert "in the middle of the run" in page
    assert "What the run has learnt" in page
    assert "180.0" in page


@pytest.mark.browser
@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_whole_in_a_browser(tmp_path: Path, width: int) -> None:
    plan = document(
        objective=BY_GRADE, usd=0.5, seconds=30 * 3600.0, limits={"rpm": 100},
        learnt={"v/dear": Learnt()},
    )  # fmt: skip

    seen, shot = looked_at(plan_page(plan), tmp_path, width=width, height=3000)

    assert seen["headings"] == [
        "Plan for 300 queries", "Who answers", "What binds", "What other budgets would buy",
        "What the run has learnt",
    ]  # fmt: skip
    assert len(seen["figures"]) == 1
    assert all(size > 8.5 for size in seen["letters"])
    assert seen["stuck"] == 0
    assert seen["wide"] <= seen["window"] <= width
    assert seen["requests"] == 0
    assert shades(shot) > 100
