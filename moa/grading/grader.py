"""What every grader promises."""

from __future__ import annotations

from typing import NamedTuple, Protocol

RIGHT = 0.5
"""The least grade of an answer that counts as right, where it is right or not."""


class Grade(NamedTuple):
    """Of one completion."""

    value: float | None
    """In [0, 1]; `None`: missing, which is never wrong."""
    reason: str = ""
    """Why it is missing, in a few words; "" where there is a grade."""


class Grader(Protocol):
    """Says how good a completion is, by its query's reference."""

    @property
    def version(self) -> str:
        """Name and version of all that a grade depends on, as `maths/1 math-verify/0.9.0`."""
        ...

    def grade(self, completion: str, reference: str) -> Grade:
        """Grade one completion. Whatever is in it, no exception leaves; a reference that this
        grader cannot read is a missing grade.
        """
        ...
