from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moa.request import ChatRequest, request_hash

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


@given(TEXT, st.none() | st.floats(0, 2), st.none() | st.integers(1, 10**6))
def test_canonical_json_is_a_fixed_point(
    text: str, temperature: float | None, limit: int | None
) -> None:
    request = chat(
        messages=[{"role": "user", "content": text}],
        temperature=temperature,
        max_output_tokens=limit,
    )

    again = ChatRequest.model_validate_json(request.canonical())

    assert again == request
    assert again.canonical() == request.canonical()


def test_equal_requests_hash_alike_however_they_were_written() -> None:
    one = ChatRequest.model_validate_json(
        '{"temperature": 0, "messages": [{"content": "Hi", "role": "user"}], "stop": "END"}'
    )
    other = chat(temperature=0.0, stop=["END"])

    assert request_hash(one.canonical()) == request_hash(other.canonical())


def test_a_schema_and_parameters_keep_their_order_and_their_nulls() -> None:
    schema = {"type": "object", "properties": {"why": {"default": None}, "answer": {}, "a": {}}}
    form = {"type": "json_schema", "json_schema": {"schema": schema, "name": "s"}}
    tool = {"type": "function", "function": {"parameters": schema, "name": "f"}}

    sent = ChatRequest.model_validate_json(
        chat(response_format=form, tools=[tool]).canonical()
    ).canonical()

    assert sent.count(json.dumps(schema, separators=(",", ":"))) == 2


def test_a_json_schema_keeps_its_name_on_the_way_through() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}

    request = chat(response_format=wanted)

    assert '"schema":{"type":"object"}' in request.canonical()
    assert ChatRequest.model_validate_json(request.canonical()) == request


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, []),
        ({"temperature": 0.5}, ["temperature"]),
        ({"temperature": 1.5}, ["temperature_above_1"]),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, ["tools"]),
        ({"response_format": {"type": "json_object"}}, ["json_object"]),
        ({"response_format": {"type": "text"}}, []),
        ({"seed": 0, "stop": ["x"]}, ["seed", "stop"]),
    ],
)
def test_what_a_model_must_be_able_to_do(fields: dict[str, object], needed: list[str]) -> None:
    assert chat(**fields).abilities() == needed


def test_an_image_is_an_ability() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}

    request = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}])

    assert request.abilities() == ["images"]
    assert request.text() == "?"


@pytest.mark.parametrize("url", ["https://x.example/a.png", "http://x.example/a.png", "gs://b/a"])
def test_an_image_elsewhere_is_one_more_ability(url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}

    request = chat(messages=[{"role": "user", "content": [image]}])

    assert request.abilities() == ["image_urls", "images"]


def test_a_vendors_turn_is_taken_into_a_history_without_what_is_the_vendors() -> None:
    theirs = {
        "role": "assistant",
        "content": "Paris",
        "refusal": None,
        "annotations": [{"type": "url_citation"}],
        "audio": None,
        "function_call": None,
        "reasoning_content": "Hm.",
    }
    user = {"role": "user", "content": "Hi"}

    request = chat(messages=[user, theirs, user])

    plain = chat(messages=[user, {"role": "assistant", "content": "Paris"}, user])
    assert request == plain


def test_the_words_of_a_refusal_are_what_was_said() -> None:
    theirs = {"role": "assistant", "content": None, "refusal": "I can't."}
    user = {"role": "user", "content": "Hi"}

    request = chat(messages=[user, theirs, user])

    assert request.messages[1].text == "I can't."


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_can_be_asked_for(effort: str) -> None:
    assert chat(reasoning_effort=effort).abilities() == ["reasoning_effort"]


def test_several_turns_are_marked_in_the_text_that_the_router_reads() -> None:
    request = chat(
        messages=[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    )

    assert request.text() == "[system]\nBe brief\n\n[user]\nHi"


@pytest.mark.parametrize(
    "document",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 2},
        {"messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 0, "logprobs": False},
        {"messages": [{"role": "user", "content": "Hi", "reasoning_content": "Hm."}]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "", "function_call": {"name": "f"}},
            ]
        },
        {"messages": [{"role": "tool", "content": "4"}]},
        {"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-4o"},
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 3},
        {"messages": [{"role": "user", "content": "Hi"}], "max_output_tokens": 2**31},
        {"messages": [{"role": "user", "content": "Hi"}], "seed": 2**63},
        {"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "xml"}},
    ],
)
def test_a_malformed_request_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate(document)
