"""One request → who is asked: the router's scores, the policy, what a conversation has cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Model
from moa.config import PolicyConfig
from moa.dispatch.outcome import Choice
from moa.errors import Refusal
from moa.planning.policy import (
    NOBODY,
    ONLY_ONE_CAN,
    Candidates,
    decide,
    reason_nobody,
    worth_usd,
)
from moa.prices import PriceTable
from moa.request import ChatRequest
from moa.router.router import Scores
from moa.serving.config import ROUTED, StickinessConfig

STRAIGHT = "straight"
"""The request names its model."""
CONVERSATION = "conversation"
"""The model that began it, where another would have been chosen for a new one."""
ROUTER_OUT = "router_out"
"""Nothing could be said of the query: the default model."""
LIVE = "live"

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """Scores, and whose they are: while a router is replaced there are two."""

    scores: Scores
    version: str
    """Of the router that gave them all."""


class Scorer(Protocol):
    """A router, here or in another process."""

    async def score(self, texts: Sequence[str]) -> Scored:
        """Score queries for the pool that it was started with.

        Raises:
            MoaError: it is out.
        """
        ...


class Sticky(NamedTuple):
    """The model that began a conversation."""

    model: str
    """Catalog id."""
    cached_share: float
    """Of the prompt, that the vendor is likely to have in its cache; 0 to 1."""


@dataclass(frozen=True, slots=True)
class Route:
    """Who is asked, and why."""

    choices: tuple[Choice, ...]
    """The chosen model, then its fallbacks."""
    rule: str
    expected_grade: Mapping[str, float]
    """By catalog id, in pool order."""
    expected_cost_usd: Mapping[str, float]
    novelty: float
    input_tokens: float
    output_tokens: float
    """Expected, of the chosen model."""
    router_version: str
    """Of the router that scored; `""` when none did."""

    @property
    def model(self) -> Model:
        """That was chosen."""
        return self.choices[0].model

    @property
    def reserved_usd(self) -> Decimal:
        """What the dearest of its models is expected to cost."""
        return Decimal(
            max(self.expected_cost_usd[choice.model.id] for choice in self.choices)
        ).quantize(Decimal("1E-9"))


@dataclass(frozen=True, slots=True)
class Routing:
    """What all decisions of the endpoint have in common."""

    models: tuple[Model, ...]
    """Pool order."""
    policies: Mapping[str, PolicyConfig]
    """By the model's name that asks for it: `moa`, `moa:NAME`."""
    prices: PriceTable
    default_model: str
    stickiness: StickinessConfig
    max_usd_per_query: Decimal | None = None

    def names(self) -> list[str]:
        """What a request may have as its model."""
        return [*self.policies, *(model.id for model in self.models)]

    def check_name(self, name: str, allowed: frozenset[str] | None) -> None:
        """Whether there is such a model, and the tenant may ask for it.

        Raises:
            Refusal: 404 or 403.
        """
        if name not in self.names():
            raise Refusal(
                f"there is no model {name[:80]!r}; GET /v1/models lists those that there are",
                status=404,
                code="model_not_found",
                param="model",
            )
        if allowed is not None and name not in self.policies and name not in allowed:
            raise Refusal(
                f"this key may not ask for {name!r}",
                status=403,
                kind="permission_error",
                code="model_not_allowed",
                param="model",
            )

    def routes(
        self,
        name: str,
        chats: Sequence[ChatRequest],
        scored: Scored | None,
        *,
        allowed: frozenset[str] | None = None,
        sticky: Sequence[Sticky | None] | None = None,
    ) -> list[Route]:
        """Who is asked for each of some conversations.

        Args:
            name: the request's model; `check_name` has let it through.
            chats: at least one.
            scored: they; `None`: the router is out.
            allowed: catalog ids that the tenant may use; `None`: the pool.
            sticky: the models that began them.

        Raises:
            Refusal: 400: no model can take one of them.
        """
        known = scored is not None
        found, version = scored or Scored(_blind(chats, len(self.models)), "")
        straight = name not in self.policies
        policy = self.policies[ROUTED if straight else name]
        if not known:
            policy = policy.model_copy(update={"max_novelty": 0.0})
        frame = _Frame.of(self, chats, found, [name] if straight else allowed)
        costs = self._with_cache(frame, sticky) if sticky else frame.cost_usd
        made = decide(
            frame.candidates, frame.grade, costs, frame.novelty, policy, self.default_model
        )
        plain = made.chosen
        if sticky:
            plain = decide(
                frame.candidates, frame.grade, frame.cost_usd, frame.novelty, policy,
                self.default_model,
            ).chosen  # fmt: skip
        routes = []
        for row in range(len(chats)):
            order = [int(made.chosen[row]), *made.fallbacks[row].tolist()]
            order = [number for number in order if number != NOBODY]
            if not order:
                raise _nobody(frame.candidates, row, name, straight)
            rule = str(made.rule[row])
            if straight:
                rule = STRAIGHT
            elif not known:
                rule = ROUTER_OUT
            elif rule != ONLY_ONE_CAN and plain[row] != order[0]:
                rule = CONVERSATION
            if sticky and self.stickiness.mode == "always" and not straight:
                order, rule = self._kept(order, sticky[row], rule)
            routes.append(self._route(frame, row, order, rule, policy, version))
        return routes

    def _route(
        self,
        frame: _Frame,
        row: int,
        order: list[int],
        rule: str,
        policy: PolicyConfig,
        version: str,
    ) -> Route:
        grade, cost = frame.grade[row], frame.cost_usd[row]
        choices = tuple(
            Choice(
                self.models[number],
                float(frame.input_tokens[row, number]),
                float(frame.output_tokens[row, number]),
                worth_usd(float(grade[number]), float(cost[number]), policy),
            )
            for number in order
        )
        ids = [model.id for model in self.models]
        return Route(
            choices=choices,
            rule=rule,
            expected_grade=dict(zip(ids, (round(float(g), 4) for g in grade), strict=True)),
            expected_cost_usd=dict(zip(ids, map(float, cost), strict=True)),
            novelty=round(float(frame.novelty[row]), 4),
            input_tokens=choices[0].input_tokens,
            output_tokens=choices[0].output_tokens,
            router_version=version,
        )

    def _kept(self, order: list[int], sticky: Sticky | None, rule: str) -> tuple[list[int], str]:
        """The model that began the conversation first, whatever the policy says."""
        numbers = [n for n in order if sticky is not None and self.models[n].id == sticky.model]
        if not numbers or numbers[0] == order[0]:
            return order, rule
        return [*numbers, *(n for n in order if n not in numbers)], CONVERSATION

    def _with_cache(self, frame: _Frame, sticky: Sequence[Sticky | None]) -> Floats:
        """Costs, less what the vendors that began the conversations have in their caches."""
        costs = frame.cost_usd.copy()
        for row, one in enumerate(sticky):
            numbers = [n for n, model in enumerate(self.models) if one and model.id == one.model]
            for number in numbers:
                assert one is not None
                tokens = float(frame.input_tokens[row, number])
                rates = self.prices.price(one.model, LIVE).rates_for(int(tokens))
                saved = float(rates.input - rates.cached_input) * tokens * one.cached_share / 1e6
                costs[row, number] = max(0.0, costs[row, number] - saved)
        return costs


