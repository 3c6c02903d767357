from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from moa.catalog import load_catalog
from moa.cluster.meters import Tally
from moa.decisions.decided import Decided
from moa.dispatch.settings import LineProgress
from moa.dispatch.tallies import Tallied
from moa.pipeline.details import Details, Expects, Progress
from moa.pipeline.run_meters import TELL_EVERY_S, RunMeters
from tests.conftest import FakeClock

GPT, HAIKU = "openai/gpt-4o", "anthropic/claude-3-haiku"
MODELS = [
    model
    for model in load_catalog("jobs/configs/demo_catalog.toml").models.values()
    if model.id in (GPT, HAIKU)
]
NOW = 1_000_000.0
NOTHING = Details(0, {}, {}, {}, 0.0, 0.0, None, None)
START = Progress(
    queries=1000, done=0, dead=0, in_flight=0, waiting=0, retried=0, spent_usd=Decimal(0),
    deciding=True, earlier=0, details=NOTHING,
)  # fmt: skip


class Told:
    """Meters of a run, and what they have come to."""

    def __init__(self, clock: FakeClock, deadline: datetime | None = None) -> None:
        self._clock = clock
        self._tally = Tally()
        self.meters = RunMeters(
            self._tally, "night", MODELS, deadline, clock=clock, now=lambda: NOW
        )

    def tell(self, progress: Progress, details: Details) -> None:
        self._clock.advance(TELL_EVERY_S)
        self.meters(progress._replace(details=details))

    def value(self, name: str, **labels: str) -> float | None:
        key = f"moa_run_{name}", tuple(sorted({"run": "night", **labels}.items()))
        return self._tally.values.get(key)


@pytest.fixture
def told(clock: FakeClock) -> Told:
    return Told(clock)


def test_what_happened_is_counted_once_however_often_it_is_told(told: Told) -> None:
    happened = Tallied(
        calls={(GPT, "answered"): 7, (GPT, "429"): 3},
        cost_usd={(GPT, "live"): Decimal("0.5")},
        passed_on={(GPT, "vendor_failed"): 2},
        letters={"invalid_request": 1},
        retried=4,
    )

    for _ in range(3):
        told.tell(START, NOTHING._replace(happened={"a": happened}))
    later = happened._replace(calls={(GPT, "answered"): 9, (GPT, "429"): 3})
    told.tell(START, NOTHING._replace(happened={"a": later}))

    assert told.value("calls", provider="openai", model=GPT, status="answered") == 9
    assert told.value("calls", provider="openai", model=GPT, status="429") == 3
    assert told.value("cost_usd", provider="openai", model=GPT, lane="live") == 0.5
    assert told.value("fallbacks", provider="openai", model=GPT, reason="vendor_failed") == 2
    assert told.value("dead_letters", reason="invalid_request") == 1
    assert told.value("retries") == 4


def test_a_dispatcher_that_was_started_again_adds_to_what_the_one_before_has_told(
    told: Told,
) -> None:
    before, after = Tallied({(GPT, "answered"): 7}), Tallied({(GPT, "answered"): 2})

    told.tell(START, NOTHING._replace(happened={"a": before}))
    told.tell(START, NOTHING._replace(happened={"b": after}))

    assert told.value("calls", provider="openai", model=GPT, status="answered") == 9


def test_decisions_are_counted_by_rule_and_what_nobody_is_asked_by_reason(told: Told) -> None:
    decided = {
        Decided("novel", GPT, None): 30,
        Decided("best_value", HAIKU, None): 60,
        Decided(None, None, "prompt_missing"): 10,
    }
    happened = {"a": Tallied(letters={"prompt_missing": 1, "vendor_failed": 2})}

    told.tell(START, NOTHING._replace(decided=decided, happened=happened, scored=100))

    assert told.value("decisions", provider="openai", model=GPT, rule="novel") == 30
    assert told.value("decisions", provider="anthropic", model=HAIKU, rule="best_value") == 60
    assert told.value("dead_letters", reason="prompt_missing") == 11
    assert told.value("dead_letters", reason="vendor_failed") == 2
    assert told.value("scored") == 100


def test_the_bill_to_come_is_as_dear_as_what_is_done_or_as_was_planned(told: Told) -> None:
    progress = START._replace(done=250, spent_usd=Decimal(2))

    told.tell(START._replace(done=3, spent_usd=Decimal(1)), NOTHING)
    early = told.value("forecast_usd")
    told.tell(progress, NOTHING._replace(budget_usd=Decimal(6)))
    by_pace = told.value("forecast_usd")
    told.tell(progress, NOTHING._replace(expects=Expects(Decimal(5), NOW)))

    assert early is None
    assert by_pace == 8
    assert told.value("budget_usd") == 6
    assert told.value("spent_usd") == 2
    assert told.value("forecast_usd") == 5


