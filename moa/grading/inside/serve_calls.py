"""Answers calls of a program's functions: a line of JSON in, a line out, until there are no more.

    python serve_calls.py < requests > answers

It shares its process with the program, which may do to it what it likes: all that comes from here
is taken for the program's own word. What the program prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import types

from plain_data import decode, encode  # type: ignore[import-not-found]

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than a call
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROGRAM = "/program/program.py"


def main() -> None:
    """Load the program and serve; one that does not load answers nothing."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    program = load()
    for line in requests:
        request = json.loads(line)
        answer = answer_to(program, request)
        answers.write(request["nonce"] + " " + json.dumps(answer) + "\n")
        answers.flush()


def load() -> types.ModuleType:
    """The program as a module, so that what it keeps for `__main__` does not run."""
    program = types.ModuleType("program")
    sys.modules["program"] = program
    with open(PROGRAM, encoding="utf-8") as file:
        code = compile(file.read(), PROGRAM, "exec")
    exec(code, vars(program))
    return program


def answer_to(program: types.ModuleType, request: dict[str, Any]) -> dict[str, Any]:
    """What a call returns and what it left of its arguments, or what it raises."""
    try:
        positional, named = decode(request["args"]), decode(request["kwargs"])
        returned = found(program, request["call"])(*positional, **named)
        return {"returns": encode(returned), "args": encode(positional)}
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"raises": kinds, "says": str(error)[:1000]}


def found(program: types.ModuleType, name: str) -> Callable[..., object]:
    """A function by its name; `Class.method` is called on an object of its own."""
    place: object = program
    for part in name.split("."):
        place = getattr(place() if isinstance(place, type) else place, part)
    if not callable(place):
        raise TypeError(f"{name} is no function")
    return place


if __name__ == "__main__":
    main()
