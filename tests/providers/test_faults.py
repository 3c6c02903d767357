from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

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


@given(st.binary(max_size=200))
def test_any_body_is_an_error_document(body: bytes) -> None:
    assert isinstance(error_document(body), dict)


@given(st.integers(300, 599))
def test_any_status_has_a_kind(status: int) -> None:
    assert Fault(kind_of(status), status, "").error(a_chat(), "").status == status


def test_an_unknown_client_error_is_not_tried_again() -> None:
    assert kind_of(418) is InvalidRequest
