from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from moa.log import SECRET, WITHHELD, configure, withhold


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _structlog_as_it_was() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_values_level_and_time() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)

    structlog.get_logger().warning("dispatch.rate_limited", provider="openai", retry_after_s=2.5)

    (event,) = lines(stream)
    assert event["event"] == "dispatch.rate_limited"
    assert event["provider"] == "openai"
    assert event["retry_after_s"] == 2.5
    assert event["level"] == "warning"
    assert str(event["timestamp"]).endswith("Z")


def test_the_run_is_named_on_every_line_of_every_thread() -> None:
    stream = io.StringIO()
    configure("json", run_id="night-1", stream=stream)

    structlog.get_logger().info("run.started")
    thread = threading.Thread(target=structlog.get_logger().info, args=("part.decided",))
    thread.start()
    thread.join()

    assert [event["run_id"] for event in lines(stream)] == ["night-1", "night-1"]


def test_what_was_bound_once_is_on_every_line() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)

    structlog.contextvars.bind_contextvars(partition=7)
    structlog.get_logger().info("part.decided")

    assert lines(stream)[0]["partition"] == 7


def test_auto_is_json_in_a_file_and_readable_on_a_terminal() -> None:
    file, terminal = io.StringIO(), Terminal()

    configure("auto", stream=file)
    structlog.get_logger().info("run.started", rows=3)
    configure("auto", stream=terminal)
    structlog.get_logger().info("run.started", rows=3)

    assert lines(file)[0]["rows"] == 3
    assert "\x1b[" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        lines(terminal)


def test_a_console_that_is_no_terminal_has_no_colour() -> None:
    stream = io.StringIO()

    configure("console", stream=stream)
    structlog.get_logger().info("run.started", rows=3)

    assert "run.started" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_events_below_the_level_are_dropped() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)

    structlog.get_logger().debug("call.sent")

    assert stream.getvalue() == ""


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("name", ["prompt", "completion", "messages", "api_key", "Authorization"])
def test_conversations_and_keys_are_never_logged(style: str, name: str) -> None:
    stream = io.StringIO()
    configure("json" if style == "json" else "console", stream=stream)

    structlog.get_logger().info("call.sent", **{name: "sk-12345 Who am I?"})
    structlog.get_logger().info("call.sent", details={"inner": [{name: "sk-12345 Who am I?"}]})

    assert "Who am I" not in stream.getvalue()
    assert "sk-12345" not in stream.getvalue()
    assert stream.getvalue().count(WITHHELD) == 2


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_local_variables(style: str) -> None:
    stream = io.StringIO()
    configure("json" if style == "json" else "console", stream=stream)
    prompt = "".join(["What is ", "my name?"])

    try:
        raise ValueError(len(prompt))
    except ValueError:
        structlog.get_logger().exception("piece.failed")

    assert "ValueError: 16" in stream.getvalue()
    assert "What is my name?" not in stream.getvalue()


def test_a_value_that_json_does_not_know_is_written_as_text() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)

    structlog.get_logger().info("run.ended", error=ValueError("no"), numbers={1: {2, 3}})

    assert lines(stream)[0]["error"] == "no"


names = st.one_of(st.sampled_from(sorted(SECRET)), st.text(max_size=8))
values = st.recursive(
    st.just("hidden words"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(SECRET)), values)
def test_nothing_below_a_withheld_name_is_kept(name: str, value: object) -> None:
    event = withhold(None, "info", {"event": "e", "outer": {name.upper(): value}, name: value})

    assert event == {"event": "e", "outer": {name.upper(): WITHHELD}, name: WITHHELD}
