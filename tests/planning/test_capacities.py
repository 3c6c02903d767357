"""What limits a plan, and by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.catalog import Lane, Limits, load_catalog
from moa.plan_config import PlanConfig
from moa.planning.capacities import (
    BUDGET,
    USED_OF_TIME,
    Committed,
    Learnt,
    Situation,
    capacities,
    lanes_in_time,
)
from moa.planning.capacity import Capacity
from moa.planning.pace import DAY_S, MINUTE_S, answer_s

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
MINI, LARGE, FLASH = (
    CATALOG.models[name]
    for name in ("openai/gpt-4o-mini", "openai/gpt-4o", "google/gemini-1.5-flash")
)
MODELS = (MINI, LARGE, FLASH)
LANES: tuple[Lane, ...] = ("live", "flex", "batch")
NO_LIMITS = Limits()
ALL = Limits(
    rpm=60, input_tpm=1000, output_tpm=2000, tpm=2500, rpd=8640, batch_queue_tokens=500,
    max_in_flight=4,
)  # fmt: skip
OUT = Committed(calls=5, input_tokens=70, output_tokens=11)


def limits_of(
    now: Situation, config: PlanConfig | None = None, *, limits: Limits = NO_LIMITS
) -> dict[str, Capacity]:
    """By name; the first model with these limits of its account."""
    models = (replace(MINI, limits=limits), LARGE, FLASH)
    found = capacities(models, LANES, config or PlanConfig(), now)
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_without_a_deadline_only_money_and_shares_are_scarce() -> None:
    shares = PlanConfig.model_validate({"shares": {LARGE.id: {"min": 0.1, "max": 0.4}}})
    now = Situation(200, usd=3.5, output_tokens=(100, 100, 100), committed={MINI.id: OUT})

    found = limits_of(now, shares, limits=ALL)

    assert list(found) == [BUDGET, f"{LARGE.id} max share", f"{LARGE.id} min share"]
    assert (found[BUDGET].measure, found[BUDGET].limit) == ("usd", 3.5)
    assert found[BUDGET].options.all()
    assert not any(one.per_time for one in found.values())


def test_without_any_limit_nothing_is_scarce() -> None:
    assert limits_of(Situation(200), limits=ALL) == {}


def test_debts_are_no_budget() -> None:
    assert limits_of(Situation(200, usd=-1.0))[BUDGET].limit == 0


@pytest.mark.parametrize(
    ("name", "measure", "a_second", "out"),
    [
        ("rpm", "queries", 60 / MINUTE_S, OUT.calls),
        ("input_tpm", "input_tokens", 1000 / MINUTE_S, OUT.input_tokens),
        ("output_tpm", "output_tokens", 2000 / MINUTE_S, OUT.output_tokens),
        ("tpm", "tokens", 2500 / MINUTE_S, OUT.input_tokens + OUT.output_tokens),
        ("rpd", "queries", 8640 / DAY_S, OUT.calls),
    ],
)
def test_until_the_deadline_an_account_allows_its_rate_less_what_is_out(
    name: str, measure: str, a_second: float, out: float
) -> None:
    now = Situation(200, seconds=1000, committed={MINI.id: OUT})

    one = limits_of(now, limits=ALL)[f"{MINI.id} {name}"]

    assert one.measure == measure
    assert one.limit == pytest.approx(a_second * 1000 * USED_OF_TIME - out)
    assert one.per_time
    assert not one.at_least
    # Batches have limits of their own, and other models are not counted.
    assert one.options.tolist() == [[True, True, False], [False] * 3, [False] * 3]


@given(st.floats(0, 1e6), st.floats(0, 1e9), st.floats(0, 1e9))
def test_what_is_out_never_makes_a_limit_negative(
    calls: float, tokens_in: float, tokens_out: float
) -> None:
    out = {model.id: Committed(calls, tokens_in, tokens_out) for model in MODELS}
    learnt = {MINI.id: Learnt(rate_per_s=0.5)}
    now = Situation(
        9, usd=1, seconds=60, output_tokens=(9, 9, 9), committed=out, learnt=learnt
    )  # fmt: skip

    found = limits_of(now, limits=ALL)

    assert all(one.limit >= 0 for one in found.values())
    assert found[f"{MINI.id} rpm"].limit == pytest.approx(max(0, 60 * USED_OF_TIME - calls))


def test_a_model_without_limits_is_held_up_by_its_accounts_calls_at_once_only() -> None:
    now = Situation(200, seconds=1000, in_flight=8, output_tokens=(100, 300, 50))

    found = limits_of(now)

    assert set(found) == {"openai calls at once", "google calls at once"}


def test_calls_at_once_are_an_accounts_by_what_its_models_take_for_an_answer() -> None:
    out = {MINI.id: Committed(calls=3), LARGE.id: Committed(calls=4)}
    now = Situation(
        200, seconds=1000, in_flight=8, output_tokens=(100, 300, 50), committed=out
    )  # fmt: skip

    found = limits_of(now)

    mean_s = (answer_s(100) + answer_s(300)) / 2
    openai, google = found["openai calls at once"], found["google calls at once"]
    assert openai.limit == pytest.approx(8 * 1000 * USED_OF_TIME / mean_s - 3 - 4)
    assert google.limit == pytest.approx(8 * 1000 * USED_OF_TIME / answer_s(50))
    assert openai.options.tolist() == [[True, True, False], [True, True, False], [False] * 3]
    assert openai.per_time
    assert openai.measure == "queries"


def test_a_models_own_calls_at_once_count_until_it_was_seen_to_answer() -> None:
    now = Situation(200, seconds=1000, output_tokens=(100, 300, 50), committed={MINI.id: OUT})
    seen = replace(now, learnt={MINI.id: Learnt(rate_per_s=0.5)})

    found, later = limits_of(now, limits=ALL), limits_of(seen, limits=ALL)

    one = found[f"{MINI.id} max_in_flight"]
    assert one.limit == pytest.approx(4 * 1000 * USED_OF_TIME / answer_s(100) - OUT.calls)
    assert one.options.tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert one.per_time
    assert f"{MINI.id} max_in_flight" not in later
    assert f"{MINI.id} as it answers" in later


def test_a_model_that_was_kept_busy_is_counted_on_as_it_was_seen_to_answer() -> None:
    learnt = {MINI.id: Learnt(rate_per_s=0.5), LARGE.id: Learnt(output_tokens=2.0)}
    now = Situation(200, seconds=1000, learnt=learnt, committed={MINI.id: OUT})

    found = limits_of(now)

    assert set(found) == {f"{MINI.id} as it answers"}
    one = found[f"{MINI.id} as it answers"]
    assert one.limit == pytest.approx(0.5 * 1000 * USED_OF_TIME - OUT.calls)
    assert one.per_time
    assert one.options[0].tolist() == [True, True, False]


@pytest.mark.parametrize(("hours", "turns"), [(24, 1), (47.9, 1), (48, 2), (10, 1)])
def test_a_queue_for_batches_is_filled_as_often_as_batches_end_in_time(
    hours: float, turns: int
) -> None:
    now = Situation(200, seconds=hours * 3600)

    one = limits_of(now, PlanConfig(batch_hours=24), limits=ALL)[f"{MINI.id} batch queue"]

    assert one.limit == 500 * turns
    assert one.measure == "input_tokens"
    assert not one.per_time
    assert one.options.tolist() == [[False, False, True], [False] * 3, [False] * 3]


def test_shares_are_of_all_queries_in_all_lanes() -> None:
    shares = {LARGE.id: {"min": 0.1, "max": 0.4}, MINI.id: {"min": 0.2}, FLASH.id: {"max": 0.0}}
    config = PlanConfig.model_validate({"shares": shares})

    found = limits_of(Situation(200), config)

    told = {name: (one.limit, one.at_least) for name, one in found.items()}
    assert told == {
        f"{LARGE.id} max share": (80.0, False),
        f"{LARGE.id} min share": (20.0, True),
        f"{MINI.id} min share": (40.0, True),
        f"{FLASH.id} max share": (0.0, False),
    }
    assert found[f"{LARGE.id} min share"].options.tolist() == [[False] * 3, [True] * 3, [False] * 3]


def test_shares_count_what_was_given_before() -> None:
    shares = {LARGE.id: {"min": 0.1, "max": 0.4}, MINI.id: {"min": 0.2}, FLASH.id: {"max": 0.05}}
    config = PlanConfig.model_validate({"shares": shares})
    given = {LARGE.id: 70, MINI.id: 80, FLASH.id: 50}

    found = limits_of(Situation(100, given=given), config)

    told = {name: one.limit for name, one in found.items()}
    assert told == {f"{LARGE.id} max share": 50.0, f"{FLASH.id} max share": 0.0}
    few = limits_of(Situation(100, given={FLASH.id: 100, LARGE.id: 15}), config)
    assert few[f"{LARGE.id} min share"].limit == pytest.approx(6.5)
    assert few[f"{MINI.id} min share"].limit == pytest.approx(43)


@pytest.mark.parametrize(
    ("seconds", "lanes"),
    [
        (None, ["batch", "live", "flex"]),
        (7200.0, ["batch", "live", "flex"]),
        (7199.9, ["live", "flex"]),
        (1800.0, ["live", "flex"]),
        (1799.9, ["live"]),
        (0.0, ["live"]),
    ],
)
def test_lanes_that_end_in_time_come_in_the_configs_order(
    seconds: float | None, lanes: list[Lane]
) -> None:
    config = PlanConfig(lanes=["batch", "live", "flex"], batch_hours=2, flex_minutes=30)

    assert list(lanes_in_time(config, seconds)) == lanes


def test_a_run_may_have_no_lane_that_ends_in_time() -> None:
    assert lanes_in_time(PlanConfig(lanes=["batch"]), 60) == ()


def test_limits_follow_the_order_of_lanes() -> None:
    now = Situation(200, seconds=1e6)
    models = [replace(MINI, limits=ALL)]

    found = {one.name: one for one in capacities(models, ("batch", "live"), PlanConfig(), now)}

    assert np.array_equal(found[f"{MINI.id} rpm"].options, [[False, True]])
    assert np.array_equal(found[f"{MINI.id} batch queue"].options, [[True, False]])
