"""What a run is told about planning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moa.plan_config import PlanConfig


def plan(**given: Any) -> PlanConfig:  # noqa: ANN401
    return PlanConfig.model_validate(given)


def refused(**given: Any) -> str:  # noqa: ANN401
    with pytest.raises(ValidationError) as caught:
        plan(**given)
    return str(caught.value)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}Z")


def test_by_default_there_is_no_deadline_and_all_is_bought_live() -> None:
    found = plan()

    assert found.deadline(utc("2026-11-25T12:00:00")) is None
    assert found.lanes == ["live"]
    assert found.maximise == "worth"
    assert found.approve_usd is None


@pytest.mark.parametrize(
    ("hour", "begun_at", "deadline"),
    [
        ("06:00Z", "2026-11-25T05:59:59", "2026-11-25T06:00:00"),
        ("06:00Z", "2026-11-25T06:00:00", "2026-11-26T06:00:00"),
        ("06:00Z", "2026-11-25T22:00:00", "2026-11-26T06:00:00"),
        ("00:00Z", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        # It is the 26th already where the hour is meant, and still the 24th.
        ("00:30+01:00", "2026-11-25T23:15:00", "2026-11-25T23:30:00"),
        ("00:30+01:00", "2026-11-25T23:45:00", "2026-11-26T23:30:00"),
        ("23:30-05:00", "2026-11-25T03:00:00", "2026-11-25T04:30:00"),
        ("23:30-05:00", "2026-11-25T04:45:00", "2026-11-26T04:30:00"),
        ("06:00:30+05:30", "2026-11-25T00:00:00", "2026-11-25T00:30:30"),
    ],
)
def test_an_hour_of_the_day_is_the_next_one_after_the_run_has_begun(
    hour: str, begun_at: str, deadline: str
) -> None:
    found = plan(finish_by=hour).deadline(utc(begun_at))

    assert found == utc(deadline)
    assert found.tzinfo is UTC


@given(
    st.integers(0, 366 * 86_400),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(-14 * 4, 14 * 4),
)
def test_an_hour_is_within_a_day_and_reads_so_where_it_is_meant(
    begun_s: int, hour: int, minute: int, quarters: int
) -> None:
    begun_at = utc("2026-01-01T00:00:00") + timedelta(seconds=begun_s)
    offset = timedelta(minutes=15 * quarters)
    there = timezone(offset)
    text = datetime(2026, 1, 1, hour, minute, tzinfo=there).isoformat()[11:]

    deadline = plan(finish_by=text).deadline(begun_at)

    assert deadline is not None
    assert timedelta(0) < deadline - begun_at <= timedelta(days=1)
    assert deadline.astimezone(there).strftime("%H:%M") == f"{hour:02d}:{minute:02d}"


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-25T06:00:00Z",
        "2026-11-25T07:00:00+01:00",
        utc("2026-11-25T06:00:00"),
        datetime(2026, 11, 25, 1, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_moment_stays_whenever_the_run_begins(moment: datetime | str) -> None:
    for begun_at in ("2026-11-24T00:00:00", "2026-11-26T00:00:00"):
        assert plan(finish_by=moment).deadline(utc(begun_at)) == utc("2026-11-25T06:00:00")


@pytest.mark.parametrize(
    "text", ["06:00", "2026-11-25T06:00:00", "2026-11-25", "soon", "", "25:00Z"]
)
def test_a_moment_that_is_none_or_has_no_offset_is_refused(text: str) -> None:
    said = refused(finish_by=text)

    assert "2026-11-25T06:00:00Z" in said
    assert "'06:00+01:00'" in said


def test_a_naive_datetime_is_refused() -> None:
    assert "has no offset from UTC" in refused(
        finish_by=datetime.fromisoformat("2026-11-25T06:00:00")
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lanes": []}, "one lane or more, each once"),
        ({"lanes": ["live", "live"]}, "one lane or more, each once"),
        ({"lanes": ["night"]}, "'live', 'flex' or 'batch'"),
        ({"shares": {"a": {"min": 0.5, "max": 0.4}}}, "min 0.5 is more than max 0.4"),
        ({"shares": {"a": {"max": 1.1}}}, "less than or equal to 1"),
        ({"shares": {"a": {"min": 0.6}, "b": {"min": 0.5}}}, "least shares sum to 1.1"),
        ({"target_grade": 0}, "greater than 0"),
        ({"target_grade": 1.01}, "less than or equal to 1"),
        ({"maximise": "speed"}, "'worth' or 'grade'"),
        ({"approve_usd": -1}, "greater than or equal to 0"),
        ({"batch_hours": 0}, "greater than 0"),
        ({"batch_hours": 97}, "less than or equal to 96"),
        ({"flex_minutes": 241}, "less than or equal to 240"),
        ({"replan_every_s": 0}, "greater than 0"),
        ({"budget_usd": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given: dict[str, Any], said: str) -> None:
    assert said in refused(**given)


def test_least_shares_may_take_all_queries() -> None:
    shares = {name: {"min": 0.1} for name in "abcdefghij"}  # a tenth ten times is not quite one

    assert plan(shares=shares).shares["a"].max == 1
