from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from moa.evaluation.evaluation import (
    Basis,
    Evaluation,
    Graded,
    Settings,
    calibrations,
    calibrations_by_domain,
    evaluate_pool,
)
from moa.evaluation.gate import GateConfig
from moa.evaluation.left_out import Stranger, left_out
from moa.evaluation.page import cell, number, part, render_html, usd
from moa.evaluation.robustness import Flips, Robustness
from moa.evaluation.summary import evaluation_lines, quick_look
from moa.evaluation.traffic import Choices, evaluate_traffic
from moa.evaluation.traffic_gate import TrafficGate
from moa.intervals import Interval
from tests.browser import looked_at, shades
from tests.evaluation.logs import night
from tests.evaluation.made import POLICY, by_chance, judged

TRUTH = by_chance(3, queries=2000, insight=1.0)
SETTINGS = Settings(policy=POLICY, regret_at=(0.05,), sweep_points=20, replicates=50)
BASIS = Basis(
    router="0123", data="200 queries", prices_of="2026-11-25", prices="of that day",
    policy="$0.05 for a right answer", best_constants={"P<3>": "v/m2: it did best"},
)  # fmt: skip


def evaluation() -> Evaluation:
    data = by_chance(1)
    half = Interval(0.5, 0.4, 0.6)
    flips = Flips("typos", 200, half, half, half, 0.5)
    strangers = left_out({"t": Stranger(data, np.array([0.1]))}, POLICY, replicates=50)
    graded = Graded(data.pool, data.domains, data.grade, data.expected_grade)
    calibrated = calibrations(graded, SETTINGS)
    pool = evaluate_pool(
        "P<3>", data, SETTINGS,
        asked=GateConfig(aiq=0.99, ece=1.0, left_out=-1.0, flip_rate=1.0),
        robust=Robustness(replace(flips, kind="all"), (flips,)),
        strangers=strangers, calibrations=calibrated,
    )  # fmt: skip
    return Evaluation(
        "A <title>", BASIS, SETTINGS, (pool,), calibrated, calibrations_by_domain(graded, SETTINGS)
    )


@pytest.fixture(scope="module")
def made() -> Evaluation:
    return evaluation()


def test_the_page_says_all_and_fetches_nothing(made: Evaluation) -> None:
    page = render_html(made)

    for said in (
        "A &lt;title&gt;", "P&lt;3&gt;", html.escape(made.pools[0].verdict), "May it be shipped?",
        "Refused", "By source", "never taught", "Other words", "Are expected grades",
        "<svg", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert said in page
    assert "<title>A <title>" not in page
    assert "src=" not in page
    assert "<link" not in page
    assert "<script" not in page


def test_what_was_not_looked_at_is_not_on_the_page() -> None:
    data = by_chance(1)
    pool = evaluate_pool("P<3>", data, SETTINGS)
    page = render_html(Evaluation("Bare", BASIS, SETTINGS, (pool,), ()))

    for heading in ("May it be shipped?", "never taught", "Other words", "Are expected grades"):
        assert heading not in page


def test_a_pool_without_costs_or_gaps_has_a_page_too() -> None:
    free = judged([[1, 1], [1, 1]], [0.0, 0.0], pool=["v/a", "v/b"])
    basis = replace(BASIS, best_constants={"free": "v/b: why not"})

    page = render_html(
        Evaluation("Free", basis, SETTINGS, (evaluate_pool("free", free, SETTINGS),), ())
    )

    assert "nan" not in page.lower()


def test_the_json_holds_every_figure(made: Evaluation) -> None:
    document = orjson.loads(made.json())

    pool = document["evaluation"]["pools"][0]
    assert document["passed"] is False
    assert pool["metrics"]["aiq"]["value"] == made.pools[0].metrics.aiq.value
    assert pool["by_source"]["s"]["queries"] == 100
    assert document["evaluation"]["settings"]["policy"]["willingness_to_pay"] == "0.05"
    assert pool["left_out"][0]["source"] == "t"
    assert pool["robustness"]["overall"]["rate"]["high"] == 0.6


def test_the_verdict_is_short(made: Evaluation) -> None:
    verdict = orjson.loads(made.verdict().json_bytes())

    assert verdict["passed"] is False
    assert verdict["pools"]["P<3>"]["verdict"] == made.pools[0].verdict
    checks = verdict["pools"]["P<3>"]["checks"]
    assert [check["passed"] for check in checks] == [False, True, True, True]


def test_the_summary_names_what_failed(made: Evaluation) -> None:
    lines = evaluation_lines(made)

    assert any(line.startswith("FAILED P<3>: AIQ") for line in lines)
    assert any(made.pools[0].verdict in line for line in lines)
    assert any("gap captured" in line for line in quick_look("all", by_chance(1), SETTINGS))


def test_a_cell_shows_the_unit_of_its_bounds_once() -> None:
    assert cell(Interval(0.1, -0.2, 0.3), part) == (
        "10.0 %<br><small>\N{MINUS SIGN}20.0 to 30.0 %</small>"
    )
    assert cell(Interval(2.0, 1.0, 3.0), usd) == "$2.00<br><small>$1.00 to $3.00</small>"
    assert cell(None, number) == cell(Interval(np.nan, 0, 0), number) == "\N{EN DASH}"


@pytest.mark.browser
@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_whole_in_a_browser(made: Evaluation, tmp_path: Path, width: int) -> None:
    seen, shot = looked_at(render_html(made), tmp_path, width=width, height=6000)

    assert seen["headings"][0] == "A <title>"
    assert len(seen["figures"]) == 2
    assert all(size > 0.5 * (width - 60) or size > 400 for size in seen["figures"])
    assert all(size > 8.5 for size in seen["letters"])
    assert seen["stuck"] == 0
    assert seen["wide"] <= seen["window"] <= width
    assert seen["requests"] == 0
    assert shades(shot) > 100


def test_logged_traffic_has_its_gate_its_values_and_its_domains() -> None:
    chosen = TRUTH.decide(POLICY).chosen
    log, rows = night(TRUTH, chosen, share=0.3, queries=1000, seed=0)
    worse = TRUTH.grade.argmin(axis=1)
    one = evaluate_traffic(
        "own", log, Choices(worse[rows], 2, chosen[rows]), TRUTH.expected_grade[rows], POLICY,
        asked=TrafficGate(worth_usd=0, loss_usd=1), replicates=100,
    )  # fmt: skip
    made = Evaluation("Own", BASIS, SETTINGS, (), (), traffic=(one,))

    page, verdict = render_html(made), orjson.loads(made.verdict().json_bytes())

    wanted = ("own on logged traffic", "the router in use", "never asked", "Refused", one.verdict)
    for said in wanted:
        assert html.escape(said) in page
    assert verdict["pools"]["own on logged traffic"]["passed"] is False
    assert len(verdict["pools"]["own on logged traffic"]["checks"]) == 2
    assert any("FAILED own on logged traffic" in line for line in evaluation_lines(made))
