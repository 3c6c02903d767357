"""One request from its tenant to its bill. Knows no HTTP framework and no Ray."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import structlog
from opentelemetry.context import Context

from moa.errors import MoaError, ProviderError
from moa.providers.provider import Completion, Usage
from moa.request import ChatRequest, Message
from moa.serving import spans
from moa.serving.calls import Caller, Order
from moa.serving.chat_wire import Asked, message_document
from moa.serving.conversations import Begun, ConversationOwner, Conversations
from moa.serving.course import Course
from moa.serving.ids import SEVERAL, CompletionId, Ids
from moa.serving.inquiry import Inquiry, Piece
from moa.serving.keeping import Keeper
from moa.serving.merging import merged
from moa.serving.metrics import Meters
from moa.serving.refusals import refusal_of
from moa.serving.routing import LIVE, Route, Routing, Scored, Scorer, Sticky
from moa.serving.setup import Setup
from moa.serving.tenant_lease import TenantLease
from moa.serving.tenant_limits import Need
from moa.serving.tenants import Tenant

A_REQUEST = Need(1, 0.0, Decimal(0))
"""What is counted of one before the router, or anything else, works for it."""

log = structlog.get_logger()


class Endpoint:
    """All that one process of the endpoint needs. Open inside an event loop; close in `finally`."""

    def __init__(
        self,
        setup: Setup,
        scorer: Scorer,
        caller: Caller,
        limits: TenantLease,
        keeper: Keeper,
        meters: Meters,
        conversations: ConversationOwner | None = None,
    ) -> None:
        """With an owner, conversations are known that other processes have answered."""
        self.setup = setup
        self.scorer = scorer
        self.routing: Routing = setup.routing()
        self.caller = caller
        self.keeper = keeper
        self.meters = meters
        self.ids = Ids(setup.secret)
        self._limits = limits
        self._provider_names = spans.provider_names(setup.accounts)
        self._conversations = Conversations(setup.config.stickiness.conversations, conversations)

    async def close(self) -> None:
        """Close the connections, and write what is held."""
        await self.caller.close()
        await self._limits.close()
        await self._conversations.close()
        await self.keeper.close()

    async def count(self, tenant: Tenant) -> None:
        """Let in a request that asks no model.

        Raises:
            Refusal: the tenant has no room for it.
        """
        await self._limits.take(tenant, A_REQUEST)

    async def decide(self, tenant: Tenant, model: str, chats: Sequence[ChatRequest]) -> list[Route]:
        """Who would be asked, for each of some conversations.

        Raises:
            Refusal: the model, the tenant or its limits, or nobody can.
        """
        self.routing.check_name(model, tenant.models)
        await self._limits.take(tenant, A_REQUEST._replace(requests=len(chats)))
        sticky = await self._sticky(tenant, chats)
        scored = await self._scored(chats)
        return self.routing.routes(model, chats, scored, allowed=tenant.models, sticky=sticky)

    async def begin(self, tenant: Tenant, asked: Asked, trace: Context | None = None) -> Inquiry:
        """Let a request in: it has a route, and its tenant has room for it.

        Args:
            tenant: whose it is.
            asked: what.
            trace: the client's, of `spans.parent_of`.

        Raises:
            Refusal: as `decide`.
        """
        started_at = time.monotonic()
        self.routing.check_name(asked.model, tenant.models)
        await self._limits.take(tenant, A_REQUEST)
        sticky = await self._sticky(tenant, [asked.chat])
        scored = await self._scored([asked.chat])
        (route,) = self.routing.routes(
            asked.model, [asked.chat], scored, allowed=tenant.models, sticky=sticky
        )
        self.meters.router_s.add(time.monotonic() - started_at, {})
        self.meters.novelty.add(route.novelty, {})
        self.meters.decisions.add(1, {"model": route.model.id, "rule": route.rule})
        tokens = asked.n * (route.input_tokens + route.output_tokens)
        needed = Need(0, tokens, asked.n * route.reserved_usd)
        taken = await self._limits.take(tenant, needed)
        inquiry = Inquiry(
            tenant=tenant,
            asked=asked,
            route=route,
            query_id=self.ids.new_query(),
            taken=taken,
            courses=[Course() for _ in range(asked.n)],
            started_at=started_at,
            trace=trace,
        )
        self._gauge()
        if self.keeper.keeps_queries:
            self.keeper.query(inquiry.query_id, tenant.name, asked.chat)
        return inquiry

    async def whole(self, inquiry: Inquiry) -> list[Completion]:
        """The answers, when all of them are there.

        Raises:
            Refusal: in place of the error of the last model that was asked.
        """
        async with aclosing(self.pieces(inquiry)) as pieces:
            async for _ in pieces:
                pass
        return [inquiry.completions[index] for index in range(inquiry.asked.n)]

    async def pieces(self, inquiry: Inquiry) -> AsyncGenerator[Piece, None]:
        """The answers as they come. Closing it ends the calls; either way the bill is made.

        Raises:
            Refusal: as `whole`.
        """
        failed = ""
        try:
            async with aclosing(self._pieces(inquiry)) as pieces:
                async for piece in pieces:
                    if inquiry.first_piece_s is None:
                        inquiry.first_piece_s = time.monotonic() - inquiry.started_at
                        self._gauge()
                    if piece.delta.completion is not None:
                        inquiry.completions[piece.number] = piece.delta.completion
                    yield piece
        except ProviderError as error:
            failed = type(error).__name__
            log.warning(
                "request.failed", error=failed, code=error.code, status=error.status,
                model=inquiry.model, query_id=inquiry.query_id,
            )  # fmt: skip
            raise refusal_of(error) from None
        finally:
            self._settle(inquiry, failed)

    async def _pieces(self, inquiry: Inquiry) -> AsyncGenerator[Piece, None]:
        answers = [
            self.caller.answer(self._order(inquiry, index), course)
            for index, course in enumerate(inquiry.courses)
        ]
        if len(answers) == 1:
            async with aclosing(answers[0]) as deltas:
                async for delta in deltas:
                    yield Piece(0, delta)
            return
        async with aclosing(merged(answers)) as numbered:
            async for index, delta in numbered:
                yield Piece(index, delta)

    def _order(self, inquiry: Inquiry, index: int) -> Order:
        asked = inquiry.asked
        query_id = f"{inquiry.query_id}.{index}"
        return Order(query_id, asked.chat, inquiry.route.choices, asked.stream)

    async def _scored(self, chats: Sequence[ChatRequest]) -> Scored | None:
        """`None` when the router is out: then the default model is asked, rather than nobody."""
        try:
            return await self.scorer.score([chat.text() for chat in chats])
        except MoaError as error:
            log.error("router.out", error=type(error).__name__)
            return None

    async def _sticky(
        self, tenant: Tenant, chats: Sequence[ChatRequest]
    ) -> list[Sticky | None] | None:
        """The models that began these conversations; `None`: nothing is known of any."""
        if self.setup.config.stickiness.mode == "off":
            return None
        begun = await self._conversations.begun(tenant.name, [chat.messages for chat in chats])
        if not any(begun):
            return None
        return [
            None if one is None else self._stuck(one, chat)
            for one, chat in zip(begun, chats, strict=True)
        ]

    def _stuck(self, begun: Begun, chat: ChatRequest) -> Sticky:
        warm = self._conversations.age_s(begun) <= self.setup.config.stickiness.warm_s
        chars = sum(len(message.text) for message in chat.messages)
        return Sticky(begun.model, min(1.0, begun.chars / max(1, chars)) if warm else 0.0)

    def cost_usd(self, inquiry: Inquiry) -> Decimal:
        """What the answers have cost."""
        each = (self._answer_usd(inquiry, index) for index in inquiry.completions)
        return sum(each, Decimal(0))

    def _answer_usd(self, inquiry: Inquiry, index: int) -> Decimal:
        usage = inquiry.completions[index].usage
        return self.setup.prices.cost_usd(
            inquiry.model_of(index).id,
            LIVE,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )

    def lost_usd(self, inquiry: Inquiry) -> Decimal:
        """About what calls have cost that ended without an answer, or were cut by the client."""
        input_tokens = round(inquiry.route.input_tokens)
        each = (
            self.setup.prices.cost_usd(
                model, LIVE, input_tokens=input_tokens, output_tokens=output_tokens
            )
            for model, output_tokens in inquiry.lost
        )
        return sum(each, Decimal(0))

    def completion_id(self, inquiry: Inquiry) -> str:
        """Without prefix; of the models that are known by now."""
        made = CompletionId(inquiry.query_id, _names(inquiry))
        return self.ids.sign(made, inquiry.tenant.name)

    def explanation(self, inquiry: Inquiry) -> dict[str, Any]:
        """Who answered, and why."""
        route, model = inquiry.route, inquiry.model
        return {
            "model": model,
            "models": inquiry.models,
            "first_model": route.model.id,
            "rule": route.rule,
            "expected_grade": route.expected_grade[model],
            "expected_cost_usd": round(route.expected_cost_usd[model], 9),
            "cost_usd": float(self.cost_usd(inquiry)) if inquiry.completions else None,
            "lost_usd": float(self.lost_usd(inquiry)),
            "novelty": route.novelty,
            "calls": sum(course.calls for course in inquiry.courses),
            "failures": [line for course in inquiry.courses for line in course.failures],
            "price_date": self.setup.prices.as_of.isoformat(),
            "price_version": self.setup.prices.version,
            "router_version": route.router_version or None,
        }

    def headers(self, inquiry: Inquiry) -> dict[str, str]:
        """The same in short; the cost when it is known."""
        route, model = inquiry.route, inquiry.model
        headers = {
            "x-moa-request-id": inquiry.query_id,
            "x-moa-model": _names(inquiry),
            "x-moa-first-model": route.model.id,
            "x-moa-rule": route.rule,
            "x-moa-expected-grade": f"{route.expected_grade[model]:.4f}",
            "x-moa-expected-cost-usd": f"{route.expected_cost_usd[model]:.9f}",
            "x-moa-price-date": self.setup.prices.as_of.isoformat(),
            "x-moa-router-version": route.router_version or "none",
        }
        if len(inquiry.completions) == inquiry.asked.n:
            headers["x-moa-cost-usd"] = f"{self.cost_usd(inquiry):.9f}"
        return headers

    def _settle(self, inquiry: Inquiry, failed: str) -> None:
        """Tenant's bill, meters, logs and the conversation; once, however the request ended."""
        inquiry.settled = True
        for index, course in enumerate(inquiry.courses):
            if course.completion is not None:  # it is billed, though perhaps nobody has taken it
                inquiry.completions[index] = course.completion
        cost_usd, lost_usd, usage = self.cost_usd(inquiry), self.lost_usd(inquiry), inquiry.usage
        tokens = usage.input_tokens + usage.output_tokens
        tokens += sum(round(inquiry.route.input_tokens) + output for _, output in inquiry.lost)
        used = Need(0, float(tokens), cost_usd + lost_usd)
        self._limits.settle(inquiry.tenant, inquiry.taken, used)
        self._measure(inquiry, failed, cost_usd + lost_usd, usage)
        for index in inquiry.completions:
            self._remember(inquiry, index)
        if self.keeper.keeps_queries:
            for index, completion in inquiry.completions.items():
                self.keeper.answer(
                    inquiry.query_id,
                    completion,
                    self._answer_usd(inquiry, index),
                    tenant=inquiry.tenant.name,
                    model=inquiry.model_of(index).id,
                    first_model=inquiry.route.model.id,
                    rule=inquiry.route.rule,
                )

    def _measure(self, inquiry: Inquiry, failed: str, cost_usd: Decimal, usage: Usage) -> None:
        meters, model = self.meters, inquiry.model
        total_s = time.monotonic() - inquiry.started_at
        by_model = {"tenant": inquiry.tenant.name, "model": model}
        meters.cost_usd.add(float(cost_usd), by_model)
        meters.tokens.add(usage.input_tokens, {**by_model, "kind": "input"})
        meters.tokens.add(usage.output_tokens, {**by_model, "kind": "output"})
        meters.total_s.add(total_s, {"model": model})
        if inquiry.first_piece_s is not None:
            meters.first_piece_s.add(inquiry.first_piece_s, {"model": model})
        for course in inquiry.courses:
            meters.wait_s.add(course.waited_s, {"model": model})
            for line in course.failures:
                given_up, error, *_ = line.split(" ")
                meters.fallbacks.add(1, {"model": given_up, "error": error})
        if not failed and len(inquiry.completions) < inquiry.asked.n:
            meters.left.add(1, {"model": model})
        self._gauge()
        served = spans.Served(
            asked_model=inquiry.asked.model,
            model=model,
            rule=inquiry.route.rule,
            tenant=inquiry.tenant.name,
            seconds=total_s,
            cost_usd=float(cost_usd),
            stream=inquiry.asked.stream,
            failed=failed,
        )
        calls = [call for course in inquiry.courses for call in course.sent]
        spans.record(served, calls, self._provider_names, inquiry.trace, time.monotonic())

    def _gauge(self) -> None:
        """Queues as they are; told when a request comes, when it is answered and when it goes."""
        for name, waiting in self.caller.waiting().items():
            self.meters.waiting.add(waiting, {"model": name})
        self.meters.in_flight.add(self.caller.in_flight(), {})

    def _remember(self, inquiry: Inquiry, index: int) -> None:
        completion = inquiry.completions[index]
        if self.setup.config.stickiness.mode == "off" or completion.refused:
            return
        turn = Message.model_validate(message_document(completion))
        messages = inquiry.asked.chat.messages
        model = inquiry.model_of(index).id
        self._conversations.remember(inquiry.tenant.name, messages, turn, model)


def _names(inquiry: Inquiry) -> str:
    """Of all who answer, each once."""
    return SEVERAL.join(dict.fromkeys(inquiry.models))
