from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import chain, pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Lane, Limits, Model
from moa.plan_config import PlanConfig
from moa.planning.capacities import Learnt, Situation
from moa.planning.capacity import Backlog
from moa.planning.ending import Interval
from moa.planning.forecast import Forecast, forecast
from moa.planning.pace import live_s
from moa.planning.totals import Totals
from tests.bench.bench_forecast import coverage, demo, drawn, figures, of_one_kind

LANES: tuple[Lane, ...] = ("live", "batch")
NOTHING_LEARNT = Situation(queries=100)


def model(name: str, **limits: float) -> Model:
    return Model(
        id=f"v/{name}",
        provider="v",
        api_name=name,
        context_window=100_000,
        max_output_tokens=8_000,
        abilities=frozenset(),
        limits=Limits(**limits),  # type: ignore[arg-type]
        price_provider="",
        price_ref="",
        lanes=LANES,
    )


MODELS = (model("dear"), model("cheap"))
USD_PER_TOKEN = np.array([[10e-6, 5e-6], [1e-6, 0.5e-6]])


def backlog(rows: int, *, tokens: float = 400, seed: int = 0) -> Backlog:
    rng = np.random.default_rng(seed)
    out = rng.uniform(0.5, 1.5, (rows, 2)) * tokens
    into = rng.uniform(0.5, 1.5, (rows, 2)) * 100
    cost = USD_PER_TOKEN * (out + 0.3 * into)[:, :, None]
    return Backlog(
        rng.uniform(0, 1, (rows, 2)).astype(np.float32),
        cost.astype(np.float32),
        into.astype(np.float32),
        out.astype(np.float32),
    )


def choices(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 4, rows).astype(np.int16)


def totals_of(queries: Backlog, choice: np.ndarray, *, spread: float = 1.5) -> Totals:
    assert queries.output_tokens is not None
    totals = Totals(2, 2)
    totals.add(queries, choice, spread * queries.output_tokens, USD_PER_TOKEN)
    return totals


def told(
    totals: Totals,
    *,
    models: Sequence[Model] = MODELS,
    situation: Situation = NOTHING_LEARNT,
    config: PlanConfig | None = None,
) -> Forecast:
    config = config or PlanConfig(lanes=["live", "batch"])
    return forecast(totals, models, LANES, situation, config, router_usd=Decimal("0.25"))


