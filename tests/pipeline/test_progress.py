from __future__ import annotations

import io
import re
from decimal import Decimal

from moa.pipeline.details import Details, Progress
from moa.pipeline.progress import LiveLine, left_s, line
from tests.conftest import FakeClock

START = Progress(
    queries=1000, done=0, dead=0, in_flight=0, waiting=0, retried=0, spent_usd=Decimal(0),
    deciding=True, earlier=0, details=Details(0, {}, {}, {}, 0.0, 0.0, None, None),
)  # fmt: skip


def test_a_line_says_done_in_flight_rate_spend_and_time_left(clock: FakeClock) -> None:
    out = io.StringIO()
    tell = LiveLine(out, clock=clock)

    tell(START._replace(in_flight=10))
    clock.advance(10)
    tell(START._replace(done=250, in_flight=64, spent_usd=Decimal("1.25"), dead=3, retried=7))

    last = out.getvalue().split("\x1b[2K")[-1]
    assert re.split(" {2,}", last) == [
        "250/1,000 (25%)", "64 in flight", "25/s", "$1.2500", "0:00:30 left", "3 dead letters",
        "7 retries",
    ]  # fmt: skip
    assert len(last) < 120


def test_the_terminal_is_written_to_twice_a_second_at_most(clock: FakeClock) -> None:
    out = io.StringIO()
    tell = LiveLine(out, clock=clock)

    for _ in range(100):
        tell(START)
        clock.advance(0.1)

    assert out.getvalue().count("\r") <= 21


def test_the_end_is_told_at_once_and_once(clock: FakeClock) -> None:
    out = io.StringIO()
    tell = LiveLine(out, clock=clock)

    tell(START)
    for _ in range(5):
        tell(START._replace(done=1000, deciding=False))

    assert out.getvalue().count("1,000/1,000 (100%)") == 1


def test_what_earlier_starts_did_does_not_count_as_pace(clock: FakeClock) -> None:
    out = io.StringIO()
    tell = LiveLine(out, clock=clock)
    resumed = START._replace(done=900, earlier=900, in_flight=5)

    tell(resumed)
    clock.advance(10)
    tell(resumed._replace(done=950))

    assert " 5/s " in out.getvalue()
    assert "0:00:10 left" in out.getvalue()


def test_a_stop_is_told_at_once_and_says_what_is_waited_for(clock: FakeClock) -> None:
    out = io.StringIO()
    tell = LiveLine(out, clock=clock)

    tell(START._replace(done=100, in_flight=12))
    tell(START._replace(done=100, in_flight=12, draining=True))

    last = out.getvalue().split("\x1b[2K")[-1]
    assert "12 in flight" in last
    assert "Ctrl-C again" in last
    assert len(last) < 120


def test_the_first_answers_are_no_pace() -> None:
    assert left_s(START._replace(done=5), per_s=0.5) is None


def test_without_a_pace_there_is_no_time_left() -> None:
    assert left_s(START, 0.0) is None
    assert "deciding" in line(START, 0.0)
