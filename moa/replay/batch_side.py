"""The batch side of all vendors: which call it is, what goes wrong with it, and who answers it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from moa.replay.anthropic_batch import AnthropicBatches
from moa.replay.batch_call import Call, Desk, Route
from moa.replay.batch_life import Row
from moa.replay.batches import BatchBook
from moa.replay.director import OK, Director, Fate
from moa.replay.faults import FOREVER_S, answer_of, reset, trouble_of
from moa.replay.gemini_batch import GeminiBatches
from moa.replay.google_storage import GoogleStorage, Objects
from moa.replay.ledger import Ledger
from moa.replay.openai_batch import OpenAIBatches
from moa.replay.recordings import prompt_hash
from moa.replay.script import Script, Step
from moa.replay.vertex_batch import VertexBatches
from moa.replay.wire import Answer, Asked, ReplayWire, Reply, Target, Trouble, new_request_id

_LOSABLE = ("upload", "submit")
_WORDS = ("batch", "/files")
"""One of them is in every path of a vendor's batch side."""


class Found(NamedTuple):
    """What a model answers to what was asked."""

    model: str
    """Catalog id; the API name of a model that was not recorded."""
    prompt: int
    query_id: str | None
    answer: Answer


class Errand(NamedTuple):
    """A call, before it is read."""

    wire: ReplayWire
    desk: Desk
    route: Route
    names: dict[str, str]
    origin: str


class BatchSide:
    """Answers all that has to do with batches.

    Args:
        ledger: gets the rows that were answered.
        wires: by the first part of the path.
        find: the answer to a request.
    """

    def __init__(
        self,
        ledger: Ledger,
        wires: Mapping[str, ReplayWire],
        find: Callable[[ReplayWire, Asked], Found | Trouble],
    ) -> None:
        script = Script()
        self._find = find
        self.book = BatchBook(ledger, script)
        gpt, claude, gemini = (wires[name] for name in ("openai", "anthropic", "gemini"))
        objects = Objects(lambda: self.book.now("gemini"))
        vertex = VertexBatches(self.book, partial(self._row, gemini), objects)
        storage = GoogleStorage(objects, vertex.write)
        self._desks: dict[str, tuple[ReplayWire, tuple[Desk, ...]]] = {
            "openai": (gpt, (OpenAIBatches(self.book, partial(self._row, gpt)),)),
            "anthropic": (claude, (AnthropicBatches(self.book, partial(self._row, claude)),)),
            "gemini": (gemini, (GeminiBatches(self.book, partial(self._row, gemini)), vertex)),
            "": (gemini, (storage,)),
        }
        self.play(script, Director(script, clock=time.monotonic))

    def play(self, script: Script, director: Director) -> None:
        """Follow another script."""
        self._script, self._director = script, director
        self.book.play(script)

    def errand(self, request: web.BaseRequest) -> Errand | None:
        """What a call wants, if it is of this side."""
        path = request.rel_url.raw_path
        head, _, rest = path[1:].partition("/")
        prefix = head if head in self._desks else ""
        if prefix and not any(word in path for word in _WORDS):
            return None  # as live calls are, most of all
        wire, desks = self._desks[prefix]
        for desk in desks:
            for route in desk.routes:
                if route.method != request.method:
                    continue
                match = route.path.fullmatch(f"/{rest}" if prefix else path)
                if match and (not route.parameter or route.parameter in request.query):
                    names = {name: unquote(text) for name, text in match.groupdict("").items()}
                    origin = f"http://{request.host}" + (f"/{prefix}" if prefix else "")
                    return Errand(wire, desk, route, names, origin)
        return None

    async def answer(self, errand: Errand, request: web.BaseRequest) -> web.StreamResponse:
        """Do it, or what the script says instead."""
        self.book.calls[f"{errand.wire.provider} {errand.route.operation}"] += 1
        fate = self._fate(errand, request.path)
        if fate.latency_s:
            await asyncio.sleep(fate.latency_s)
        step = fate.step
        if step.kind in ("reset", "hang") and not step.after:
            return await _leave(step, request)
        reply = self._done(errand, request, step, await request.content.read())
        if step.kind in ("reset", "hang") or self._is_lost(errand, reply):
            return await _leave(step, request)
        if fate.spread_s:
            await asyncio.sleep(fate.spread_s)
        body = reply.body[: len(reply.body) // 2] if step.kind == "cut_json" else reply.body
        headers = {"Content-Type": "application/json", **reply.headers}
        return web.Response(status=reply.status, headers=headers, body=body)

    def _fate(self, errand: Errand, path: str) -> Fate:
        if errand.route.faultless:
            return Fate(OK, 0.0)
        provider = errand.wire.provider
        about = f"batches {errand.route.operation}"
        step = self._director.scripted(provider, None, 0)
        if step is None:
            return self._director.drawn(provider, about, prompt_hash(path), 0)
        return self._director.timed(provider, about, prompt_hash(path), 0, step)

    def _done(self, errand: Errand, request: web.BaseRequest, step: Step, body: bytes) -> Reply:
        wire, request_id = errand.wire, new_request_id()
        reply: Reply | Trouble
        if step.kind == "error":
            reply = trouble_of(step, "")
        elif isinstance(key := self._key(errand, request), Trouble):
            reply = key
        else:
            self.book.settle()
            reply = errand.desk.answer(
                Call(
                    operation=errand.route.operation,
                    names=errand.names,
                    query=request.query,
                    headers=request.headers,
                    body=body,
                    origin=errand.origin,
                    key=key,
                )
            )
        if isinstance(reply, Trouble):
            reply = wire.error(reply, request_id)
        return reply._replace(headers={**wire.headers({}, request_id), **reply.headers})

    def _key(self, errand: Errand, request: web.BaseRequest) -> str | Trouble:
        if errand.route.keyless:
            return ""
        target = errand.desk.target(errand.names)
        key = errand.wire.key(target, request.headers, request.query)
        if isinstance(key, str) and key in self._script.refused_keys:
            return errand.wire.refused_key(target)
        return key

    def _is_lost(self, errand: Errand, reply: Reply) -> bool:
        # A piece of a file, and no more, is answered without a body.
        losable = errand.route.operation in _LOSABLE and reply.status < 300 and reply.body
        return bool(losable) and self.book.is_lost(errand.wire.provider, errand.route.operation)

    def _row(
        self,
        wire: ReplayWire,
        number: int,
        custom_id: str,
        target: Target,
        document: dict[str, Any],
        line: bytes = b"",
    ) -> Row:
        """See `moa.replay.batch_call.Rows`."""
        asked = wire.asked(target, document)
        if isinstance(asked, Trouble):
            return Row(number, custom_id, None, target.model or "", 0, asked, line)
        asked = replace(asked, stream=False, service_tier="batch")
        found = self._find(wire, asked)
        if isinstance(found, Trouble):
            prompt = prompt_hash(asked.prompt)
            return Row(number, custom_id, asked, asked.model, prompt, found, line)
        step = self._director.batched(wire.provider, found.model, found.query_id, found.prompt)
        outcome = (
            trouble_of(step, found.model) if step.kind == "error" else answer_of(found.answer, step)
        )
        return Row(number, custom_id, asked, found.model, found.prompt, outcome, line)


async def _leave(step: Step, request: web.BaseRequest) -> web.StreamResponse:
    if step.kind == "hang":
        await asyncio.sleep(FOREVER_S)
    reset(request)
