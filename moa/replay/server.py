"""The server: one port, three vendors, and a control side that no vendor has.

`/openai`, `/anthropic` and `/gemini` are the vendors; what is stored for batches at Google is where
Google's client expects it. `/control/script`, `/control/ledger`, `/control/summary`,
`/control/batches`, `/control/batches_summary` and `/control/reset` are for those who started it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from typing import NamedTuple

import orjson
from aiohttp import web

from moa.catalog import Wire
from moa.errors import ConfigError
from moa.replay.anthropic_wire import AnthropicReplay
from moa.replay.batch_side import BatchSide, Found
from moa.replay.director import Director, Fate
from moa.replay.faults import FOREVER_S, answer_of, reset, trouble_of
from moa.replay.gemini_wire import GeminiReplay
from moa.replay.ledger import Ledger, Ticket
from moa.replay.limits import NO_LIMITS, LimitBook
from moa.replay.openai_wire import OpenAIReplay
from moa.replay.recordings import Recordings, invented, prompt_hash
from moa.replay.script import Script, Step, parse_script_json
from moa.replay.wire import (
    Answer,
    Asked,
    Lane,
    Levels,
    ReplayWire,
    Target,
    Trouble,
    new_request_id,
)

WIRES: dict[str, ReplayWire] = {
    "openai": OpenAIReplay(),
    "anthropic": AnthropicReplay(),
    "gemini": GeminiReplay(),
}
"""By the first part of the path."""


class _Call(NamedTuple):
    """A request that was read and may be answered."""

    wire: ReplayWire
    asked: Asked
    answer: Answer
    model: str
    prompt: int
    key: str


class ReplayHandler:
    """Answers requests. One event loop, no threads."""

    def __init__(
        self, recordings: Recordings, script: Script, *, synthetic: bool, ledger: Ledger
    ) -> None:
        self._recordings = recordings
        self._synthetic = synthetic
        self._ledger = ledger
        self._batches = BatchSide(ledger, WIRES, self._found)
        self._play(script)

    def _play(self, script: Script) -> None:
        self._script = script
        self._director = Director(script, clock=time.monotonic)
        self._batches.play(script, self._director)
        self._limits = LimitBook(script, clock=time.monotonic)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from whichever side."""
        head, _, rest = request.path.removeprefix("/").partition("/")
        if head == "control":
            return await self._control(request, rest)
        if (errand := self._batches.errand(request)) is not None:
            return await self._batches.answer(errand, request)
        wire = WIRES.get(head)
        if wire is None:
            return web.json_response(
                {"error": f"no vendor at /{head}: {', '.join(WIRES)}"}, status=404
            )
        ticket = self._ledger.begin(wire.provider, _connection_of(request))
        try:
            return await self._vendor(wire, f"/{rest}", request, ticket)
        except (asyncio.CancelledError, ConnectionError):
            ticket.end(0, "client_left")
            raise
        finally:
            ticket.end(500, "error")  # a mistake of this server's: whoever calls it gets a 500

    async def _vendor(
        self, wire: ReplayWire, path: str, request: web.BaseRequest, ticket: Ticket
    ) -> web.StreamResponse:
        request_id = new_request_id()
        call = await self._read(wire, path, request)
        if isinstance(call, Trouble):
            return _refusal(wire, call, request_id, {}, ticket)
        lane: Lane = "flex" if call.asked.service_tier == "flex" else "live"
        ticket.identify(call.model, call.prompt, call.key, lane)
        tokens = call.answer.input_tokens, call.answer.output_tokens
        query_id = self._recordings.query_id(call.prompt)
        step = self._director.scripted(wire.provider, query_id, call.prompt)
        if step is None and call.asked.service_tier == "flex":
            step = self._director.without_flex(call.model, call.prompt)
        verdict = NO_LIMITS
        if step is not None:
            fate = self._director.timed(wire.provider, call.model, call.prompt, tokens[1], step)
        else:
            verdict = self._limits.admit(
                wire.provider, call.key, call.model, call.asked.model, *tokens
            )
            if verdict.trouble is not None:
                return _refusal(wire, verdict.trouble, request_id, verdict.levels, ticket)
            fate = self._director.drawn(wire.provider, call.model, call.prompt, tokens[1])
        if fate.latency_s:
            await asyncio.sleep(fate.latency_s)
        return await _perform(call, fate, request_id, verdict.levels, request, ticket)

    async def _read(self, wire: ReplayWire, path: str, request: web.BaseRequest) -> _Call | Trouble:
        target = wire.target(path, request.query)
        if target is None or request.method != "POST":
            return Trouble(404)
        key = self._key(wire, target, request)
        if isinstance(key, Trouble):
            return key
        asked = wire.read(target, request.headers, await request.read())
        if isinstance(asked, Trouble):
            return asked
        found = self._found(wire, asked)
        if isinstance(found, Trouble):
            return found
        return _Call(wire, asked, found.answer, found.model, found.prompt, key)

    def _found(self, wire: ReplayWire, asked: Asked) -> Found | Trouble:
        """The answer to what is asked."""
        model = self._recordings.model_named(wire.provider, asked.model)
        if model is None and not self._is_synthetic:
            return wire.unknown_model(asked.model)
        prompt = prompt_hash(asked.prompt)
        answer = None if model is None else self._recordings.answer(prompt, model)
        if answer is None:
            if not self._is_synthetic:
                return Trouble(404, f"no recording of what {model} answers to this prompt")
            answer = invented(asked.prompt, prompt, asked.model)
        answer = _cut(_swollen(answer, self._script.usage_factor), asked.most_output_tokens)
        return Found(model or asked.model, prompt, self._recordings.query_id(prompt), answer)

    @property
    def _is_synthetic(self) -> bool:
        said = self._script.synthetic
        return self._synthetic if said is None else said

    def _key(self, wire: ReplayWire, target: Target, request: web.BaseRequest) -> str | Trouble:
        key = wire.key(target, request.headers, request.query)
        if isinstance(key, str) and key in self._script.refused_keys:
            return wire.refused_key(target)
        return key

    def settle(self) -> None:
        """Bring the ledger up to now: what batches have answered is billed when somebody looks."""
        self._batches.book.settle()

    async def _control(self, request: web.BaseRequest, what: str) -> web.Response:
        self.settle()
        match request.method, what:
            case "GET", "ledger":
                lines = (orjson.dumps(asdict(entry)) for entry in self._ledger.entries())
                return web.Response(body=b"\n".join(lines))
            case "GET", "summary":
                summary = self._ledger.summary(float(request.query.get("window_s", 60)))
                return web.Response(body=orjson.dumps(asdict(summary)))
            case "GET", "batches":
                lines = (orjson.dumps(asdict(entry)) for entry in self._batches.book.entries())
                return web.Response(body=b"\n".join(lines))
            case "GET", "batches_summary":
                return web.Response(body=orjson.dumps(asdict(self._batches.book.summary())))
            case "POST", "script":
                try:
                    self._play(parse_script_json(await request.read()))
                except ConfigError as error:
                    return web.Response(status=400, text=str(error))
                return web.Response()
            case "POST", "reset":
                self._ledger.clear()
                self._batches = BatchSide(self._ledger, WIRES, self._found)
                self._play(Script())
                return web.Response()
        return web.Response(status=404, text=f"{request.method} /control/{what}: no such thing")


