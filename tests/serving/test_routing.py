from __future__ import annotations

import os

import pytest

from moa.request import ChatRequest
from moa.serving.ids import CompletionId, Ids
from moa.serving.routing import CONVERSATION, ROUTER_OUT, STRAIGHT, Routing, Sticky
from moa.serving.scoring import LocalScorer
from moa.serving.setup import check_endpoint
from tests.serving.conftest import ROOT, config_of


@pytest.fixture
def routing(monkeypatch: pytest.MonkeyPatch) -> Routing:
    monkeypatch.chdir(ROOT)
    return check_endpoint(config_of(), environ=os.environ).routing()


@pytest.fixture
def scorer(routing: Routing) -> LocalScorer:
    return LocalScorer.load(config_of().router, [model.id for model in routing.models])


def chat(*turns: str) -> ChatRequest:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
    return ChatRequest.model_validate({"messages": messages})


async def test_a_model_that_is_named_is_asked_alone(routing: Routing, scorer: LocalScorer) -> None:
    asked = chat("Hello")
    scores = await scorer.score([asked.text()])

    (route,) = routing.routes("openai/gpt-4o-mini", [asked], scores)

    assert [choice.model.id for choice in route.choices] == ["openai/gpt-4o-mini"]
    assert route.rule == STRAIGHT


async def test_a_warm_cache_keeps_a_conversation_and_a_cold_one_does_not(
    routing: Routing, scorer: LocalScorer
) -> None:
    asked = chat("word " * 20_000, "Yes.", "Go on.")
    scores = await scorer.score([asked.text()])
    (plain,) = routing.routes("moa:thrifty", [asked], scores)
    other = plain.choices[1].model.id

    kept = {
        share: routing.routes("moa:thrifty", [asked], scores, sticky=[Sticky(other, share)])[0]
        for share in (0.0, 1.0)
    }

    assert kept[0.0].model is plain.model
    if kept[1.0].model is not plain.model:
        assert (kept[1.0].model.id, kept[1.0].rule) == (other, CONVERSATION)


def test_without_a_router_the_default_model_is_asked(routing: Routing) -> None:
    (route,) = routing.routes("moa", [chat("Hello")], None)

    assert (route.model.id, route.rule) == (routing.default_model, ROUTER_OUT)


async def test_a_short_turn_is_routed_by_its_whole_conversation(
    routing: Routing, scorer: LocalScorer
) -> None:
    sums = chat("What is 17 * 23? Think step by step.", "Shall I start?", "Yes.")
    law = chat("Draft a lease for a shop in Berlin.", "Shall I start?", "Yes.")
    alone = chat("Yes.")

    scores = await scorer.score([one.text() for one in (sums, law, alone)])
    routes = routing.routes("moa", [sums, law, alone], scores)

    grades = [tuple(route.expected_grade.values()) for route in routes]
    assert len(set(grades)) == 3
    assert routes[0].input_tokens > routes[2].input_tokens


def test_ids_are_read_by_whom_they_were_made_for() -> None:
    ids = Ids(b"secret" * 4)
    made = CompletionId(ids.new_query(), "openai/gpt-4o")

    text = "chatcmpl-" + ids.sign(made, "search")

    assert ids.read(text, "search") == made
    assert ids.read(text, "other") is None
    assert Ids(b"another" * 4).read(text, "search") is None
    for broken in ("", "chatcmpl-", text[:-1], text[:20], "chatcmpl-ä", text + "AAAA"):
        assert ids.read(broken, "search") is None
