from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.reports.cost_report import CostReport, build
from moa.reports.forms import summary_lines, to_json, to_table
from moa.reports.inputs import (
    ForecastFacts,
    PolicyFacts,
    PriceFacts,
    Replay,
    ReportInputs,
    RouterFacts,
    RunFacts,
)
from moa.reports.matched import LIMIT
from moa.reports.page import render_html
from moa.reports.verdict import verdict
from moa.schema import COST_REPORT, DEAD_LETTERS, GRADED_OUTCOMES, OUTCOMES, ROUTING_DECISIONS

POOL = ("v/dear", "v/cheap")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
PRICE = {"v/dear": Decimal("10E-6"), "v/cheap": Decimal("1E-6")}
BY_VALUE = PolicyFacts(Decimal("0.05"), None, 1.0)


def cost_usd(model: str, input_tokens: int, output_tokens: int) -> Decimal:
    return PRICE.get(model, Decimal("2E-6")) * (input_tokens + output_tokens)


def outcome(n: int, model: str | None, *, tokens: int = 100, **fields: object) -> dict[str, Any]:
    answered = model is not None
    return {
        "query_id": f"q{n}", "partition": 0, "row": n,
        "status": "answered" if answered else "dead_letter",
        "model": model, "provider": "v" if answered else None, "lane": "live" if answered else None,
        "first_model": model, "input_tokens": tokens, "cached_input_tokens": 0,
        "cache_write_tokens": 0, "output_tokens": tokens, "reasoning_tokens": 0,
        "cost_usd": cost_usd(model, tokens, tokens) if model else Decimal(0),
        "attempts": 1 if answered else 0, "unknown_calls": 0, "lost_answers": 0,
        "latency_s": 0.5 if answered else None, "finished_at": NOON + timedelta(seconds=n % 50),
        "reason": None if answered else "vendor_failed", "tags": [f"t{n % 3}"], **fields,
    }  # fmt: skip


def decision(row: dict[str, Any], can: Sequence[str] = POOL) -> dict[str, Any]:
    model = row["first_model"]
    return {
        "query_id": row["query_id"], "partition": row["partition"], "row": row["row"],
        "model": model, "provider": "v", "lane": "live", "rule": "best_value",
        "fallbacks": [m for m in can if m != model],
        "expected_grade": [0.9, 0.6], "expected_cost_usd": [2e-3, 2e-4],
        "expected_input_tokens": 100.0, "expected_output_tokens": 100.0, "novelty": 0.25,
        "propensity": 1.0, "router_s": 0.001, "router_version": "r", "price_version": "p",
    }  # fmt: skip


def grade(n: int, model: str, value: float, tokens: int | None = 100) -> dict[str, Any]:
    return {
        "query_id": f"q{n}", "model": model, "grade": value, "input_tokens": tokens,
        "output_tokens": tokens, "grader": "test",
    }  # fmt: skip


def report_of(
    outcomes: list[dict[str, Any]],
    *,
    decisions: list[dict[str, Any]] | None = None,
    letters: list[dict[str, Any]] | None = None,
    graded: list[dict[str, Any]] | None = None,
    batch: int = 7,
    order: int = 1,
    pool: tuple[str, ...] = POOL,
    price: Callable[[str, int, int], Decimal] = cost_usd,
    policy: PolicyFacts = BY_VALUE,
    backlog: int | None = None,
    replay: Replay | None = None,
    limit: int = LIMIT,
    starts: Sequence[tuple[datetime, datetime]] = (),
    plans: Sequence[dict[str, Any]] = (),
) -> CostReport:
    def tables(rows: list[dict[str, Any]], schema: pa.Schema) -> list[pa.Table]:
        parts = [rows[n : n + batch] for n in range(0, len(rows), batch)]
        return [pa.Table.from_pylist(part, schema=schema) for part in parts[::order]]

    chosen = [decision(o) for o in outcomes if o["model"]] if decisions is None else decisions
    by_row = {(d["partition"], d["row"]): d for d in chosen}

    def expected(found: pa.Table) -> pa.Table:
        places = zip(found["partition"].to_pylist(), found["row"].to_pylist(), strict=True)
        return pa.Table.from_pylist([by_row[p] for p in places], schema=ROUTING_DECISIONS)

    return build(
        ReportInputs(
            run_id="r1",
            pool=pool,
            backlog=sum(o.get("same_as") is None for o in outcomes) if backlog is None else backlog,
            replay=replay,
            decisions=lambda: iter(tables(chosen, ROUTING_DECISIONS)),
            outcomes=lambda: iter(tables(outcomes, OUTCOMES)),
            expected=expected,
            dead_letters=lambda: iter(tables(letters or [], DEAD_LETTERS)),
            graded=pa.Table.from_pylist(graded, schema=GRADED_OUTCOMES) if graded else None,
            cost_usd=lambda model, lane, tokens_in, tokens_out: (
                price(model, tokens_in, tokens_out) * (Decimal("0.5") if lane == "batch" else 1)
            ),
            policy=policy,
            prices=PriceFacts("p", "2026-11-24", ("a list",)),
            router=RouterFacts("r", 3.6, 1.2, Decimal(1), pool[0], "it was"),
            run=RunFacts(
                NOON, NOON, 60.0, "c" * 64, "abc", (("ray", "2.60"),), starts=tuple(starts)
            ),
            forecast=ForecastFacts(Decimal("0.5")),
            plans=tuple(plans),
        ),
        limit=limit,
    )


