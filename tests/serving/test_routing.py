from __future__ import annotations

import os
from dataclasses import replace

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


async def test_a_warm_cache_keeps_a_conversation_while_it_is_worth_it_and_a_cold_one_does_not(
    routing: Routing, scorer: LocalScorer
) -> None:
    thrifty = routing.policies["moa:thrifty"].model_copy(update={"max_novelty": 1.0})
    routing = replace(routing, policies={**routing.policies, "moa:thrifty": thrifty})
    asked = chat("A farmer buys 5 cows a month. " * 400, "He has 57.", "And after a year?")
    scores = await scorer.score([asked.text()])
    (plain,) = routing.routes("moa:thrifty", [asked], scores)
    others = [choice.model.id for choice in plain.choices[1:]]

    kept: dict[float, dict[str, str]] = {}
    for share in (0.0, 1.0):
        routes = [
            routing.routes("moa:thrifty", [asked], scores, sticky=[Sticky(other, share)])[0]
            for other in others
        ]
        kept[share] = {
            other: route.rule
            for other, route in zip(others, routes, strict=True)
            if route.model.id == other
        }

    assert kept[0.0] == {}
    assert set(kept[1.0].values()) == {CONVERSATION}
    assert 0 < len(kept[1.0]) < len(others), "what it saves does not make up for any model"


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
