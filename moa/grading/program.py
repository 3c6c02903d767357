"""The program in a completion: which of its blocks, or which of its lines, where there is no block.

Nothing is parsed here: a text that breaks a parser would break the grader. What is no program fails
where programs run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NAMES = {
    "python": ("python", "py", "python3", "py3", "python2", "pycon"),
    "c": ("c", "h", "c99", "c11", "c17"),
    "c++": ("c++", "cpp", "cxx", "cc", "hpp", "c++17", "c++20"),
}
"""Language → what models write behind a fence for it."""
ALL_NAMES = frozenset(name for names in NAMES.values() for name in names)

FENCE = re.compile(r"(?P<indent>[ \t>]*)(?P<ticks>`{3,}|~{3,})(?P<info>[^`\n]*)")
NAME = re.compile(r"[\w+#.-]+")
BEGINS = {
    "python": re.compile(r"(def|class|async def|import|from) +\w|@\w|if __name__|print\("),
    "c": re.compile(r"#\s*(include|define)|(int|void|char|long|static|struct|typedef)\b"),
}
"""What the first line of a bare program looks like; C++ as C."""
BEGINS["c++"] = re.compile(BEGINS["c"].pattern + r"|using\b|template\b|namespace\b|class\b")
GOES_ON = {
    "python": re.compile(
        r"\s|#|@|[)\]}\"']|(def|class|async|import|from|if|elif|else|for|while|try|except|finally|"
        r"with|return|raise|assert|pass|del|global)\b|[A-Za-z_][\w.]*(\[.*\])?\s*([-+*/%|&^]?=|\()"
    ),
    "c": re.compile(
        r"\s|[#{}/*)]|\w.*[;{,]\s*(//.*)?$|(int|void|char|long|static|struct|typedef)\b"
    ),
}
GOES_ON["c++"] = GOES_ON["c"]


class Block(NamedTuple):
    """A fenced block."""

    language: str
    """The first word behind the fence, in lower case; "" where there is none."""
    text: str


def program_in(completion: str, language: str, defining: Sequence[str] = ()) -> str | None:
    """The program that a completion gives, or `None`: it gives none.

    It is the last block that names the language; if none does, the last that names no language; and
    without any block the lines that look like a program. Of several, one that defines a wanted
    function goes before one that does not: what comes last is often an example of its use.

    Args:
        completion: any text.
        language: a key of `NAMES`.
        defining: functions that it must have, as `f` or `Class.method`.
    """
    text = completion.replace("\r\n", "\n").replace("\r", "\n")
    found = list(blocks(text.split("\n")))
    if not found:
        return bare_program(text.split("\n"), language)
    named = [block.text for block in found if block.language in NAMES[language]]
    unnamed = [block.text for block in found if block.language not in ALL_NAMES]
    candidates = [text for text in named or unnamed if text.strip()]
    if not candidates:
        return None
    return last_defining(candidates, [name.split(".")[0] for name in defining])


def last_defining(texts: Sequence[str], names: Sequence[str]) -> str:
    """The last of them that defines all names, else the last."""
    patterns = [
        re.compile(rf"^[ \t]*(async +def|def|class) +{re.escape(n)}\b", re.M) for n in names
    ]
    for text in reversed(texts):
        if all(pattern.search(text) for pattern in patterns):
            return text
    return texts[-1]


def blocks(lines: Iterable[str]) -> Iterator[Block]:
    """The fenced blocks, in order; one that is never closed goes to the end.

    Its fence's indent is taken off each line, as in a block that stands in a list.
    """
    fence: re.Match[str] | None = None
    held: list[str] = []
    for line in lines:
        match = FENCE.fullmatch(line)
        if fence is None:
            fence, held = match, []
        elif match and closes(match, fence):
            yield block(fence, held)
            fence = None
        else:
            held.append(line)
    if fence is not None:
        yield block(fence, held)


def closes(match: re.Match[str], fence: re.Match[str]) -> bool:
    """Whether a line ends the block that `fence` began."""
    same = match["ticks"].startswith(fence["ticks"])
    return same and not match["info"].strip()


def block(fence: re.Match[str], lines: Sequence[str]) -> Block:
    """A block of the lines behind its fence."""
    name = NAME.search(fence["info"].lower())
    indent = fence["indent"]
    text = "\n".join(line.removeprefix(indent) for line in lines)
    return Block(name[0] if name else "", text + "\n")


def bare_program(lines: Sequence[str], language: str) -> str | None:
    """From the first line that begins a program to the last that goes on with it."""
    begin = next((n for n, line in enumerate(lines) if BEGINS[language].match(line)), None)
    if begin is None:
        return None
    goes_on = GOES_ON[language]
    end = max(n for n in range(begin, len(lines)) if n == begin or goes_on.match(lines[n]))
    return "\n".join(lines[begin : end + 1]) + "\n"