ROWS = st.lists(
    st.tuples(st.sampled_from([*POOL, None]), st.integers(0, 5000), st.booleans()), max_size=60
)


def rows_of(drawn: list[tuple[str | None, int, bool]]) -> list[dict[str, Any]]:
    return [
        outcome(n, model, tokens=tokens, same_as="q0" if shared else None)
        for n, (model, tokens, shared) in enumerate(drawn)
    ]


@given(ROWS)
def test_the_parts_of_a_bill_add_up_to_it(drawn: list[tuple[str | None, int, bool]]) -> None:
    outcomes = rows_of(drawn)

    report = report_of(outcomes)

    total = sum((o["cost_usd"] for o in outcomes), Decimal(0))
    table = to_table(report)
    assert report.cost_usd == total
    assert sum((s.sums.cost_usd for s in report.spend), Decimal(0)) == total
    assert table.schema.equals(COST_REPORT)
    assert sum(table["cost_usd"].to_pylist(), Decimal(0)) == total
    assert sum(table["queries"].to_pylist()) == report.queries == len(outcomes)
    assert report.answered + report.refused + report.dead_letters == len(outcomes)
    assert sum(r.queries for r in report.reasons) == report.dead_letters
    assert sum(m.queries for m in report.throughput) == report.answered + report.refused
    assert sum((m.cost_usd for m in report.throughput), Decimal(0)) == total


@given(ROWS, st.integers(1, 20))
def test_a_report_does_not_depend_on_how_its_tables_come(
    drawn: list[tuple[str | None, int, bool]], batch: int
) -> None:
    outcomes = rows_of(drawn)
    for n, row in enumerate(outcomes):
        row["first_model"] = row["first_model"] and POOL[n % 2]
        row["lost_answers"] = n % 3
    graded = [grade(n, m, (n % 4) / 3) for n in range(len(outcomes)) for m in POOL]

    def facts(report: CostReport) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(to_json(report))
        del document["made_at"], document["reasons"]
        return document

    one = report_of(outcomes, graded=graded)
    other = report_of(outcomes, graded=graded, batch=batch, order=-1)

    assert facts(one) == facts(other)


def test_a_saving_is_what_the_best_constant_would_have_cost() -> None:
    outcomes = [outcome(n, "v/cheap" if n % 2 else "v/dear") for n in range(400)]
    graded = [grade(n, m, 1.0 if m == "v/dear" else 0.5) for n in range(400) for m in POOL]

    report = report_of(outcomes, graded=graded)

    best = report.comparison("v/dear")
    assert best is not None
    assert best.cost_usd == 400 * cost_usd("v/dear", 100, 100)
    assert best.our_cost_usd == report.cost_usd
    assert best.measured_share == 1
    assert best.saving is not None
    assert best.saving.value == pytest.approx(0.45)
    assert best.saving.low < 0.45 < best.saving.high
    assert best.net_saving is not None
    assert best.net_saving.value == pytest.approx(0.45 - 0.001 / 0.8)  # 3.6 s at 1 USD an hour
    assert best.grade_difference is not None
    assert best.grade_difference.value == pytest.approx(-0.25)
    assert report.best_in_hindsight == "v/dear"
    assert report.grade is not None
    assert report.grade.value == pytest.approx(0.75)