def test_the_end_is_by_its_pace_or_by_the_plan_and_never_in_the_past(clock: FakeClock) -> None:
    deadline = datetime.fromtimestamp(NOW + 500, UTC)
    told = Told(clock, deadline)

    told.tell(START._replace(in_flight=1), NOTHING)
    told.tell(START._replace(done=100), NOTHING)
    by_pace = told.value("forecast_end_timestamp_seconds")
    told.tell(START, NOTHING._replace(expects=Expects(Decimal(1), NOW + 900)))
    by_plan = told.value("forecast_end_timestamp_seconds")
    told.tell(START, NOTHING._replace(expects=Expects(Decimal(1), NOW - 900)))

    assert by_pace == NOW + 9 * TELL_EVERY_S
    assert by_plan == NOW + 900
    assert told.value("forecast_end_timestamp_seconds") == NOW
    assert told.value("deadline_timestamp_seconds") == NOW + 500


def test_a_plan_ends_no_sooner_than_what_is_in_hand(told: Told) -> None:
    expects = NOTHING._replace(expects=Expects(Decimal(1), NOW + 1))

    told.tell(START._replace(in_flight=1), expects)
    told.tell(START._replace(done=100, in_flight=10, waiting=190), expects)
    behind = told.value("forecast_end_timestamp_seconds")
    told.tell(START._replace(done=900, in_batches=100), expects)

    assert behind == NOW + 2 * TELL_EVERY_S
    assert told.value("forecast_end_timestamp_seconds") == NOW + 1


def test_a_model_that_is_out_is_told_until_it_is_back(told: Told) -> None:
    told.tell(START, NOTHING._replace(lines={GPT: LineProgress(1, 20, out=True)}))
    out = told.value("model_out", provider="openai", model=GPT)
    told.tell(START, NOTHING._replace(lines={GPT: LineProgress(2, 5)}))

    assert out == 1
    assert told.value("model_out", provider="openai", model=GPT) == 0
    assert told.value("model_waiting", provider="openai", model=GPT) == 5


def test_ages_of_pieces_are_told_by_lane(told: Told) -> None:
    told.tell(START, NOTHING._replace(oldest_s=12.5, oldest_batch_s=7200.0))

    assert told.value("oldest_piece_seconds", lane="live") == 12.5
    assert told.value("oldest_piece_seconds", lane="batch") == 7200.0


def test_a_run_that_is_told_of_many_times_a_second_is_counted_every_other_second(
    told: Told, clock: FakeClock
) -> None:
    told.tell(START._replace(done=1), NOTHING)
    clock.advance(TELL_EVERY_S / 4)
    told.meters(START._replace(done=2, details=NOTHING))

    assert told.value("queries", state="done") == 1


def test_what_came_last_is_told_when_a_start_is_over(told: Told, clock: FakeClock) -> None:
    """Of a drain, or of a run of a second, nothing is lost because it was not time to tell."""
    told.tell(START, NOTHING._replace(happened={"a": Tallied({(GPT, "answered"): 7})}))
    clock.advance(TELL_EVERY_S / 4)
    last = NOTHING._replace(happened={"a": Tallied({(GPT, "answered"): 9})})
    told.meters(START._replace(done=9, details=last))

    told.meters.end("interrupted")

    assert told.value("calls", provider="openai", model=GPT, status="answered") == 9
    assert told.value("queries", state="done") == 9


def test_a_dispatcher_that_is_gone_before_it_is_time_to_tell_is_counted(
    told: Told, clock: FakeClock
) -> None:
    told.tell(START, NOTHING)
    for dispatcher in ("a", "b"):
        clock.advance(TELL_EVERY_S / 4)
        happened = {dispatcher: Tallied({(GPT, "answered"): 2})}
        told.meters(START._replace(details=NOTHING._replace(happened=happened)))

    told.tell(START, NOTHING)

    assert told.value("calls", provider="openai", model=GPT, status="answered") == 4


def test_a_start_and_its_end_are_counted(told: Told) -> None:
    told.meters.end("interrupted")

    assert told.value("started") == 1
    assert told.value("ended", how="interrupted") == 1