@given(st.integers(1, 60), st.lists(st.integers(0, 60), max_size=4), st.integers(0, 99))
def test_sums_of_parts_are_the_sums_of_the_whole(rows: int, cuts: list[int], seed: int) -> None:
    queries, choice = backlog(rows, seed=seed), choices(rows, seed)
    at = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    parts = Totals(2, 2)

    for start, stop in pairwise(at):
        part = queries.take(slice(start, stop))
        assert part.output_tokens is not None
        parts.add(part, choice[start:stop], 1.5 * part.output_tokens, USD_PER_TOKEN)

    whole = totals_of(queries, choice)
    for name, sums in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), sums, rtol=1e-12, err_msg=name)
    assert whole.queries.sum() == (choice >= 0).sum()
    assert whole.usd.sum() == pytest.approx(
        sum(float(queries.cost_usd[n, c // 2, c % 2]) for n, c in enumerate(choice) if c >= 0)
    )


@given(st.integers(0, 60), st.integers(0, 99), st.floats(1, 4))
def test_what_is_expected_lies_within_its_interval(rows: int, seed: int, spread: float) -> None:
    found = told(totals_of(backlog(rows, seed=seed), choices(rows, seed), spread=spread))

    for one in (found.cost_usd, found.grade, found.ends_in_s):
        assert 0 <= one.low <= one.expected <= one.high
    assert found.grade.high <= 1


def test_a_plan_of_nothing_costs_nothing_and_is_over() -> None:
    found = told(Totals(2, 2))

    assert found.cost_usd == found.grade == found.ends_in_s == Interval(0, 0, 0)
    assert found.rows == ()
    assert found.queries == 0


@settings(max_examples=30)
@given(st.floats(1.1, 3), st.floats(1.1, 2))
def test_the_less_is_known_of_answers_the_wider_is_the_interval(less: float, more: float) -> None:
    queries, choice = backlog(40), choices(40)

    sure, unsure = (
        told(totals_of(queries, choice, spread=spread)).cost_usd for spread in (less, less + more)
    )

    assert unsure.high > sure.high
    assert unsure.low < sure.low
    assert unsure.expected == sure.expected


def test_more_queries_make_single_answers_matter_less_but_never_the_routers_own_error() -> None:
    widths = []
    for rows in (20, 2_000, 200_000):
        one = told(totals_of(backlog(rows), np.zeros(rows, np.int16), spread=3)).cost_usd
        widths.append((one.high - one.low) / one.expected)

    assert widths[0] > 2 * widths[1] > 2 * widths[2]
    assert widths[2] > 0.05


def test_where_no_quantile_is_known_answers_are_taken_to_vary_widely() -> None:
    queries, choice = backlog(50), np.zeros(50, np.int16)
    unknown = Totals(2, 2)
    unknown.add(queries, choice, None, USD_PER_TOKEN)

    without, narrow = told(unknown).cost_usd, told(totals_of(queries, choice, spread=1.2)).cost_usd

    assert without.high > narrow.high


def test_no_run_is_told_to_cost_more_than_its_budget() -> None:
    totals = totals_of(backlog(100), np.zeros(100, np.int16))
    free = told(totals).cost_usd

    bound = told(totals, situation=Situation(100, usd=free.expected * 1.01)).cost_usd

    assert free.high > free.expected * 1.01
    assert bound.high == pytest.approx(free.expected * 1.01)
    assert bound.low == free.low


def test_rows_say_what_each_model_gets_in_each_lane() -> None:
    queries = backlog(10)
    choice = np.array([0, 0, 1, 3, 3, 3, -1, 0, 1, 1], np.int16)

    rows = told(totals_of(queries, choice)).rows

    assert [(row.model, row.lane, row.queries) for row in rows] == [
        ("v/dear", "live", 3), ("v/dear", "batch", 3), ("v/cheap", "batch", 3),
    ]  # fmt: skip
    assert rows[0].live_s > 0
    assert rows[1].live_s == rows[2].live_s == 0
    assert sum(row.cost_usd for row in rows) == pytest.approx(
        told(totals_of(queries, choice)).cost_usd.expected
    )


def test_an_accounts_limit_sets_the_end() -> None:
    totals = totals_of(backlog(600), np.zeros(600, np.int16))
    limited = (model("dear", rpm=10), MODELS[1])

    found = told(totals, models=limited)

    assert found.ends_in_s.expected == pytest.approx(
        live_s(
            limited[0], calls=600, in_flight=256,
            input_tokens=float(totals.input_tokens.sum()),
            output_tokens=float(totals.output_tokens.sum()),
        )
    )  # fmt: skip
    assert found.ends_in_s.expected > 600 / 10 * 60
    assert found.ends_in_s.high < 1.5 * found.ends_in_s.expected
    assert found.rows[0].live_s == found.ends_in_s.expected


def test_models_of_one_account_share_its_calls_at_once() -> None:
    half = np.repeat(np.array([0, 2], np.int16), 500)
    now = Situation(1000, in_flight=10)

    together = told(totals_of(backlog(1000), half), situation=now).ends_in_s.expected
    apart = told(
        totals_of(backlog(1000), half),
        models=(MODELS[0], replace(MODELS[1], provider="w")),
        situation=now,
    ).ends_in_s.expected

    assert together == pytest.approx(2 * apart, rel=0.1)


def test_a_rate_that_was_seen_is_surer_than_a_guess() -> None:
    totals = totals_of(backlog(1000), np.zeros(1000, np.int16))
    now = Situation(1000, in_flight=4)

    guess = told(totals, situation=now).ends_in_s
    seen = told(totals, situation=replace(now, learnt={"v/dear": Learnt(rate_per_s=0.5)})).ends_in_s

    assert seen.expected == pytest.approx(2000)
    assert seen.high / seen.low < guess.high / guess.low


def test_batches_end_within_what_they_are_reckoned_with_turn_by_turn() -> None:
    totals = totals_of(backlog(100), np.ones(100, np.int16))
    tokens = float(totals.input_tokens.sum())

    at_once = told(totals).ends_in_s
    queued = told(
        totals, models=(model("dear", batch_queue_tokens=tokens / 3), MODELS[1])
    ).ends_in_s

    assert at_once.high == 24 * 3600
    assert at_once.low < at_once.expected < at_once.high
    assert queued.high == pytest.approx(3 * at_once.high)


@given(st.integers(0, 30), st.integers(0, 99))
def test_a_forecast_survives_its_document(rows: int, seed: int) -> None:
    found = told(totals_of(backlog(rows, seed=seed), choices(rows, seed)))

    assert Forecast.from_document(orjson.loads(orjson.dumps(found.document()))) == found


def test_the_intervals_hold_on_the_demo_and_are_narrow_enough_to_be_of_use() -> None:
    known = demo()

    whole = figures(coverage(drawn(known, 12, seed=7), budgets=(0.15, 0.4, None)))
    kinds = (of_one_kind(known, 3, seed=seed, rows=120) for seed in range(4))
    one_kind = figures(coverage(chain.from_iterable(kinds), budgets=(0.15, None)))

    assert whole["plans"] >= 80
    assert whole["cost_held"] >= 0.85
    assert whole["grade_held"] >= 0.85
    assert whole["cost_width"] < 0.2
    assert whole["grade_width"] < 0.07
    assert one_kind["plans"] >= 100
    assert one_kind["cost_held"] >= 0.85
    assert one_kind["grade_held"] >= 0.85
    assert one_kind["cost_held"] + one_kind["grade_held"] < 2  # wider ones would hold always