def test_a_model_is_compared_where_it_could_have_answered() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(100)]
    decisions = [decision(o, POOL if n < 40 else POOL[:1]) for n, o in enumerate(outcomes)]

    report = report_of(outcomes, decisions=decisions)

    cheap = report.comparison("v/cheap")
    assert cheap is not None
    assert (cheap.queries, cheap.of_queries) == (40, 100)
    assert cheap.measured_share == 0
    assert cheap.cost_usd == Decimal("0.008")  # 40 times what the router expects
    assert cheap.saving is not None
    assert cheap.saving.value < 0


def test_without_grades_nothing_is_said_of_quality() -> None:
    report = report_of([outcome(n, "v/dear") for n in range(50)])

    page = render_html(report, title="t")

    assert report.grade is None
    assert report.best_in_hindsight is None
    assert "No grade of this backlog is known" in page
    assert "Too few answers are graded" in page


def test_percentiles_and_calibration_are_of_the_right_size() -> None:
    random = np.random.default_rng(1)
    latency = random.exponential(2.0, 2000)
    outcomes = [outcome(n, "v/dear", latency_s=float(latency[n])) for n in range(2000)]
    graded = [grade(n, "v/dear", float(random.random() < 0.8)) for n in range(2000)]

    report = report_of(outcomes, graded=graded)

    (one,) = report.latencies
    assert one.p50_s == pytest.approx(np.quantile(latency, 0.5), rel=0.02)
    assert one.p99_s == pytest.approx(np.quantile(latency, 0.99), rel=0.05)
    (dear, cheap) = report.calibration
    assert sum(p.queries for p in dear.points) == 2000
    assert all(p.expected == pytest.approx(0.9) for p in dear.points)
    assert dear.error == pytest.approx(0.1, abs=0.02)
    assert (cheap.queries, cheap.error) == (0, None)


@pytest.mark.parametrize("queries", [0, 1, 60])
def test_every_run_has_a_page(queries: int) -> None:
    outcomes = [outcome(n, None if n % 5 == 0 else POOL[n % 2]) for n in range(queries)]
    letters = [
        {
            "query_id": o["query_id"], "partition": 0, "row": o["row"], "reason": "vendor_failed",
            "detail": "<b>503</b>", "request": "{}", "request_hash": "0", "tags": [],
            "attempts": [
                {"model": "v/dear", "at": NOON, "error": "TransientError", "detail": "503"}
            ],
        }
        for o in outcomes
        if o["model"] is None
    ]  # fmt: skip

    report = report_of(outcomes, letters=letters)
    page = render_html(report, title="A <run>")

    assert "A &lt;run&gt;" in page
    assert "<b>503</b>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert ("TransientError" in page) == bool(letters)
    said = {0: [], 1: ["1 vendor_failed: <b>"], 60: ["12 vendor_failed, for instance: <b>"]}[
        queries
    ]
    lines = [line for line in summary_lines(report) if line.startswith("dead letters: ")]
    assert lines == [f"dead letters: {one}503</b>" for one in said]


def test_single_models_are_priced_in_the_lane_in_which_each_query_was_bought() -> None:
    usd = cost_usd("v/cheap", 100, 100) / 2
    batched = [outcome(n, "v/cheap", lane="batch", cost_usd=usd) for n in range(200)]
    graded = [grade(n, m, 1.0) for n in range(100) for m in POOL]

    report = report_of(batched, graded=graded)

    dear, same = report.comparison("v/dear"), report.comparison("v/cheap")
    assert dear is not None
    assert same is not None
    recorded_usd, expected_usd = cost_usd("v/dear", 100, 100) / 2, Decimal("1e-3")
    assert dear.cost_usd == 100 * recorded_usd + 100 * expected_usd
    assert same.cost_usd == report.cost_usd
    assert "bought in the same lanes" in " ".join(summary_lines(report))


