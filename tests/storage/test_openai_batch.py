from __future__ import annotations

import orjson
import pytest

from moa.storage.openai_batch import BadLine, BatchLine, read_id, read_line

MESSAGES = [{"role": "user", "content": "Hi"}]


def line(custom_id: object = "a", **body: object) -> bytes:
    return orjson.dumps(
        {"custom_id": custom_id, "method": "POST", "body": {"messages": MESSAGES, **body}}
    )


def test_a_line_is_the_request_that_its_body_says() -> None:
    text = line(model="gpt-4o", max_completion_tokens=9, n=1, stream=False, user="u", seed=None)

    assert read_line(text) == BatchLine("a", {"messages": MESSAGES, "max_output_tokens": 9})


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}]
)
def test_both_names_of_the_limit_are_known(limits: dict[str, int]) -> None:
    assert read_line(line(**limits)).request["max_output_tokens"] == 5


@pytest.mark.parametrize(
    ("text", "query_id", "said"),
    [
        (b"{", None, "no JSON"),
        (b"\xff", None, "no JSON"),
        (b"[1]", None, "no JSON object"),
        (line(n=2), "a", "body.n is 2"),
        (line(max_tokens=1, max_completion_tokens=2), "a", "different limits"),
        (line(["a"]), None, "custom_id is neither"),
        (line(True), None, "custom_id is neither"),
        (line(1.5), None, "custom_id is neither"),
        (b'{"custom_id":"a","url":"/v1/embeddings","body":{}}', "a", "/v1/embeddings"),
        (b'{"custom_id":"a"}', "a", "no body"),
    ],
)
def test_a_bad_line_is_told_why_with_its_id(text: bytes, query_id: str | None, said: str) -> None:
    with pytest.raises(BadLine, match=said) as refused:
        read_line(text)

    assert refused.value.query_id == query_id
    assert read_id(text) == query_id


@pytest.mark.parametrize(("custom_id", "query_id"), [("a", "a"), (7, "7"), (None, None)])
def test_an_id_is_text_or_a_whole_number(custom_id: object, query_id: str | None) -> None:
    assert read_line(line(custom_id)).query_id == read_id(line(custom_id)) == query_id
