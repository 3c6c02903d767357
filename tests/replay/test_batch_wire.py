"""Multipart bodies, as a client of HTTP writes them."""

from __future__ import annotations

import httpx
from hypothesis import given
from hypothesis import strategies as st

from moa.replay.wire import multipart

contents = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\r\n", b"--", b"\n", b"\r", b"x", b"\r\n\r\n", b"\r\n--"])).map(
        b"".join
    ),
)


@given(contents, contents)
def test_parts_come_out_of_a_multipart_body_as_they_went_in(one: bytes, two: bytes) -> None:
    request = httpx.Request(
        "POST",
        "http://localhost/",
        files={"file": ("a name.jsonl", one), "other": ("b", two)},
        data={"expires_after[seconds]": "60"},
    )

    parts = multipart(request.headers["Content-Type"], request.read())

    assert {part.name: (part.filename, part.content) for part in parts} == {
        "file": ("a name.jsonl", one),
        "other": ("b", two),
        "expires_after[seconds]": ("", b"60"),
    }


@given(st.text(max_size=50), st.binary(max_size=200))
def test_what_is_no_multipart_body_has_no_parts_or_some_but_never_fails(
    content_type: str, body: bytes
) -> None:
    for kind in (content_type, f"multipart/form-data; boundary={content_type}"):
        assert sum(len(part.content) for part in multipart(kind, body)) <= len(body)
