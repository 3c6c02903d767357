"""Maths: the final answer of a completion against the reference, as values rather than as text.

Our own reading comes first: numbers with units, percent, money and separators, ranges, lists,
words. What it cannot read goes to `math-verify`, in a process of its own (`symbolic.py`). Of what
is read here the library (0.9.0) does not take `3 1/2` for 3.5, `2 hours` for `120 minutes`,
`1 < x \\le 2` for a reference `(1, 2]`, or `x < 1 \\text{ or } x > 3` for a union, and it
takes `1021_3` for `1021_4`.

A completion that says something but gives no answer is wrong: 0. There is no grade where the
completion is empty, the reference cannot be read, or the comparison did not end.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version

from moa.errors import ConfigError
from moa.grading.final_answer import final_answer, is_unfinished, last_line
from moa.grading.grader import Grade
from moa.grading.maths_comparison import Comparison, Undecided
from moa.grading.maths_text import plain_maths
from moa.grading.processes import IsolatedFunction
from moa.grading.quantities import number_texts, read_quantity

_LIBRARIES = ("math-verify", "latex2sympy2-extended", "sympy")
_LONGEST_ANSWER = 2000
_LIMIT_S = 15.0
_SEGMENT = re.compile(r"\$([^$]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]", re.DOTALL)
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|log|ln|exp|mod)(?![A-Za-z]))[A-Za-z]{2,}|\bI\b"
)
_SAID = re.compile(r"(?:\b(?:is|are|was|equals|total(?:s|ling)?)\b|[=:])", re.IGNORECASE)


class MathsGrader:
    """Grades 1 or 0; see the module for what is missing.

    Args:
        relative_tolerance: between numbers of which one has decimals.
        limit_s: what comparing one item may take; then its grade is missing.

    Raises:
        ConfigError: `math-verify` is not installed.
    """

    def __init__(self, *, relative_tolerance: float = 1e-6, limit_s: float = _LIMIT_S) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                "the grader `maths` needs math-verify, which is not installed: "
                "pip install 'moa-router[grade]'"
            )
        self.version = " ".join(["maths/2", *(f"{name}/{version(name)}" for name in _LIBRARIES)])
        self._isolated = IsolatedFunction("moa.grading.symbolic:compare", limit_s=limit_s)
        self._comparison = Comparison(self._symbolic, relative_tolerance)

    def grade(self, completion: str, reference: str) -> Grade:
        """1 where the answers are equal, else 0."""
        right = plain_maths((final_answer(reference) or reference).strip().lstrip("# "))
        if not right:
            return Grade(None, "the reference is empty")
        if len(right) > _LONGEST_ANSWER:
            return Grade(None, f"the reference is longer than {_LONGEST_ANSWER} characters")
        if not completion.strip():
            return Grade(None, "the completion is empty")
        if completion.strip() == reference.strip():
            return Grade(1.0)
        given = given_answer(completion, right)
        if not given or len(given) > _LONGEST_ANSWER:
            return Grade(0.0)
        try:
            return Grade(float(self._comparison.same(given, right)))
        except Undecided as undecided:
            return Grade(None, str(undecided))

    def _symbolic(self, given: str, reference: str) -> bool:
        verdict, lost = self._isolated([given, reference])
        if lost:
            raise Undecided(lost)
        if verdict not in ("equal", "different"):
            raise Undecided(str(verdict))
        return bool(verdict == "equal")


def given_answer(completion: str, reference: str) -> str | None:
    """The answer that a completion gives, in the way of writing of `plain_maths`; `None`: none.

    Where it marks none, that is in its last line; and where the reference is a number and that line
    has none, it is the last number of all.
    """
    is_number = read_quantity(reference) is not None
    marked = final_answer(completion)
    if marked is not None:
        return _out_of_sentence(marked, is_number=is_number)
    if is_unfinished(completion):
        return None
    line = last_line(completion)[-_LONGEST_ANSWER:]
    if is_number and not re.search(r"\d", line):
        numbers = number_texts(plain_maths(completion[-_LONGEST_ANSWER:]))
        if numbers:
            return numbers[-1]
    return _out_of_sentence(line, is_number=is_number)


def _out_of_sentence(text: str, *, is_number: bool) -> str | None:
    """What of a text is the answer, where words stand around it."""
    plain = plain_maths(text)
    if is_number:
        return _number_of(plain)
    segments = _SEGMENT.findall(text)
    if segments and len(_WORD.findall(_SEGMENT.sub("", text))) > 1:
        return plain_maths("".join(segments[-1]))
    return plain


def _number_of(text: str) -> str | None:
    """The number that a sentence is about: its only one, or the last after "is", "=" or ":".

    Two apples and three pears are not one number: then there is none. What is no sentence is an
    expression, and is left as it is.
    """
    if read_quantity(text) is not None:
        return text
    last = text.rpartition("=")[2].strip()
    if last != text and read_quantity(last) is not None:
        return last
    if len(_WORD.findall(text)) < 2:
        return text
    numbers = number_texts(text)
    if len(set(numbers)) == 1:
        return numbers[0]
    said = list(_SAID.finditer(text))
    after = number_texts(text[said[-1].end() :]) if said else []
    if len(after) == 1:
        return after[0]
    return None if numbers else text