def test_a_grade_counts_where_the_model_could_take_the_query_and_has_a_price() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(100)]
    allowed = [decision(o, POOL if n < 60 else POOL[:1]) for n, o in enumerate(outcomes)]
    graded = [grade(n, m, 1.0, tokens=None) for n in range(100) for m in POOL]

    report = report_of(outcomes, decisions=allowed, graded=graded)

    cheap = report.comparison("v/cheap")
    assert cheap is not None
    assert (cheap.queries, cheap.graded_queries) == (60, 60)
    assert cheap.measured_share == 0
    assert cheap.cost_usd == Decimal("0.012")  # what the router expects, not nothing
    assert report.calibration[1].queries == 60


def test_the_model_that_answered_counts_though_the_decision_did_not_name_it() -> None:
    outcomes = [outcome(n, "v/cheap", first_model="v/dear") for n in range(50)]
    decisions = [decision(o, POOL[:1]) for o in outcomes]

    report = report_of(outcomes, decisions=decisions)

    cheap = report.comparison("v/cheap")
    assert cheap is not None
    assert (cheap.queries, cheap.cost_usd) == (50, report.cost_usd)


def test_a_refusal_does_not_get_the_grade_of_a_recorded_answer() -> None:
    outcomes = [
        outcome(n, "v/dear", status="refused" if n < 40 else "answered") for n in range(100)
    ]
    graded = [grade(n, m, float(n < 40)) for n in range(100) for m in POOL]

    report = report_of(outcomes, graded=graded)

    assert report.graded_queries == 60
    assert report.grade is not None
    assert report.grade.value == 0
    assert "40 refusals have no grade" in render_html(report, title="t")


def test_followers_of_dead_letters_share_no_answer() -> None:
    dead = [outcome(n, None, same_as="q0" if n else None) for n in range(8)]

    report = report_of([*dead, outcome(8, "v/dear"), outcome(9, "v/dear", same_as="q8")])

    page = render_html(report, title="t")
    assert report.shared == 1
    assert (report.ended, report.backlog) == (2, 2)
    assert "The one call that was sent" not in page  # two calls are in the test's outcomes
    assert "Of 2 calls that were sent, 1 brought an answer and 1 did not" in page


def test_calls_that_may_be_billed_are_said() -> None:
    outcomes = [outcome(n, "v/dear", attempts=2, lost_answers=1) for n in range(30)]
    outcomes[0] |= {"unknown_calls": 1, "lost_answers": 0}

    page = render_html(report_of(outcomes), title="t")

    assert "1 of them was out when the run was killed" in page
    assert "29 of them failed after the vendor may have done the work" in page


def test_a_sample_stands_for_the_whole_run() -> None:
    outcomes = [outcome(n, "v/cheap" if n % 2 else "v/dear") for n in range(400)]
    graded = [grade(n, m, 1.0 if m == "v/dear" else 0.5) for n in range(400) for m in POOL]

    report = report_of(outcomes, graded=graded, limit=100)

    best = report.best
    assert report.looked_at == 100
    assert best is not None
    assert (best.queries, best.of_queries, best.graded_queries) == (400, 400, 400)
    assert best.cost_usd == 400 * cost_usd("v/dear", 100, 100)
    assert "from a sample of 100 queries" in render_html(report, title="t")


def test_the_verdict_weighs_what_was_saved_against_what_was_lost() -> None:
    outcomes = [outcome(n, "v/cheap" if n % 2 else "v/dear") for n in range(400)]
    graded = [grade(n, m, 1.0 if m == "v/dear" else 0.5) for n in range(400) for m in POOL]

    report = report_of(outcomes, graded=graded)

    best = report.best
    assert best is not None
    assert best.net_value_usd is not None
    lost, saved = 0.05 * -0.25 * 400, 400 * 0.0009
    assert best.net_value_usd.value == pytest.approx(lost + saved - 0.001)
    assert best.net_value_usd.low < lost + saved < best.net_value_usd.high
    cost, quality, worth = verdict(report)
    assert cost.startswith("44.9 % cheaper than v/dear for every query (")
    assert quality.startswith("Answers are 25.0 points worse (")
    assert "a proven loss: \N{MINUS SIGN}$4.64 (" in worth
    assert worth in summary_lines(report)


