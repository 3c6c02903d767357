"""The endpoint over HTTP: an ASGI app. Requests are read by hand, so that sizes can be bounded and
a client that hangs up is noticed, and FastAPI gives routes and the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from moa.errors import MoaError, Refusal
from moa.serving import spans
from moa.serving.chat_wire import (
    Asked,
    ChatStream,
    error_document,
    read_chat,
    read_conversation,
    read_object,
    whole_answer,
)
from moa.serving.endpoint import Endpoint
from moa.serving.feedback import read_feedback
from moa.serving.http_streams import (
    EventStream,
    chat_events,
    event_stream,
    read_body,
    response_events,
    too_long,
    unless_left,
)
from moa.serving.ids import SEVERAL
from moa.serving.inquiry import Inquiry, Piece
from moa.serving.openapi import DESCRIPTION, extra
from moa.serving.response_frames import ResponseFrame
from moa.serving.responses_wire import read_response
from moa.serving.scoring import PROBE
from moa.serving.tenants import Tenant, Tenants

CLIENT_LEFT = 499
HEALTH = "/healthz"

log = structlog.get_logger()


class JSON(Response):
    """A JSON document."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - Starlette's own
        """See `Response.render`."""
        return orjson.dumps(content)


def refused(refusal: Refusal) -> JSON:
    """An error of OpenAI's kind."""
    headers = {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSON(error_document(refusal), status_code=refusal.status, headers=headers)


Handler = Callable[[Request], Awaitable[Response]]


class Http:
    """The routes' other side.

    Args:
        endpoint: asked for at each request, so that it can be replaced.
        tenants: likewise.
    """

    def __init__(self, endpoint: Callable[[], Endpoint], tenants: Callable[[], Tenants]) -> None:
        self._endpoint = endpoint
        self._tenants = tenants
        self.ongoing = 0
        """Requests under way, streams included."""

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        tenant, body = await self._let_in(request)
        endpoint = self._endpoint()
        asked = read_chat(body, endpoint.setup.config.http)
        created = int(time.time())
        inquiry, pieces, first = await self._start(request, endpoint, tenant, asked)
        completion_id = f"chatcmpl-{endpoint.completion_id(inquiry)}"
        headers = endpoint.headers(inquiry)
        if asked.stream:
            stream = ChatStream(completion_id, created, inquiry.models, asked.include_usage)
            events = chat_events(endpoint, inquiry, stream, pieces, first)
            return event_stream(events, headers, endpoint.setup.config.calls.total_s)
        completions = [inquiry.completions[n] for n in range(asked.n)]
        answer = whole_answer(completion_id, created, inquiry.model, completions, inquiry.usage)
        if asked.explain:
            answer["moa"] = endpoint.explanation(inquiry)
        return JSON(answer, headers=headers)

    async def responses(self, request: Request) -> Response:
        """`POST /v1/responses`."""
        tenant, body = await self._let_in(request)
        endpoint = self._endpoint()
        asked = read_response(body, endpoint.setup.config.http)
        created = int(time.time())
        inquiry, pieces, first = await self._start(request, endpoint, tenant, asked)
        frame = ResponseFrame(
            f"resp_{endpoint.completion_id(inquiry)}", created, inquiry.model, asked
        )
        headers = endpoint.headers(inquiry)
        if asked.stream:
            events = response_events(endpoint, inquiry, frame, pieces, first)
            return event_stream(events, headers, endpoint.setup.config.calls.total_s)
        moa = endpoint.explanation(inquiry) if asked.explain else None
        return JSON(frame.whole(inquiry.completions[0], inquiry.usage, moa), headers=headers)

    async def route(self, request: Request) -> Response:
        """`POST /v1/route`."""
        tenant, body = await self._let_in(request)
        endpoint = self._endpoint()
        limits = endpoint.setup.config.http
        document = read_object(body)
        model = document.pop("model", "moa")
        listed = document.pop("queries", None)
        if not isinstance(model, str):
            raise Refusal("model: should be text", param="model")
        if listed is not None and document:
            raise Refusal("queries and a single one are both given: give one", param="queries")
        queries = [document] if listed is None else listed
        if not isinstance(queries, list) or not 1 <= len(queries) <= limits.max_listed:
            raise Refusal(f"queries: should be a list of 1 to {limits.max_listed}", param="queries")
        if not all(isinstance(one, dict) for one in queries):
            raise Refusal("queries: each should be an object with messages", param="queries")
        chats = [read_conversation(one, limits) for one in queries]
        routes = await endpoint.decide(tenant, model, chats)
        data = [
            {
                "index": index,
                "model": one.model.id,
                "rule": one.rule,
                "fallbacks": [choice.model.id for choice in one.choices[1:]],
                "expected_grade": one.expected_grade,
                "expected_cost_usd": one.expected_cost_usd,
                "expected_input_tokens": round(one.input_tokens, 1),
                "expected_output_tokens": round(one.output_tokens, 1),
                "novelty": one.novelty,
            }
            for index, one in enumerate(routes)
        ]
        about = {
            "price_date": endpoint.setup.prices.as_of.isoformat(),
            "price_version": endpoint.setup.prices.version,
            "router_version": routes[0].router_version or None,
        }
        return JSON({"object": "list", "data": data, **about})

    async def feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`."""
        tenant, body = await self._let_in(request)
        endpoint = self._endpoint()
        if not endpoint.keeper.takes_feedback:
            raise Refusal(
                "this endpoint takes no feedback (feedback.folder)", status=404, code="no_feedback"
            )
        said = read_feedback(read_object(body))
        await endpoint.count(tenant)
        found = endpoint.ids.read(said.completion_id, tenant.name)
        if found is None:
            raise Refusal(
                "there is no such completion of this key's",
                status=404,
                param="completion_id",
                code="completion_not_found",
            )
        if SEVERAL in found.model:
            raise Refusal(
                f"its answers are of several models, {found.model}: grade what was asked for alone",
                param="completion_id",
                code="several_models",
            )
        grader = f"{said.grader or 'feedback'} ({tenant.name})"
        await endpoint.keeper.grade(found.query_id, found.model, said.value, grader)
        return JSON(
            {
                "object": "feedback",
                "completion_id": said.completion_id,
                "model": found.model,
                "grade": said.value,
            }
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        tenant = self._tenants().of(request.headers.get("authorization"))
        names = [n for n in self._endpoint().routing.names() if _may(tenant, n)]
        return JSON({"object": "list", "data": [_model_document(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        tenant = self._tenants().of(request.headers.get("authorization"))
        name = str(request.path_params["name"])
        self._endpoint().routing.check_name(name, tenant.models)
        return JSON(_model_document(name))

    async def health(self, request: Request) -> Response:
        """`GET /healthz`: the router works."""
        try:
            scored = await self._endpoint().scorer.score(PROBE)
        except MoaError:
            raise Refusal(
                "the router is out", status=503, kind="api_error", code="router_out"
            ) from None
        return JSON({"status": "ok", "router_version": scored.version})

    def counted(self, handler: Handler, path: str) -> Handler:
        """A handler whose errors are answers, whose answers are counted, and that is not begun when
        too many are under way; but one that is busy is healthy.
        """
        limited = path != HEALTH

        async def handle(request: Request) -> Response:
            endpoint = self._endpoint()
            self.ongoing += 1
            try:
                if limited and self.ongoing > endpoint.setup.config.serve.max_ongoing:
                    raise _full()
                response = await handler(request)
            except Refusal as refusal:
                response = refused(refusal)
            except ClientDisconnect:
                response = Response(status_code=CLIENT_LEFT)
            except Exception as error:  # a bug: the client gets a document, the log the place
                log.exception("request.broke", path=path, error=type(error).__name__)
                response = refused(
                    Refusal("a mistake of the endpoint's", status=500, kind="api_error", code="bug")
                )
            finally:
                self.ongoing -= 1
            if isinstance(response, EventStream):
                self.ongoing += 1
                response.on_end = self._ended
            labels = {"path": path, "status": str(response.status_code)}
            endpoint.meters.requests.add(1, labels)
            return response

        return handle

    def _ended(self) -> None:
        self.ongoing -= 1

    async def _let_in(self, request: Request) -> tuple[Tenant, bytes]:
        """Whose request it is, and its body; the key is looked at before the body is read."""
        tenant = self._tenants().of(request.headers.get("authorization"))
        return tenant, await read_body(request, self._endpoint().setup.config.http.max_body_bytes)

    async def _start(
        self, request: Request, endpoint: Endpoint, tenant: Tenant, asked: Asked
    ) -> tuple[Inquiry, AsyncGenerator[Piece, None], list[Piece]]:
        """Up to the first pieces of a stream, or to the end of what is none: as long as nothing was
        sent, an error has its own status.
        """

        async def start() -> tuple[Inquiry, AsyncGenerator[Piece, None], list[Piece]]:
            trace = spans.parent_of(request.headers)
            inquiry = await endpoint.begin(tenant, asked, trace)
            if not asked.stream:
                await endpoint.whole(inquiry)
                return inquiry, _nothing(), []
            pieces = endpoint.pieces(inquiry)
            try:
                return inquiry, pieces, await _beginnings(pieces, asked.n)
            except BaseException:
                await pieces.aclose()
                raise

        total_s = endpoint.setup.config.calls.total_s
        try:
            async with asyncio.timeout(total_s):
                return await unless_left(request.receive, start())
        except TimeoutError:
            raise too_long(total_s) from None


def _full() -> Refusal:
    return Refusal(
        "too many requests are under way",
        status=503,
        kind="api_error",
        code="busy",
        retry_after_s=1.0,
    )


async def _beginnings(pieces: AsyncGenerator[Piece, None], answers: int) -> list[Piece]:
    """Until each answer has begun: only then it is known who gives them."""
    first: list[Piece] = []
    while len({piece.number for piece in first}) < answers:
        first.append(await anext(pieces))
    return first


async def _nothing() -> AsyncGenerator[Piece, None]:
    return
    yield


def _may(tenant: Tenant, name: str) -> bool:
    return tenant.models is None or "/" not in name or name in tenant.models


def _model_document(name: str) -> dict[str, Any]:
    account, slash, _ = name.partition("/")
    return {
        "id": name, "object": "model", "created": 0, "owned_by": account if slash else "moa"
    }  # fmt: skip


def make_app(endpoint: Callable[[], Endpoint], tenants: Callable[[], Tenants]) -> FastAPI:
    """The ASGI app."""
    http = Http(endpoint, tenants)
    app = FastAPI(
        title="MoA router", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    routes: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", http.chat),
        ("POST", "/v1/responses", http.responses),
        ("POST", "/v1/route", http.route),
        ("POST", "/v1/feedback", http.feedback),
        ("GET", "/v1/models", http.models),
        ("GET", "/v1/models/{name:path}", http.model),
        ("GET", HEALTH, http.health),
    ]
    for method, path, handler in routes:
        app.add_api_route(
            path,
            http.counted(handler, path),
            methods=[method],
            response_class=Response,
            response_model=None,
            openapi_extra=extra(method, path),
            name=path,
        )
    app.add_exception_handler(HTTPException, _http_error)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is no such path", 405: "this path takes another method"}
    response = refused(
        Refusal(words.get(status, "not understood"), status=status, code=f"http_{status}")
    )
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
