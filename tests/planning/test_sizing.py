"""How long a sized job takes, what it costs, what binds it, on how many machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moa.catalog import Lane, Limits, Model
from moa.plan_config import PlanConfig
from moa.planning.bottlenecks import (
    AS_LONG,
    BUDGET,
    DEADLINE,
    TWICE,
    binding,
    bounds,
    helps,
    limits,
)
from moa.planning.capacities import HOUR_S, Situation
from moa.planning.capacity import Backlog
from moa.planning.forecast import forecast
from moa.planning.pace import MINUTE_S, answer_s
from moa.planning.sizing import (
    Case,
    Driver,
    Machines,
    budget_used,
    costs,
    end,
    held,
    loads,
    spans,
    with_enough,
)
from moa.planning.totals import ANY_SPREAD, Totals

LANES: tuple[Lane, ...] = ("live", "batch")
MACHINES = Machines(
    router_replicas=2,
    router_per_s=10.0,
    router_usd_per_hour=0.8,
    task_cpus=1,
    tasks_per_s=16_600,
    dispatch_replicas=2,
    dispatch_cpus=1,
    calls_per_s=5_500,
    max_in_flight=256,
    usd_per_cpu_hour=0.05,
)
DRIVER = Driver(
    start_s=10,
    plan_s=1e-6,
    report_s=1e-5,
    part_rows=10_000,
    partition_rows=1_000_000,
    scan_bytes=9,
    plan_bytes=100,
    most_planned=5_000_000,
)


def model(name: str, **given: float) -> Model:
    return Model(
        id=name,
        provider=name.partition("/")[0],
        api_name=name,
        context_window=100_000,
        max_output_tokens=8_000,
        abilities=frozenset(),
        limits=Limits(**given),  # type: ignore[arg-type]
        price_provider="",
        price_ref="",
        lanes=LANES,
    )


def case(
    given: Mapping[str, Mapping[str, float]],
    shares: Sequence[Sequence[float]] = ((0.5, 0.0), (0.5, 0.0)),
    *,
    queries: int = 100_000,
    tokens: tuple[float, float] = (500.0, 300.0),
    **more: Any,  # noqa: ANN401
) -> Case:
    """Models with such limits; shares by model of what is bought live and in batches."""
    totals = Totals(len(given), 2)
    for number, row in enumerate(shares):
        for lane, share in enumerate(row):
            count = share * queries
            totals.give(
                number, lane, queries=count, input_tokens=count * tokens[0],
                output_tokens=count * tokens[1], usd=count * 1e-3, output_usd=count * 6e-4,
            )  # fmt: skip
    models = tuple(model(name, **one) for name, one in given.items())
    known: dict[str, Any] = {
        "plan": PlanConfig(), "planned": False, "machines": MACHINES, "driver": DRIVER, **more,
    }  # fmt: skip
    return Case(queries, models, LANES, totals, **known)


FREE: dict[str, dict[str, float]] = {"a/one": {}, "b/two": {}}
FAST = replace(MACHINES, router_per_s=1e9, max_in_flight=1e9, calls_per_s=1e9)


@st.composite
def cases(draw: st.DrawFn, *, planned: bool | None = None) -> Case:
    rate = st.one_of(st.none(), st.floats(10, 1e6))
    given: dict[str, dict[str, float]] = {}
    for name in ("a/one", "a/other", "b/two"):
        found = {
            "rpm": draw(rate), "tpm": draw(rate), "output_tpm": draw(rate),
            "batch_queue_tokens": draw(st.one_of(st.none(), st.floats(1e6, 1e9))),
        }  # fmt: skip
        given[name] = {key: value for key, value in found.items() if value is not None}
    parts = draw(st.lists(st.floats(0.01, 1), min_size=6, max_size=6))
    shares = (np.array(parts) / sum(parts)).reshape(3, 2).tolist()
    machines = replace(
        MACHINES,
        router_per_s=draw(st.floats(0.1, 1e4)),
        max_in_flight=draw(st.integers(1, 1_000)),
        calls_per_s=draw(st.floats(1, 1e4)),
        router_replicas=draw(st.integers(1, 20)),
        dispatch_replicas=draw(st.integers(1, 20)),
    )
    return case(
        given,
        shares,
        queries=draw(st.integers(1_000, 10_000_000)),
        machines=machines,
        planned=draw(st.booleans()) if planned is None else planned,
    )


@given(cases(), st.floats(1.01, 100))
def test_more_of_any_limit_is_never_slower(one: Case, more: float) -> None:
    now = end(one)

    for limit in limits(one):
        then = end(limit.times(one, more))
        # Whole calls at once round up.
        assert then.expected <= now.expected * (1 + 1e-9)
        assert then.low <= now.low * (1 + 1e-9)
        assert then.high <= now.high * (1 + 1e-9)


@given(cases(planned=False))
def test_what_binds_really_binds(one: Case) -> None:
    """Where one limit is slowest by far, a little more of it ends the run sooner, of others not."""
    found = bounds(one)
    assume(found)
    assume(len(found) == 1 or found[1].seconds < 0.9 * found[0].seconds)
    assume(found[0].name in [limit.name for limit in limits(one) if limit.can_be_raised])
    now_s = end(one).expected
    assume(found[0].seconds > 0.5 * now_s)

    for limit in limits(one):
        if not limit.can_be_raised:
            continue
        saved_s = now_s - end(limit.times(one, 1.05)).expected
        if limit.name == found[0].name:
            assert saved_s > 0.01 * found[0].seconds
        else:
            assert saved_s <= 1e-9 * now_s
    assert binding(one, bounds(one)) == [found[0].name]
    assert next(name for name, _ in helps(one, bounds(one))) == found[0].name


@given(cases(planned=False))
def test_the_slowest_limit_alone_takes_as_long_as_all_together(one: Case) -> None:
    found = bounds(one)
    assume(found)

    free_s = end(one).expected - found[0].seconds

    # The rest is what no limit shortens, and the report after it.
    fixed_s = spans(one).start + spans(one).report + 2 * answer_s(300)
    assert -1e-6 * end(one).expected <= free_s <= fixed_s + 1e-6 * end(one).expected


@given(cases())
def test_a_cost_is_the_sum_of_its_parts(one: Case) -> None:
    usd, took = costs(one), spans(one)
    machines = one.machines

    router_h = machines.router_replicas * (took.start + took.score) / HOUR_S
    cpus = machines.dispatch_replicas * machines.dispatch_cpus + machines.task_cpus + 1
    assert usd.all == usd.calls.expected + usd.router + usd.cpus
    assert usd.calls.expected == pytest.approx(one.totals.usd.sum())
    assert usd.router == pytest.approx(router_h * machines.router_usd_per_hour)
    assert usd.cpus == pytest.approx(end(one).expected / HOUR_S * cpus * machines.usd_per_cpu_hour)
    assert budget_used(one) == usd.calls.expected + (usd.router if one.planned else 0)


@given(cases())
def test_calls_take_and_cost_what_the_planner_forecasts(one: Case) -> None:
    """Where dispatchers have CPU enough, as the planner does not know of that."""
    one = replace(one, machines=replace(one.machines, calls_per_s=1e12))
    in_flight = int(one.machines.dispatch_replicas * one.machines.max_in_flight)
    now = Situation(one.queries, in_flight=in_flight)

    told = forecast(one.totals, one.models, one.lanes, now, one.plan, router_usd=0)

    assert spans(one).calls == told.ends_in_s
    assert costs(one).calls == told.cost_usd


@given(cases())
def test_twice_as_many_queries_never_take_less_time_or_money(one: Case) -> None:
    twice = replace(one, queries=2 * one.queries, totals=one.totals.scaled(2))

    assert end(twice).expected >= end(one).expected * (1 - 1e-9)
    assert costs(twice).all >= costs(one).all * (1 - 1e-9)
    assert held(twice).files >= held(one).files
    assert held(twice).driver_bytes >= held(one).driver_bytes


@given(cases(), st.floats(0.5, 500))
def test_enough_replicas_keep_a_deadline_that_can_be_kept_and_no_fewer_do(
    one: Case, hours: float
) -> None:
    most = replace(one.machines, router_replicas=10**9, task_cpus=1e9, dispatch_replicas=10**9)
    seconds = hours * HOUR_S
    assume(end(replace(one, machines=most)).expected < 0.4 * seconds)

    enough = with_enough(replace(one, seconds=seconds))

    assert end(enough).expected <= seconds
    fewer = enough.machines.router_replicas - 1
    if fewer:
        slower = replace(enough, machines=replace(enough.machines, router_replicas=fewer))
        assert end(slower).expected > 0.94 * seconds
    assert DEADLINE not in binding(enough, bounds(enough))


@given(cases())
def test_without_a_deadline_machines_are_not_what_is_waited_for(one: Case) -> None:
    enough = with_enough(one)
    took, without = spans(enough), spans(replace(enough, machines=FAST))
    assume(without.calls.expected > 100)

    assert took.score <= took.calls.expected * (1 + 1e-6)
    assert took.calls.expected <= without.calls.expected * (1 + 1e-6)


def test_arithmetic_of_a_night() -> None:
    """As deploy/SIZING.md has it, line by line."""
    one = case(
        {"a/one": {"rpm": 1_000}, "b/two": {"output_tpm": 100_000}},
        queries=1_000_000,
        machines=replace(MACHINES, router_replicas=10, router_per_s=5, max_in_flight=512),
    )

    took = spans(one)

    assert took.score == 1_000_000 / (10 * 5)
    by_rpm_s = 500_000 / 1_000 * MINUTE_S
    by_tokens_s = 500_000 * 300 / 100_000 * MINUTE_S
    assert took.calls.expected == pytest.approx(max(by_rpm_s, by_tokens_s) + answer_s(300))
    assert binding(one, bounds(one)) == ["b/two output_tpm"]
    assert end(one).expected == pytest.approx(10 + by_tokens_s + answer_s(300) + 10)
    account = loads(one)[1]
    assert account.account == "b"
    assert account.calls_per_minute == pytest.approx(500_000 / took.calls.expected * 60)
    assert account.calls_at_once == pytest.approx(account.calls_per_minute / 60 * answer_s(300))


@given(cases())
def test_with_a_plan_calls_wait_for_the_last_score_and_without_one_they_do_not(one: Case) -> None:
    streamed, planned = replace(one, planned=False), replace(one, planned=True)
    took = spans(planned)

    assert spans(streamed).plan == 0
    assert took.plan == one.queries * DRIVER.plan_s
    beside_s = took.start + took.report
    calls_s = took.calls.expected
    assert end(planned).expected == pytest.approx(beside_s + took.score + took.plan + calls_s)
    assert end(streamed).expected == pytest.approx(beside_s + max(took.score, calls_s))


def test_dispatchers_have_so_much_cpu_and_no_more() -> None:
    machines = replace(FAST, dispatch_replicas=3, calls_per_s=20)
    one = case(FREE, machines=machines)

    assert spans(one).calls.expected == pytest.approx(100_000 / (3 * 20))
    assert binding(one, bounds(one)) == ["dispatch CPUs"]
    enough = with_enough(replace(one, seconds=1_000.0))
    assert enough.machines.dispatch_replicas == 6  # 5.3 would do in the 939 s that are left


def test_limits_that_bind_together_help_only_together() -> None:
    one = case({"a/one": {"rpm": 100}, "b/two": {"rpm": 100}}, machines=FAST)

    found = helps(one, bounds(one))

    assert binding(one, bounds(one)) == ["a/one rpm", "b/two rpm"]
    assert [name for name, _ in found] == ["a/one rpm and b/two rpm"]
    assert found[0].saves_s == pytest.approx(50_000 / 100 * MINUTE_S / TWICE)
    assert bounds(one)[1].seconds >= AS_LONG * bounds(one)[0].seconds


def test_a_budget_and_a_deadline_that_cannot_be_kept_are_named() -> None:
    one = case({"a/one": {"rpm": 100}, "b/two": {}}, usd=99.0, seconds=3600.0)

    assert costs(one).calls.expected == pytest.approx(100)
    assert binding(one, bounds(one)) == ["a/one rpm", BUDGET, DEADLINE]
    assert BUDGET not in binding(replace(one, usd=101.0), bounds(replace(one, usd=101.0)))


def test_with_a_plan_the_router_is_paid_from_the_budget() -> None:
    one = case(FREE, planned=True, usd=100.5)

    assert costs(one).router > 0.5
    assert BUDGET in binding(one, bounds(one))
    assert BUDGET not in binding(replace(one, planned=False), bounds(replace(one, planned=False)))


def test_batches_wait_for_room_in_their_queue() -> None:
    roomy = case({"a/one": {"batch_queue_tokens": 1e9}}, ((0.0, 1.0),), machines=FAST)
    tight = case({"a/one": {"batch_queue_tokens": 1e7}}, ((0.0, 1.0),), machines=FAST)

    assert binding(roomy, bounds(roomy)) == ["batch turnaround"]
    assert spans(tight).calls.expected == pytest.approx(5 * spans(roomy).calls.expected)
    assert helps(tight, bounds(tight))[0].name == "a/one batch_queue_tokens"


@pytest.mark.parametrize(
    ("queries", "parts"), [(1, 1), (10_000, 1), (10_001, 2), (1_000_000, 100), (1_000_001, 101)]
)
def test_files_are_two_a_part_and_one_a_piece(queries: int, parts: int) -> None:
    one = case(FREE, ((0.5, 0.1), (0.4, 0.0)), queries=queries)

    assert held(one).parts == parts
    assert held(one).files == parts * (2 + 3) + 8


def test_a_driver_holds_ids_and_what_a_plan_is_made_from() -> None:
    few, many = (case(FREE, queries=n, planned=True) for n in (1_000_000, 1_000_000_000))

    assert held(few).driver_bytes == 1_000_000 * (9 + 100)
    assert held(many).driver_bytes == 1_000_000_000 * 9 + 5_000_000 * 100
    assert held(replace(few, planned=False)).driver_bytes == 1_000_000 * 9


def test_sums_of_queries_are_as_the_queries_one_by_one() -> None:
    """Of equal queries nothing is lost by telling their sums only."""
    single = Totals(1, 1)
    backlog = Backlog(
        np.full((50, 1), 0.5, np.float32), np.full((50, 1, 1), 1e-3, np.float32),
        np.full((50, 1), 400, np.float32), np.full((50, 1), 200, np.float32),
    )  # fmt: skip
    single.add(backlog, np.zeros(50, np.int16), None, np.array([[4e-6]]))
    summed = Totals(1, 1)

    summed.give(
        0, 0, queries=50, input_tokens=50 * 400, output_tokens=50 * 200, usd=0.05,
        output_usd=50 * 200 * 4e-6,
    )  # fmt: skip

    for name in ("queries", "usd", "output_usd", "input_tokens", "output_tokens", "usd_variance"):
        assert getattr(summed, name) == pytest.approx(getattr(single, name)), name
    assert summed.usd_variance == pytest.approx(50 * (ANY_SPREAD * 200 * 4e-6) ** 2)
