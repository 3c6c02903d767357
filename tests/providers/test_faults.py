from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import InvalidRequest, QuotaSpent, RateLimited
from moa.providers.faults import (
    QUOTED_RUN,
    Fault,
    error_document,
    kind_of,
    retry_after_s,
    unescaped,
    without_quotations,
)
from tests.providers.dialects import a_chat


@given(
    prompt=st.text(min_size=QUOTED_RUN, max_size=60),
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    ends=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_no_run_of_the_prompt_is_left(
    prompt: str, before: str, after: str, ends: tuple[int, int]
) -> None:
    start, stop = sorted(ends)

    detail = without_quotations(before + prompt[start:stop] + after, prompt)

    for piece in detail.split("[...]"):
        for at in range(len(piece) - QUOTED_RUN + 1):
            assert piece[at : at + QUOTED_RUN] not in prompt


@given(
    prompt=st.text(min_size=40, max_size=90),
    ends=st.tuples(st.integers(0, 40), st.integers(0, 90)),
    forms=st.lists(
        st.sampled_from([json.dumps, repr, lambda t: orjson.dumps(t).decode()]),
        max_size=3,  # each doubles the backslashes
    ),
)
def test_no_escaped_run_of_the_request_is_left(
    prompt: str, ends: tuple[int, int], forms: list[Callable[[str], str]]
) -> None:
    chat = a_chat(tools=[{"function": {"name": "f", "description": f"f {prompt}"}}])
    quoted = prompt[slice(*sorted(ends))]
    for form in forms:
        quoted = form(quoted)

    detail = Fault(InvalidRequest, 400, f"Bad: {quoted}").error(chat, "").detail

    said = detail.removeprefix("HTTP 400: ")
    for piece in said.removeprefix("Bad: ").split("[...]"):
        for at in range(len(piece) - QUOTED_RUN + 1):
            assert piece[at : at + QUOTED_RUN] not in unescaped(prompt)


@given(st.text(), st.integers(0, 3))
def test_what_was_escaped_reads_like_what_was_not(text: str, times: int) -> None:
    escaped = text
    for _ in range(times):
        escaped = json.dumps(escaped)[1:-1]

    whole = "." + text + "."  # a backslash at the end would meet the quotation mark

    assert unescaped("." + escaped + ".") == unescaped(whole)


def test_an_image_is_not_quoted() -> None:
    words = f"cannot read {'iVBORw0KGgo' * 20}: not a PNG"

    assert Fault(InvalidRequest, 400, words).error(a_chat(), "").detail == (
        "HTTP 400: cannot read [...]: not a PNG"
    )


@pytest.mark.parametrize("code", ["a b", "x" * 65, "Tell me: why?", "c\u00f6de", "a\nb"])
def test_a_code_looks_like_a_code(code: str) -> None:
    error = Fault(InvalidRequest, 400, "No.", code).error(a_chat(), "")

    assert (error.code, error.detail) == ("", "HTTP 400: No.")


def test_an_error_costs_little_however_long_the_request() -> None:
    words = "the capital of Italy is " * 12  # nearly a quotation, at every place
    chat = a_chat(messages=[{"role": "user", "content": "the capital of France " * 10_000}])
    began = time.process_time()

    for _ in range(20):
        Fault(InvalidRequest, 400, words).error(chat, "")

    assert (time.process_time() - began) / 20 < 0.05


def test_words_of_the_vendors_own_are_left() -> None:
    detail = "temperature: must be at most 1"

    assert without_quotations(detail, "What is the capital of France?") == detail


@pytest.mark.parametrize("prompt", ["", "Hi"])
def test_a_short_prompt_leaves_the_rest(prompt: str) -> None:
    assert "wrong" in without_quotations("something is wrong", prompt)


def test_a_retry_date_is_a_wait() -> None:
    now = datetime(2026, 11, 24, 2, 0, 0, tzinfo=UTC)
    headers = {"retry-after": format_datetime(now.replace(second=30), usegmt=True)}

    assert retry_after_s(headers, now.timestamp()) == 30


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "20", "retry-after": "1"}, 0.02),
    ],
)
def test_a_wait_is_read_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers, 0) == wait_s


@pytest.mark.parametrize(("wait_s", "kind"), [(60, RateLimited), (3600, QuotaSpent)])
def test_a_wait_of_minutes_is_a_spent_quota(wait_s: float, kind: type[RateLimited]) -> None:
    error = Fault(RateLimited, 429, "No.", retry_after_s=wait_s).error(a_chat(), "")

    assert type(error) is kind


@pytest.mark.parametrize(("wait_s", "kept_s"), [(8.64, None), (None, None), (3600, 3600)])
def test_a_spent_day_waits_for_no_seconds(wait_s: float | None, kept_s: float | None) -> None:
    error = Fault(QuotaSpent, 429, "No.", retry_after_s=wait_s).error(a_chat(), "")

    assert isinstance(error, QuotaSpent)
    assert error.retry_after_s == kept_s


@given(st.binary(max_size=200))
def test_any_body_is_an_error_document(body: bytes) -> None:
    assert isinstance(error_document(body), dict)


@given(st.integers(201, 599))
def test_any_status_has_a_kind(status: int) -> None:
    assert Fault(kind_of(status), status, "").error(a_chat(), "").status == status


def test_an_unknown_client_error_is_not_tried_again() -> None:
    assert kind_of(418) is InvalidRequest
