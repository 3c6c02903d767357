"""What a completion gives as its answer, out of all that it says.

In this order, the last one of each: the field `answer` of a JSON object, an `<answer>` tag, a
`\\boxed{…}` or `#### …`, "the answer is …". An answer is looked through again, so that a box inside
a JSON field is opened. What none of these marks is not guessed here: graders know better
what their answers look like.
"""

from __future__ import annotations

import json
import re

_LONGEST = 100_000
"""Characters from the end; answers stand there, and no pattern may take long."""
_LONGEST_BOX = 2000
_MOST_BOXES = 50
_FIELD = re.compile(r'"(?:final_?)?answer"\s*:\s*', re.IGNORECASE)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^,}\]\n]+")
_TAG = re.compile(
    r"<\s*(?:final_)?answer\s*>(.{0,2000}?)<\s*/\s*(?:final_)?answer\s*>", re.I | re.S
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_PHRASE = re.compile(
    r"(?:\banswers?(?:\s+to\s+[^.\n:]{1,80})?\s+(?:is|are|would\s+be)\b|\banswers?\s*(?:\*\*)?\s*:)"
    r"(?:[ \t:*]*|[ \t:*]*\n\s*\**(?=[^\n]+\s*\Z))([^\s:*][^\n]*)",
    re.IGNORECASE,
)
"""What is said after it on its line, or on the next where that is the last."""
_SENTENCE_END = re.compile(r"(?<=[^\d\s])[.!?](?=\s|$)|(?<=\d)\.(?=\s|$)|\n")
_LATEX_EATEN = {"\b": "\\b", "\f": "\\f", "\t": "\\t", "\r": "\\r"}
_EATEN = re.compile(r"[\b\f\t\r](?=[A-Za-z])")


def final_answer(completion: str) -> str | None:
    """The answer that a completion marks as such; `None`: it marks none.

    Space around it is kept where it stands in a JSON string, which may be empty as well.
    """
    answer = completion[-_LONGEST:]
    found = False
    for _ in range(4):  # a box in a field in a tag; deeper is no answer
        inner = _marked(answer)
        if inner is None or inner == answer:
            break
        answer, found = inner, True
    return answer if found else None


def is_unfinished(completion: str) -> bool:
    """Whether it set out to give a JSON object and got to no answer: cut off, or lost."""
    start = completion.lstrip().removeprefix("```json").lstrip()
    return start.startswith("{") and '"reasoning"' in start[:100] and not _FIELD.search(completion)


def last_line(completion: str) -> str:
    """The last line that says something; "" where none does."""
    lines = completion.rstrip().rsplit("\n", 1)
    return lines[-1].strip() if lines else ""


def _marked(text: str) -> str | None:
    field = _json_field(text)
    if field is not None:
        return field
    for find in (_tag, _box, _phrase):
        answer = find(text)
        if answer is not None and answer.strip():
            return answer.strip()
    return None


def _json_field(text: str) -> str | None:
    """The last `"answer": …`; read by hand where LaTeX in it is no valid JSON."""
    fields = list(_FIELD.finditer(text))
    if not fields:
        return None
    rest = text[fields[-1].end() :]
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(rest)
    except (ValueError, RecursionError):
        string = _STRING.match(rest) or _BARE.match(rest)
        return None if string is None else _unescaped(string[string.lastindex or 0])
    if isinstance(value, str):
        return _EATEN.sub(lambda found: _LATEX_EATEN[found[0]], value)
    return json.dumps(value, ensure_ascii=False)


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\\\", "\\")


def _tag(text: str) -> str | None:
    answers = _TAG.findall(text)
    return answers[-1] if answers else None


def _box(text: str) -> str | None:
    """The last `\\boxed{…}` with balanced braces, or what follows the last `####` after it."""
    box, end = None, 0
    for found in reversed(list(_BOX.finditer(text))[-_MOST_BOXES:]):
        close = _closing_brace(text, found.end())
        if close is not None:
            box, end = text[found.end() + 1 : close], close
            break
    hashes = _HASHES.findall(text, end)
    return hashes[-1] if hashes else box


def _closing_brace(text: str, start: int) -> int | None:
    depth = 0
    for at in range(start, min(len(text), start + _LONGEST_BOX)):
        if text[at] == "{" and text[at - 1] != "\\":
            depth += 1
        elif text[at] == "}" and text[at - 1] != "\\":
            depth -= 1
            if not depth:
                return at
    return None


def _phrase(text: str) -> str | None:
    """What follows the last "answer is" or "answer:", to the end of its sentence."""
    answers = _PHRASE.findall(text)
    if not answers:
        return None
    return str(_SENTENCE_END.split(answers[-1], maxsplit=1)[0]).strip(" *`\"'")
