"""Runs assertions on functions that live in another sandbox; says by its exit code how it went.

    python run_asserts.py NAME… < answers > requests

Each name is a function of the program; a call travels to `serve_calls.py` there, and only plain
data comes back. So nothing the program does can touch an assertion, or the exit code.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import sys

from plain_data import decode, encode  # type: ignore[import-not-found]

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than a call
if TYPE_CHECKING:
    from typing import IO, Any

TESTS = "/program/tests.py"
PASSED, FAILED, NO_TESTS, NO_CALLS = 0, 1, 3, 4
LONGEST_ANSWER = 4 << 20
ENDS_LOOPS = (StopIteration, StopAsyncIteration)


class Function:
    """Stands for a function of the program."""

    calls = 0

    def __init__(self, name: str, answers: IO[str], requests: IO[str]) -> None:
        self._name = name
        self._answers = answers
        self._requests = requests

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it; lists, dictionaries and sets among the arguments change as they did there."""
        Function.calls += 1
        nonce = os.urandom(8).hex()
        request = {
            "nonce": nonce,
            "call": self._name,
            "args": encode(list(args)),
            "kwargs": encode(kwargs),
        }
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        answer = self._answer(nonce)
        if "raises" in answer:
            raise raised(answer["raises"], str(answer.get("says", "")))
        for mine, changed in zip(args, decode(answer["args"])):  # noqa: B905  Python 3.9
            change(mine, changed)
        return decode(answer["returns"])

    def _answer(self, nonce: str) -> dict[str, Any]:
        line = self._answers.readline(LONGEST_ANSWER)
        if not line.startswith(nonce + " ") or not line.endswith("\n"):
            raise RuntimeError(f"{self._name} did not answer: its program ended, or broke the line")
        answer = json.loads(line[len(nonce) :])
        if not isinstance(answer, dict):
            raise RuntimeError(f"{self._name} answered with no object")
        return answer


def raised(kinds: list[str], says: str) -> Exception:
    """The nearest of Python's own exceptions; never one that would end this process, or a loop of
    the assertions, quietly.
    """
    for name in kinds:
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in ENDS_LOOPS:
            with contextlib.suppress(TypeError):  # some are made of more than a text
                return kind.__new__(kind, says)
    return RuntimeError(says)


def change(mine: object, changed: object) -> None:
    """Make a value that a call may have changed what it is on the other side."""
    if isinstance(mine, list) and isinstance(changed, list):
        mine[:] = changed
    elif isinstance(mine, (dict, set)) and isinstance(changed, type(mine)):
        mine.clear()
        mine.update(changed)


def main() -> int:
    """The exit code."""
    answers = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
    requests = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(TESTS, encoding="utf-8") as file:
        source = file.read()
    try:
        code = compile(source, TESTS, "exec")
    except (SyntaxError, ValueError):
        sys.excepthook(*sys.exc_info())
        return NO_TESTS
    functions = {name: Function(name, answers, requests) for name in sys.argv[1:]}
    try:
        exec(code, {"__name__": "tests", **functions})
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return FAILED
    return PASSED if Function.calls else NO_CALLS


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # At once: no thread or exit handler of a test gets to change it.
    os._exit(code)