def _refusal(
    wire: ReplayWire, trouble: Trouble, request_id: str, levels: Levels, ticket: Ticket
) -> web.Response:
    reply = wire.error(trouble, request_id)
    ticket.end(reply.status, "error")
    headers = {**wire.headers(levels, request_id), **reply.headers}
    return web.Response(
        status=reply.status, headers=headers, body=reply.body, content_type="application/json"
    )


async def _perform(
    call: _Call,
    fate: Fate,
    request_id: str,
    levels: Levels,
    request: web.BaseRequest,
    ticket: Ticket,
) -> web.StreamResponse:
    """Do what the step says with the answer."""
    wire, step = call.wire, fate.step
    if step.kind == "error" and not (step.after and call.asked.stream):
        return _refusal(wire, trouble_of(step, call.asked.model), request_id, levels, ticket)
    if step.kind in ("reset", "hang") and not step.after:
        return await _leave(step, request, ticket)
    answer = answer_of(call.answer, step)
    headers = wire.headers(levels, request_id)
    if call.asked.stream:
        pieces = _events(call, answer, step, request_id)
        headers["Content-Type"] = wire.stream_type(call.asked)
    else:
        body = wire.whole(call.asked, answer, request_id)
        headers["Content-Type"] = "application/json"
        if step.kind not in ("reset", "hang"):
            if fate.spread_s:
                await asyncio.sleep(fate.spread_s)
            body = body[: len(body) // 2] if step.kind == "cut_json" else body
            ticket.end(200, step.kind, answer.input_tokens, answer.output_tokens)
            return web.Response(headers=headers, body=body)
        headers["Content-Length"] = str(len(body))
        pieces = [body[: int(len(body) * step.after)]]
    response = web.StreamResponse(headers=headers)
    sent = 0
    try:
        await response.prepare(request)
        for piece in pieces:
            if fate.spread_s:
                await asyncio.sleep(fate.spread_s / len(pieces))
            await response.write(piece)
            sent += 1
    except (asyncio.CancelledError, ConnectionError):
        made = round(answer.output_tokens * sent / len(pieces))
        ticket.end(200, "client_left", answer.input_tokens, made)
        raise
    if step.kind in ("reset", "hang"):
        billed = round(answer.output_tokens * step.after)
        return await _leave(step, request, ticket, answer.input_tokens, billed)
    ticket.end(200, step.kind, answer.input_tokens, answer.output_tokens)
    return response


def _events(call: _Call, answer: Answer, step: Step, request_id: str) -> list[bytes]:
    """The events that a stream gets as far as."""
    events = call.wire.events(call.asked, answer, request_id)
    if step.kind == "cut_json":
        return events[: len(events) // 2]
    if step.kind not in ("error", "reset", "hang"):
        return events
    sent = events[: max(1, int(len(events) * step.after))]
    if step.kind == "error":
        sent.append(call.wire.error_event(trouble_of(step, call.asked.model), request_id))
    return sent


def _swollen(answer: Answer, factor: float) -> Answer:
    """The answer as if its tokens had been so many times as many."""
    if factor == 1:
        return answer
    tokens_in, tokens_out = (
        max(1, round(n * factor)) for n in (answer.input_tokens, answer.output_tokens)
    )
    return replace(answer, input_tokens=tokens_in, output_tokens=tokens_out)


def _cut(answer: Answer, most_output_tokens: int | None) -> Answer:
    """The answer as the limit leaves it: its share of the characters, which stand for tokens."""
    if most_output_tokens is None or answer.output_tokens <= most_output_tokens:
        return answer
    kept = len(answer.text) * most_output_tokens // answer.output_tokens
    return replace(
        answer, text=answer.text[:kept], output_tokens=most_output_tokens, finish="length"
    )


async def _leave(
    step: Step,
    request: web.BaseRequest,
    ticket: Ticket,
    input_tokens: int = 0,
    output_tokens: int = 0,
) -> web.StreamResponse:
    """Reset the connection, or say nothing more."""
    if step.kind == "hang":
        ticket.end(0, "hang", input_tokens, output_tokens)
        await asyncio.sleep(FOREVER_S)
    ticket.end(0, "reset", input_tokens, output_tokens)
    reset(request)


class _Connection(web.RequestHandler):
    """A connection with a number."""

    numbers: Iterator[int]
    ledger: Ledger
    number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.number = next(self.numbers)
        self.ledger.connected()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ledger.disconnected()
        super().connection_lost(exc)

    def log_exception(self, *args: object, **kw: object) -> None:
        """Not of a connection that broke: the script or the client wanted it so."""
        if not isinstance(kw.get("exc_info"), ConnectionError):
            super().log_exception(*args, **kw)


def _connection_of(request: web.BaseRequest) -> int:
    protocol = request.protocol
    return protocol.number if isinstance(protocol, _Connection) else 0


async def serve(handler: ReplayHandler, ledger: Ledger, port: int) -> tuple[asyncio.Server, int]:
    """Listen on localhost; the server and its port, which is a free one for port 0."""
    loop = asyncio.get_running_loop()
    web_server = web.Server(handler, handler_cancellation=True, access_log=None)
    kind = type("Connection", (_Connection,), {"numbers": count(1), "ledger": ledger})
    server = await loop.create_server(
        lambda: kind(web_server, loop=loop, access_log=None, tcp_keepalive=False),
        "127.0.0.1",
        port,
        backlog=4096,
    )
    return server, server.sockets[0].getsockname()[1]


def provider_path(wire: Wire) -> str:
    """Where a vendor is, in the form of base URL that its SDK takes."""
    return "/openai/v1" if wire == "openai" else f"/{wire}"