class _Frame(NamedTuple):
    """Some conversations against the pool; arrays are (n, m)."""

    candidates: Candidates
    grade: Floats
    cost_usd: Floats
    input_tokens: Floats
    output_tokens: Floats
    novelty: Floats

    @classmethod
    def of(
        cls,
        routing: Routing,
        chats: Sequence[ChatRequest],
        scores: Scores,
        allowed: Sequence[str] | frozenset[str] | None,
    ) -> _Frame:
        most = [chat.max_output_tokens for chat in chats]
        other = np.array([chat.other_input_tokens() for chat in chats])[:, None]
        input_tokens = np.asarray(scores.expected_input_tokens + other, np.float64)
        limit = np.array([np.inf if one is None else one for one in most])[:, None]
        output_tokens = np.minimum(scores.expected_output_tokens, limit).astype(np.float64)
        grade = np.asarray(scores.expected_grade, np.float64)
        ids = [model.id for model in routing.models]
        cost = routing.prices.expected_cost_usd(ids, LIVE, input_tokens, output_tokens)
        candidates = Candidates.find(
            routing.models,
            input_tokens=input_tokens,
            output_tokens=np.asarray(scores.most_output_tokens, np.float64),
            max_output_tokens=most,
            abilities=[chat.abilities() for chat in chats],
            allowed_models=[None if allowed is None else sorted(allowed)] * len(chats),
            allowed_lanes=[None] * len(chats),
            expected_grade=grade,
            min_grade=[None] * len(chats),
        )
        if routing.max_usd_per_query is not None:
            cheap = cost <= float(routing.max_usd_per_query)
            candidates.allowed[:] &= cheap
        novelty = np.asarray(scores.novelty, np.float64)
        return cls(candidates, grade, cost, input_tokens, output_tokens, novelty)


def _blind(chats: Sequence[ChatRequest], models: int) -> Scores:
    """What can be said without a router: how long the prompts are. All are as novel as can be."""
    tokens = np.array([max(1.0, len(chat.text()) / 4) for chat in chats], np.float32)
    by_model = np.broadcast_to(tokens[:, None], (len(chats), models))
    half = np.full((len(chats), models), 0.5, np.float32)
    output = np.full((len(chats), models), 500, np.float32)
    return Scores(half, by_model, output, output, np.ones(len(chats), np.float32))


def _nobody(candidates: Candidates, row: int, name: str, straight: bool) -> Refusal:
    """Why no model can take a request."""
    if not straight:
        return Refusal(reason_nobody(candidates, row), code="nobody_can")
    number = [model.id for model in candidates.models].index(name)
    if not candidates.fits[row, number]:
        return Refusal(
            f"prompt and wanted output do not fit the window of {name}, "
            f"{candidates.models[number].context_window} tokens",
            code="context_length_exceeded",
            param="messages",
        )
    if not candidates.allowed[row, number]:
        return Refusal(
            f"{name}: its answer would cost more than max_usd_per_query", code="too_dear"
        )
    return Refusal(
        f"{name} has not all the abilities that this request needs; it has "
        f"{', '.join(sorted(candidates.models[number].abilities))}",
        code="unsupported_by_model",
        param="model",
    )
