"""What a step of the script does to an answer and to a connection."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from typing import NoReturn

from aiohttp import web

from moa.replay.script import Step
from moa.replay.wire import DAY_S, Answer, Trouble

FOREVER_S = 86_400.0
"""So long nothing more comes of a call that hangs."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def answer_of(answer: Answer, step: Step) -> Answer:
    """The answer as the step leaves it."""
    if step.kind == "empty":
        return replace(answer, text="", output_tokens=0, finish="stop")
    text = answer.text if step.text is None else step.text
    match step.kind:
        case "refusal":
            return replace(answer, text=text, finish="refusal")
        case "length":
            return replace(answer, text=text, finish="length")
    return replace(answer, text=text)


def trouble_of(step: Step, model: str) -> Trouble:
    """The error that a step says."""
    wait_s = step.retry_after_s
    if wait_s is None and step.quota == "day":
        wait_s = DAY_S
    return Trouble(
        step.status,
        step.message,
        code=step.code,
        retry_after_s=wait_s,
        quota=step.quota,
        model=model,
    )


def reset(request: web.BaseRequest) -> NoReturn:
    """Reset the connection.

    Raises:
        ConnectionResetError: always.
    """
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    raise ConnectionResetError("on purpose")
