"""Exact match: the final answer is the reference, as a literal of Python or JSON, or as text."""

from __future__ import annotations

import ast
import json
import math
import warnings

from moa.grading.final_answer import final_answer
from moa.grading.grader import Grade

_LONGEST_LITERAL = 20_000


class ExactGrader:
    """1 where a completion gives the reference exactly, else 0.

    Literals are compared as values: `[1,2]` is `[1, 2]`, `"a"` is `'a'`, but `1` is neither `"1"`
    nor `True`, and a list is no tuple. Quotes around a string may be missing; case and inner spaces
    count.
    """

    version = "exact/2"

    def grade(self, completion: str, reference: str) -> Grade:
        """Grade one completion; without a marked answer all of it is the answer."""
        if not reference.strip():
            return Grade(None, "the reference is empty")
        if not completion.strip():
            return Grade(None, "the completion is empty")
        given = final_answer(completion)
        return Grade(float(is_exactly(completion if given is None else given, reference)))


def is_exactly(given: str, reference: str) -> bool:
    """Whether two answers are the same literal, or else the same text but for space around it."""
    right = literal(_unfenced(reference))
    if right is not None and isinstance(right[0], str):
        return _is_string(given, right[0])
    left = literal(_unfenced(given))
    if left is not None and right is not None:
        return repr_of(left[0]) == repr_of(right[0])
    text = left[0] if left is not None and isinstance(left[0], str) else _unfenced(given)
    return text == _unfenced(reference)


def _is_string(given: str, right: str) -> bool:
    """Whether an answer is a string: quoted, or with its quotes forgotten or broken."""
    bare = _unfenced(given)
    if right in (given, bare):
        return True
    read = literal(bare)
    if read is not None and isinstance(read[0], str):
        return read[0] == right
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
        return bare[1:-1] == right
    if any(quote in bare for quote in "'\""):
        return False  # in quotes of ours it would be another literal
    return any(literal(f"'{text}'") == (right,) for text in (given, bare))


def literal(text: str) -> tuple[object] | None:
    """The value of a literal of Python or JSON, in a tuple; `None`: the text is none."""
    if len(text) > _LONGEST_LITERAL:
        return None
    for read in (_python_literal, json.loads):
        try:
            return (read(text),)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _python_literal(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "invalid escape sequence" is not ours to mend
        return ast.literal_eval(text)


def repr_of(value: object) -> str:
    """A text that is equal for equal values of equal types; dicts and sets in any order."""
    if isinstance(value, dict):
        pairs = sorted(f"{repr_of(key)}: {repr_of(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, set):
        return "{" + ", ".join(sorted(map(repr_of, value))) + "}"
    if isinstance(value, list | tuple):
        return type(value).__name__ + "(" + ", ".join(map(repr_of, value)) + ")"
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return f"{value:.1f}"
    return repr(value)


def _unfenced(text: str) -> str:
    """Without the fence or the backticks that Markdown puts around code."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        return text[3:-3].partition("\n")[2].strip() or text[3:-3].strip()
    return text.strip("`").strip() if text.startswith("`") else text