def test_a_run_with_dead_letters_says_first_how_many_were_answered() -> None:
    outcomes = [outcome(n, ("v/cheap", "v/dear", None, None)[n % 4]) for n in range(400)]
    outcomes[0]["status"] = "refused"
    graded = [grade(n, m, 1.0) for n in range(400) for m in POOL]

    report = report_of(outcomes, graded=graded)

    said = verdict(report)[0]
    assert said.startswith("199 of 400 queries were answered and 1 refused; 44.7 % cheaper than")
    assert "v/dear for the queries that were answered (" in said
    assert said in summary_lines(report)
    page = render_html(report, title="t")
    assert "every query" not in page
    assert "v/dear for the queries that were answered</span>" in page
    assert '<span>without an answer</span><b class="bad">200 queries</b>' in page
    assert "200 queries without an answer are in neither" in page
    assert "USD per 1,000 answers, logarithmic" in page
    assert "<td>$0.220</td><td>$1.10</td></tr>" in page  # all of it, over 200 answers


def test_a_run_without_dead_letters_speaks_of_every_query() -> None:
    outcomes = [outcome(n, POOL[n % 2]) for n in range(100)]
    graded = [grade(n, m, 1.0) for n in range(100) for m in POOL]

    page = render_html(report_of(outcomes, graded=graded), title="t")

    assert "v/dear for every query</span>" in page
    assert "without an answer" not in page
    assert "USD per 1,000 queries, logarithmic" in page


def test_a_dearer_run_is_called_dearer() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(60)]
    graded = [grade(n, m, 1.0) for n in range(60) for m in POOL]

    report = report_of(outcomes, graded=graded, pool=POOL[::-1])

    assert verdict(report)[0].startswith("10.1 times as dear as v/cheap for every query")


def test_a_floor_is_set_beside_what_was_measured() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(60)]
    graded = [grade(n, m, 0.75) for n in range(60) for m in POOL]

    report = report_of(outcomes, graded=graded, policy=PolicyFacts(None, 0.8, 1.0))

    assert "was 0.8; the mean of the measured ones is 0.750" in verdict(report)[-1]
    assert "expected to reach a grade of 0.8" in render_html(report, title="t")


def test_a_replayed_run_says_so() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(40)]

    real, replayed = report_of(outcomes), report_of(outcomes, replay="recorded")

    assert json.loads(to_json(real))["replayed"] is False
    assert json.loads(to_json(replayed))["replayed"] is True
    assert "Replayed:" not in render_html(real, title="t")
    page = render_html(replayed, title="t")
    assert "no vendor was called" in page
    assert "o200k_base" in page
    assert "spent, at list prices" in page
    assert any("replayed" in line for line in summary_lines(replayed))


def test_an_unfinished_run_says_how_far_it_is() -> None:
    report = report_of([outcome(n, "v/dear") for n in range(40)], backlog=1000)

    assert "Unfinished: 40 of 1,000 queries" in render_html(report, title="t")
    assert summary_lines(report)[0] == "UNFINISHED: 40 of 1,000 queries have ended"


def test_a_short_run_has_bins_of_milliseconds_and_a_long_one_of_hours() -> None:
    def lasting(seconds: float) -> CostReport:
        step = timedelta(seconds=seconds / 5000)
        return report_of(
            [outcome(n, "v/dear", finished_at=NOON + n * step) for n in range(5000)], batch=500
        )

    short, long = lasting(3), lasting(86_400)

    assert short.throughput[0].length_s == 0.05
    assert long.throughput[0].length_s == 1800
    for report in (short, long):
        assert 3 <= len(report.throughput) <= 61
        assert sum(m.queries for m in report.throughput) == 5000


