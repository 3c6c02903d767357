"""A grader of one's own: a function of a module that Python finds, in a process of its own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from moa.errors import ConfigError
from moa.grading.grader import Grade
from moa.grading.processes import IsolatedFunction

_LIMIT_S = 10.0
_IMPORT_S = 120.0


class OwnGrader:
    """Grades by `MODULE:FUNCTION`, which takes a completion and a reference (`""`: there is none)
    and returns a number in [0, 1], or `None` where it cannot tell.

    Its version is the hash of the module's file: another text, other grades.
    """

    def __init__(self, function: str, *, limit_s: float = _LIMIT_S) -> None:
        """Find the function; it is imported where it runs, once on trial: a night whose every grade
        is missing would replace the one that was there.

        Args:
            function: `MODULE:FUNCTION`.
            limit_s: what grading one completion may take.

        Raises:
            ConfigError: there is no such module, or it has no such function.
        """
        module, _, name = function.partition(":")
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None or found.origin is None or not name:
            raise ConfigError(
                f"grader {function!r}: there is no module {module!r}; name one of the project's "
                "graders, or MODULE:FUNCTION with the module's folder in PYTHONPATH"
            )
        trial = IsolatedFunction("moa.grading.own:is_function", limit_s=_IMPORT_S, knows_all=True)
        reply = trial(function)
        trial.close()
        if not reply.value:
            raise ConfigError(
                f"grader {function!r} cannot be used: {reply.lost or 'it is no function'}"
            )
        text = Path(found.origin).read_bytes()
        self._version = f"{function}/{hashlib.sha256(text).hexdigest()[:12]}"
        self._function = function
        self._call = IsolatedFunction("moa.grading.own:graded", limit_s=limit_s, knows_all=True)

    @property
    def version(self) -> str:
        """Name and hash."""
        return self._version

    def grade(self, completion: str, reference: str) -> Grade:
        """Missing too where the function fails, hangs or ends its process."""
        reply = self._call([self._function, completion, reference])
        if reply.lost:
            return Grade(None, reply.lost)
        if reply.value is None:
            return Grade(None, "the grader cannot tell")
        if not isinstance(reply.value, int | float) or not 0 <= reply.value <= 1:
            return Grade(None, f"{reply.value!r:.40} is no grade in [0, 1]")
        return Grade(float(reply.value))


def is_function(function: str) -> bool:
    """On the other side: import it."""
    module, _, name = function.partition(":")
    return callable(getattr(importlib.import_module(module), name))


def graded(asked: list[str]) -> Any:  # noqa: ANN401 - whatever the user's function returns
    """The other side: call the function that is asked for."""
    function, completion, reference = asked
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(completion, reference)
