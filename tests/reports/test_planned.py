from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from moa.planning.capacities import Learnt
from moa.reports.cost_report import CostReport
from moa.reports.forms import summary_lines, to_json
from moa.reports.inputs import Replay
from moa.reports.page import render_html
from tests.reports.plans import BY_GRADE, NOON, document
from tests.reports.test_cost_report import decision, grade, outcome, report_of

SECTION = "Forecast and fact"


def plan(*, again: bool = False, learnt: dict[str, Learnt] | None = None) -> dict[str, Any]:
    """Of 300 queries, made a minute before the first answer of `outcome`."""
    found = document(objective=BY_GRADE, usd=0.5, seconds=86_401.0, again=again, learnt=learnt)
    return {**found, "created_at": (NOON - timedelta(seconds=60)).isoformat()}


def planned(
    plans: list[dict[str, Any]], *, backlog: int | None = None, replay: Replay | None = None
) -> CostReport:
    """200 queries of 300 decided on for batches, of which 30 were bought live in the end."""
    outcomes = []
    for n in range(300):
        lane = "batch" if n < 170 else "live"
        outcomes.append(outcome(n, ("v/dear", "v/cheap")[n % 2], tokens=60, lane=lane))
    decisions = [decision(row) | {"lane": "batch" if n < 200 else "live", "rule": "planned"}
                 for n, row in enumerate(outcomes)]  # fmt: skip
    graded = [grade(n, m, (n % 4 > 0) * 1.0) for n in range(300) for m in ("v/dear", "v/cheap")]
    return report_of(
        outcomes, decisions=decisions, graded=graded, plans=plans, backlog=backlog, replay=replay
    )


def test_nothing_of_a_plan_is_said_of_a_run_without_one() -> None:
    report = planned([])

    assert report.planned is None
    assert json.loads(to_json(report))["planned"] is None
    assert SECTION not in render_html(report, title="t")
    assert not any("plan" in line for line in summary_lines(report))


def test_forecast_and_fact_stand_side_by_side() -> None:
    report = planned([plan()])

    one = report.planned
    assert one is not None
    assert one.cost_usd.fact == pytest.approx(float(report.cost_usd))
    assert one.seconds.fact == 60 + 49
    assert one.in_time
    assert one.grade is not None
    assert report.grade is not None
    assert one.grade.fact == report.grade.value
    assert sum(row.done for row in one.rows) == 300
    assert sum(row.planned for row in one.rows) == 300
    assert sum(row.usd for row in one.rows) == report.cost_usd
    assert (one.to_batches, one.by_batches, one.left_for_live) == (200, 170, 30)
    page = render_html(report, title="t")
    assert SECTION in page
    assert "200 queries went to batches: 170 were answered so, 30 were left" in page
    told = json.loads(to_json(report))["planned"]
    assert told["cost_usd"]["fact"] == one.cost_usd.fact
    assert told["left_for_live"] == 30


def test_a_fact_outside_of_its_interval_is_called_so() -> None:
    found = plan()
    found["forecast"]["cost_usd"] = {"low": 0.1, "expected": 0.2, "high": 0.3}
    found["forecast"]["ends_in_s"] = {"low": 200.0, "expected": 300.0, "high": 400.0}
    found["usd"] = 0.1

    report = planned([found])

    assert report.planned is not None
    assert report.cost_usd > 0
    assert report.planned.cost_usd.within == (0.1 <= float(report.cost_usd) <= 0.3)
    assert not report.planned.seconds.within
    text = " ".join(summary_lines(report))
    assert "ended after 109.0 s, earlier than the interval holds" in text
    assert "The limit of $0.1000 on the calls was exceeded by" in text
    assert '<span class="bad">no</span>' in render_html(report, title="t")


def test_an_end_after_the_deadline_is_called_late() -> None:
    found = plan()
    found["finish_by"] = NOON.isoformat()

    report = planned([found])

    assert report.planned is not None
    assert report.planned.in_time is False
    assert any(
        "there after the deadline, 2026-11-24 12:00 UTC" in one for one in summary_lines(report)
    )


def test_replans_are_counted_and_say_why() -> None:
    usual = plan(again=True, learnt={"v/dear": Learnt(1.0, 1.01)})
    longer = plan(again=True, learnt={"v/dear": Learnt(1.0, 1.8), "v/cheap": Learnt(1.0, 1.0)})

    twice, once = planned([plan(), usual, longer]), planned([plan(), usual])

    assert twice.planned is not None
    assert [one.learnt for one in twice.planned.replans] == [(), (("v/dear", 1.0, 1.8),)]
    text = " ".join(summary_lines(twice))
    assert "planned again 2 times, last for 300 queries" in text
    assert "v/dear 100.0 % of the expected input and 180.0 % of the output" in text
    assert "planned again 1 time, last for 300 queries: tokens came out as expected" in " ".join(
        summary_lines(once)
    )
    assert "planned again" in render_html(twice, title="t")


def test_an_unfinished_run_is_not_held_against_its_interval() -> None:
    report = planned([plan()], backlog=900)

    text = " ".join(summary_lines(report))

    assert "so far" in text
    assert "interval holds" not in text


def test_equal_queries_that_share_an_answer_count_once() -> None:
    outcomes = [outcome(n, "v/dear", lane="live") for n in range(10)]
    outcomes += [outcome(n, "v/dear", lane="live", same_as="q0") for n in range(10, 15)]

    report = report_of(outcomes, plans=[plan()])

    assert report.planned is not None
    done = {(row.model, row.lane): row.done for row in report.planned.rows}
    assert done["v/dear", "live"] == 10


def test_a_plan_that_was_only_looked_at_is_not_what_the_run_began_by() -> None:
    looked_at = plan() | {"created_at": (NOON - timedelta(hours=9)).isoformat()}
    went_on = plan() | {"queries": 40}

    report = planned([looked_at, plan(), went_on])

    assert report.planned is not None
    assert report.planned.made_at == NOON - timedelta(seconds=60)
    assert [one.queries for one in report.planned.replans] == [40]


def test_replayed_answers_are_not_held_against_the_time_that_vendors_take() -> None:
    report = planned([plan()], replay="recorded")

    assert any("ended after 109.0 s, replayed." in one for one in summary_lines(report))
    assert ">replayed</td>" in render_html(report, title="t")
