"""Facts: short answers against one or several references, dated where what is right has changed.

A reference is a text, or JSON: a list of texts of which any is right, or

    {"answers": ["Paris", {"answer": "Bonn", "from": "1949-05-23", "until": "1990-10-02"}],
     "cut_off": "1970-01-01"}

where an answer with dates is right only if the cut-off that the query names lies between them.
Without a cut-off an answer that has an end no longer counts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

from moa.grading.dates import same_date
from moa.grading.final_answer import final_answer, last_line
from moa.grading.grader import Grade
from moa.grading.maths_text import plain_maths
from moa.grading.quantities import read_quantity, same_quantity

_LONGEST_ANSWER = 4000
_TOLERANCE = 1e-6
_NUMBER_WORDS = {
    name: str(number)
    for number, name in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve"]
    )
}  # fmt: skip


class FactsGrader:
    """The best agreement with any reference: 1 for the same text, number or date, else token F1.

    Numbers and dates are right or wrong: a near one shares tokens by accident.

    Args:
        partial: whether shared words count; else every grade is 1 or 0.
    """

    def __init__(self, *, partial: bool = True) -> None:
        self._partial = partial
        self.version = "facts/2" if partial else "facts/2 whole"

    def grade(self, completion: str, reference: str) -> Grade:
        """Grade one completion: its marked answer, or else all of it, or its first or last line."""
        try:
            answers = right_answers(reference)
        except ValueError as error:
            return Grade(None, str(error))
        if not completion.strip():
            return Grade(None, "the completion is empty")
        if completion.strip() == reference.strip():
            return Grade(1.0)
        best = max(agreement(one, right) for one in _given(completion) for right in answers)
        return Grade(best if self._partial else float(best == 1.0))


def right_answers(reference: str) -> list[str]:
    """The texts that are right, as of the reference's cut-off.

    Raises:
        ValueError: there is none; the message says why, in a few words.
    """
    answers = [text for text in _valid(_read(reference)) if _tokens(text) or text.strip()]
    if not answers:
        raise ValueError("the reference has no answer that is valid at its cut-off")
    return answers


def agreement(given: str, right: str) -> float:
    """How far one answer agrees with one reference, in [0, 1]."""
    if given.strip().casefold() == right.strip().casefold():
        return 1.0
    wanted, said = read_quantity(plain_maths(right)), read_quantity(plain_maths(given))
    if wanted is not None and said is not None:  # first, as tokens have no signs
        same = same_quantity(said, wanted, relative_tolerance=_TOLERANCE)
        return float(same and not (said.unit is wanted.unit is None and _of_others(given, right)))
    if _tokens(right) and _tokens(given) == _tokens(right):
        return 1.0
    by_date = same_date(given, right)
    if by_date is not None:
        return float(by_date)
    if wanted is not None:
        return 0.0
    return token_f1(_tokens(given), _tokens(right))


def _of_others(given: str, right: str) -> bool:
    """Whether both say of what there is a number, and no word is shared: `12 Monkeys` is not
    `12 Angry Men`.
    """
    one, other = ({word for word in _tokens(text) if word.isalpha()} for text in (given, right))
    return bool(one and other and not one & other)


def token_f1(given: list[str], right: list[str]) -> float:
    """Harmonic mean of precision and recall of the words.

    Source: Rajpurkar et al., SQuAD, arXiv:1606.05250.
    """
    shared = sum((Counter(given) & Counter(right)).values())
    return 2 * shared / (len(given) + len(right)) if shared else 0.0


def _given(completion: str) -> list[str]:
    marked = final_answer(completion)
    if marked is not None:
        return [marked[:_LONGEST_ANSWER]]
    text = completion.strip()
    return [text[:_LONGEST_ANSWER], text.split("\n", 1)[0][:_LONGEST_ANSWER], last_line(text)]


def _tokens(text: str) -> list[str]:
    """Words in lower case, without signs (but `C++`), accents and articles; small numbers as
    digits.
    """
    text = unicodedata.normalize("NFKD", text[:_LONGEST_ANSWER]).casefold()
    text = "".join(one for one in text if not unicodedata.combining(one))
    words = re.findall(r"(?:(?<!\w)-(?=\d))?\w+(?:[.,]\d+)*(?:[+#]+(?!\w))?", text.replace("'", ""))
    return [_NUMBER_WORDS.get(word, word) for word in words if word not in ("a", "an", "the")]


def _read(reference: str) -> dict[str, Any]:
    """A reference as JSON with `answers`, whichever of its forms it has."""
    text = reference.strip()
    if not text:
        raise ValueError("the reference is empty")
    if text[0] not in "[{":
        return {"answers": [text]}
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {"answers": [text]}
    if isinstance(read, list):
        return {"answers": read}
    if isinstance(read.get("answers"), list):
        return dict(read)
    raise ValueError("the reference is JSON without a list of `answers`")


def _valid(reference: dict[str, Any]) -> Iterator[str]:
    cut_off = _day(reference.get("cut_off"))
    for answer in reference["answers"]:
        if not isinstance(answer, dict):
            yield _text(answer)
            continue
        begin, end = _day(answer.get("from")), _day(answer.get("until"))
        day = cut_off or date.max
        if (begin or date.min) <= day <= (end or date.max):
            yield _text(answer.get("answer"))


def _text(answer: object) -> str:
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        return str(answer)
    raise ValueError("an answer of the reference is neither a text nor a number")


def _day(value: object) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ValueError("a date of the reference is not written as 2021-03-05") from None