def test_pauses_between_starts_take_no_room_in_the_throughput() -> None:
    later, much_later = NOON + timedelta(hours=3), NOON + timedelta(days=2)
    ends = [  # the second start was killed after its end was noted last
        *(NOON + timedelta(seconds=n) for n in range(20)),
        *(later + timedelta(seconds=n, milliseconds=999) for n in range(20)),
        *(much_later + timedelta(seconds=n) for n in range(20)),
    ]
    outcomes = [outcome(n, "v/dear", finished_at=at) for n, at in enumerate(ends)]
    starts = [
        (NOON, NOON + timedelta(seconds=20)),
        (later, later + timedelta(seconds=15)),
        (much_later, much_later + timedelta(seconds=20)),
    ]

    report = report_of(outcomes, starts=starts)
    alone = report_of(outcomes[:20], starts=starts[:1])

    moments = report.throughput
    assert (len(moments), moments[0].length_s) == (60, 1)
    assert {m.queries for m in moments} == {1}
    assert [moments[n].starts_at for n in (0, 20, 40)] == [NOON, later, much_later]
    assert report.pauses == (20, 40)
    assert alone.throughput == report_of(outcomes[:20]).throughput
    assert alone.pauses == ()
    page = render_html(report, title="t")
    assert "pauses between starts are left out, at the dashed lines." in page
    assert "seconds of work from 2026-11-24 12:00:00 UTC" in page


def test_a_dead_letter_is_no_finished_query() -> None:
    outcomes = [outcome(n, "v/dear" if n < 10 else None) for n in range(40)]  # one a second

    report = report_of(outcomes)

    assert [m.queries for m in report.throughput] == [1] * 10 + [0] * 30
    dead = render_html(report_of(outcomes[10:]), title="t")
    assert "Queries answered per second." in render_html(report, title="t")
    assert "Queries answered per second." not in dead


def test_a_free_model_has_a_place_in_the_figure() -> None:
    outcomes = [outcome(n, "v/dear") for n in range(60)]
    graded = [grade(n, m, (n % 4) / 3) for n in range(60) for m in POOL]

    def price(model: str, input_tokens: int, output_tokens: int) -> Decimal:
        free = model == "v/cheap"
        return Decimal(0) if free else cost_usd(model, input_tokens, output_tokens)

    page = render_html(report_of(outcomes, graded=graded, price=price), title="t")

    assert "v/cheap: free" in page


def test_a_model_may_be_called_anything() -> None:
    odd = 'v/<b>&"x"</b>'
    pool = (odd, "v/cheap")
    outcomes = [outcome(n, "v/cheap", first_model=odd) for n in range(60)]
    graded = [grade(n, m, (n % 4) / 3) for n in range(60) for m in pool]

    report = report_of(
        outcomes,
        decisions=[decision(o, pool) for o in outcomes],
        graded=graded,
        pool=pool,
        price=lambda *_: Decimal("0.01"),
    )
    page = render_html(report, title="t")

    assert "<b>&" not in page
    assert "v/&lt;b&gt;&amp;" in page


def test_tags_stand_under_their_kind_and_a_cut_is_said() -> None:
    few = [outcome(n, "v/dear", tags=[f"team:t{n % 3}", "urgent"]) for n in range(30)]
    many = [outcome(n, "v/dear", tags=[f"user:{n}"]) for n in range(60)]

    short = render_html(report_of(few), title="t")
    cut = render_html(report_of(many), title="t")

    assert '<th class="t">team</th>' in short
    assert '<td class="t">t0</td>' in short
    assert "There are more tags" not in short
    assert "There are more tags" in cut


def detoured(n: int, first: str, model: str, usd: str = "0.003") -> dict[str, Any]:
    return outcome(n, model, cost_usd=Decimal(usd)) | {"first_model": first}


