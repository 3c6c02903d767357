"""Multiple choice: the letter or number of the options that a completion picks."""

from __future__ import annotations

import re

from moa.grading.final_answer import final_answer, last_line
from moa.grading.grader import Grade

_OPTION = r"(?:[A-Ja-j]|\d{1,2})"
_BARE = re.compile(
    rf"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)?\s*(?:is\s+)?[(\[]?({_OPTION})[)\]]?[.:]?",
    re.IGNORECASE,
)
_LED = re.compile(
    rf"(?:option\s+|choice\s+)?[(\[]?({_OPTION})"
    r"(?:[)\]]|[.:](?=\s)|\s+-\s|,?\s+(?:because|since|as|for)\b)",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    rf"[(\[]?{_OPTION}[)\]]?(?:\s*(?:,|;|and|&)\s*(?:and\s+)?[(\[]?{_OPTION}[)\]]?)+"
)
_RUN = re.compile(r"(?!.*(.).*\1)[A-J]{2,10}")
_SAID = re.compile(
    r"(?<!\bnot )(?<!\bover )(?<!\bthan )(?:\b(?:option|choice)\s+|[(\[])([A-J]|\d{1,2})\b[)\]]?",
    re.IGNORECASE,
)
_MARKS = str.maketrans("", "", "*`\"'$")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")


class ChoiceGrader:
    """1 where exactly the reference's options are picked, else 0.

    References are a letter from A to J, a number, or several: `B`, `3`, `A, C`, `AC`.
    """

    version = "choice/2"

    def grade(self, completion: str, reference: str) -> Grade:
        """Grade one completion."""
        right = read_choices(final_answer(reference) or reference)
        if right is None:
            return Grade(None, "the reference is no letter from A to J and no number")
        if not completion.strip():
            return Grade(None, "the completion is empty")
        return Grade(float(picked(completion) == right))


def picked(completion: str) -> frozenset[str] | None:
    """The options that a completion picks; `None`: none that could be made out.

    Where it marks no answer, its last line counts, and there an option that is named as one; then
    its first line, where that is nothing but an option.
    """
    marked = final_answer(completion)
    if marked is not None:
        return read_choices(marked)
    line = last_line(completion)[-500:]
    read = read_choices(line)
    if read is not None:
        return read
    said = _SAID.findall(line)
    if said:
        return frozenset({said[-1].upper()})
    first = completion.strip().partition("\n")[0].translate(_MARKS).strip()
    return read_choices(first) if _BARE.fullmatch(first) else None


def read_choices(text: str) -> frozenset[str] | None:
    """The options that an answer consists of, in upper case; `None`: it is no choice."""
    text = _TEXT.sub(r"\1", text[:200]).translate(_MARKS).strip()
    if _SEVERAL.fullmatch(text) and len(text) < 60:
        return frozenset(
            option.upper() for option in re.findall(rf"(?<![A-Za-z]){_OPTION}(?![A-Za-z])", text)
        )
    if _RUN.fullmatch(text):
        return frozenset(text)
    one = read_choice(text)
    return None if one is None else frozenset({one})


def read_choice(text: str) -> str | None:
    """The one option that an answer is or starts with: `B`, `(b)`, `B. Paris`, `Option 3`."""
    text = _TEXT.sub(r"\1", text[:200]).translate(_MARKS).strip()
    found = _BARE.fullmatch(text) or _LED.match(text)
    return found[1].upper() if found else None