def test_what_a_detour_cost_is_the_bill_and_the_grade_against_what_was_expected() -> None:
    outcomes = [
        *(detoured(n, "v/dear", "v/cheap") for n in range(4)),  # 0.003 for 0.002; 0.6 for 0.9
        detoured(4, "v/cheap", "v/dear"),  # 0.003 for 0.0002; 0.9 for 0.6
        *(outcome(n, "v/dear") for n in range(5, 9)),
        outcome(9, None, reason="vendor_failed"),
        outcome(10, None, reason="budget_spent"),
    ]

    report = report_of(outcomes)

    to_cheap, to_dear = report.detours
    assert (to_cheap.first_model, to_cheap.model, to_cheap.queries) == (*POOL, 4)
    assert to_cheap.paid_usd == Decimal("0.012")
    assert to_cheap.extra_usd == Decimal("0.004")
    assert to_cheap.grade_gain == pytest.approx(-1.2)
    assert to_cheap.loss_usd == Decimal("0.004") + Decimal("0.05") * Decimal("1.2")
    assert to_dear.extra_usd == Decimal("0.0028")
    assert report.outage is not None
    assert report.outage.queries == 5
    assert report.outage.extra_usd == Decimal("0.0068")
    assert report.outage.loss_usd == Decimal("0.0068") + Decimal("0.05") * Decimal("0.9")
    assert report.outage.dead_letters == (("vendor_failed", 1),)
    (line,) = [one for one in summary_lines(report) if "another model" in one]
    assert "5 queries were answered by another model than decided on first: $0.006800 more" in line
    assert "0.9 fewer right answers expected" in line
    assert "a loss of $0.0518" in line
    assert ", 0 refused, 2 dead letters; " in summary_lines(report)[0]
    assert ", 1 dead letter; 0 calls in " in summary_lines(report_of(outcomes[-1:]))[0]
    assert "Left dead by vendors: 1 query (1 vendor_failed), to be sent again." in line


def test_a_bill_is_held_against_the_forecast_of_what_was_answered() -> None:
    outcomes = [
        outcome(0, "v/dear"),
        outcome(1, None) | {"first_model": "v/dear"},  # expected to cost 0.002
        outcome(2, None) | {"first_model": "v/cheap"},  # 0.0002
        outcome(3, None, same_as="q1") | {"first_model": "v/dear"},
        outcome(4, None, reason="nobody_can"),
    ]

    report = report_of(outcomes, decisions=[decision(o) for o in outcomes])

    assert report.forecast.cost_usd == Decimal("0.5")
    assert report.answers_forecast_usd == Decimal("0.4978")
    page = render_html(report, title="t")
    assert "$0.5000, of these $0.4978 for the queries that were answered; the bill is 0.4" in page
    assert "(forecast $0.5000, of these $0.4978 for what was answered)" in summary_lines(report)[1]


def test_a_floor_says_what_a_detour_cost_without_a_worth() -> None:
    report = report_of([detoured(0, "v/dear", "v/cheap")], policy=PolicyFacts(None, 0.5, 1.0))

    assert report.outage is not None
    assert report.outage.loss_usd is None
    assert report.detours[0].extra_usd == Decimal("0.001")
    page = render_html(report, title="t")
    assert "What outages, fallbacks and redrives cost" in page
    assert "a right answer</th>" not in page


def test_a_model_outside_the_pool_is_counted_and_not_judged() -> None:
    outcomes = [detoured(0, "v/dear", "other/one"), detoured(1, "v/dear", "v/cheap")]

    report = report_of(outcomes)

    unknown, known = sorted(report.detours, key=lambda one: one.model)
    assert (unknown.unknown, unknown.paid_usd, unknown.extra_usd) == (
        1, Decimal("0.003"), Decimal(0),
    )  # fmt: skip
    assert known.unknown == 0
    assert report.outage is not None
    assert report.outage.extra_usd == known.extra_usd
    assert [one.model for one in report.latencies] == ["v/cheap", "other/one"]
    assert "other/one" in render_html(report, title="t")


def test_without_an_outage_nothing_is_said_of_one() -> None:
    report = report_of([outcome(n, "v/dear") for n in range(3)])

    assert report.outage is None
    assert report.doubts == ()
    assert "What outages" not in render_html(report, title="t")


def test_the_first_queries_whose_calls_may_be_billed_are_told_by_id() -> None:
    outcomes = [outcome(n, "v/dear", lost_answers=n % 2, unknown_calls=n % 3) for n in range(60)]

    report = report_of(outcomes, order=-1)

    doubtful = [o["query_id"] for o in outcomes if o["lost_answers"] or o["unknown_calls"]]
    assert [one.query_id for one in report.doubts] == doubtful[:20]
    assert report.doubtful == len(doubtful)
    page = render_html(report, title="t")
    assert f"the first 20 of\n{len(doubtful)}" in page
    assert "q1 <small" in page
    assert len(json.loads(to_json(report))["doubts"]) == 20
