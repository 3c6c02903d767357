"""One way to write mathematics, of the many that answers are written in.

Signs outside of ASCII become LaTeX, LaTeX that only changes how things look is dropped, and words
around an expression stay as words. The result is for comparing and for reading on, not for people.
"""

# ruff: noqa: RUF001 -- signs that look like others are what this is about

from __future__ import annotations

import re

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-",
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "≈": r"\approx ", "°": r"^\circ ",
    "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁷": "^7",
    "⁸": "^8", "⁹": "^9", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}",
    "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅛": r"\frac{1}{8}",
    "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "∅": r"\emptyset ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u200b": "", "﹪": "%", "％": "%",
    "’": "'", "，": ",", "（": "(", "）": ")",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"\\[\[\]()](?=\s|$)|^\\[\[(]", " "),
        (r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", ""),
        (r"(?<=\d)(?:\\[,!]|\{,\}|\\ )(?=\d)", ""),  # between the thousands
        (r"(?<!\\)\\[!,;:> ]|\\q?quad(?![A-Za-z])|(?<!\\)~", " "),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}",
         r" \1 "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"\\(?:leq|leqslant|le)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\varnothing(?![A-Za-z])|^\\\{\s*\\\}$", r"\\emptyset"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\\degree(?![A-Za-z])|\\deg(?![A-Za-z])", " degrees "),
        (r"\\%", "%"),
        (r"\*\*(?=\S)([^*]{1,200})\*\*", r"\1"),  # bold
        (r"`", ""),
        (r"\s+", " "),
    )
)  # fmt: skip
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z%$])")
_REPEATED = re.compile(r"(\d{0,9})\.(\d{0,9})\\(?:overline|bar)\s*\{(\d{1,9})\}")
_TRAILING = re.compile(r"(?:[.,;:\s]|(?<![\w)}\s])!)+$")
_LEADING = re.compile(
    r"^(?:=|:|\\approx|approximately|about|exactly|is|are|(?:so|thus|hence|therefore),?)\s+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(r"^\s*[A-Za-z](?:_\w|_\{\w+\})?(?:\([a-z](?:,\s*[a-z])*\))?\s*(?:=|\\in\b)")
_NAMED_POINT = re.compile(r"^\(([A-Za-z](?:\s*,\s*[A-Za-z])+)\)\s*=\s*(?=\()")
_OPENING, _CLOSING = "([{", ")]}"
_LIST_WORD = re.compile(r"^(?:,?\s+(?:and|or)\s+|\s*[,;]\s+(?:and\s+|or\s+)?|\s*[,;])")


def plain_maths(text: str) -> str:
    """A text in the one way of writing; dollar signs stay where they are before an amount."""
    text = _SIGN.sub(lambda sign: _SIGNS[sign[0]], text)
    if "\\begin" not in text:  # where two of them end a row
        text = _ESCAPED_TWICE.sub(r"\\", text)
    text = _REPEATED.sub(_as_fraction, _without_dollars(text))
    for pattern, put in _RULES:
        text = pattern.sub(put, text)
    text = _TRAILING.sub("", text).strip()
    return _LEADING.sub("", text)


def _without_dollars(text: str) -> str:
    """Drops the `$` that open and close mathematics, and keeps those of money."""
    text = text.replace("$$", "$" * 2 if text.count("$") % 2 else " ")
    money = "\x00"
    text = text.replace("\\$", money)
    if text.count("$") % 2 == 0:
        text = re.sub(r"\$([^$]*)\$", r" \1 ", text)
    return text.replace(money, "$")


def _as_fraction(decimal: re.Match[str]) -> str:
    """`0.1\\overline{6}` → `\\frac{15}{90}`."""
    whole, fixed, repeated = decimal.groups()
    all_digits, once = int(whole + fixed + repeated), int(whole + fixed or 0)
    return f"\\frac{{{all_digits - once}}}{{{'9' * len(repeated)}{'0' * len(fixed)}}}"


def without_name(text: str) -> str:
    """`x = 3` → `3`, `f(x) = x + 1` → `x + 1`, `x \\in (1, 2]` → `(1, 2]`."""
    name = _ASSIGNED.match(text)
    if name is None or "=" in text[name.end() :]:
        return text
    return text[name.end() :].strip()


def elements(text: str) -> list[str]:
    """The parts of a list, a set or several answers: `{1, 2}`, `1 and 2`, `x = 1, x = 2`.

    `\\pm a` is two. One part is a list of one.
    """
    inner = _inside_braces(text)
    parts = _split(inner)
    expanded: list[str] = []
    for part in parts:
        part = without_name(part)
        if part.count("\\pm") == 1:
            expanded += [part.replace("\\pm", "+").strip(" +"), part.replace("\\pm", "-")]
        else:
            expanded.append(part)
    return expanded


def named_parts(text: str) -> dict[str, str] | None:
    """Name → value of `x = 1, y = 2` or `(x, y) = (1, 2)`, by name; `None`: it is not several of
    different names.
    """
    parts = _split(_inside_braces(text))
    if point := _NAMED_POINT.match(text):
        names, values = _split(point[1]), tuple_parts(text[point.end() :]) or []
        parts = [f"{name}={value}" for name, value in zip(names, values, strict=False)]
        if len(parts) != max(len(names), len(values)):
            return None
    named = {}
    for part in parts:
        name, sign, value = part.partition("=")
        if not sign or _ASSIGNED.match(part) is None:
            return None
        named[name.strip()] = value.strip()
    return dict(sorted(named.items())) if len(named) == len(parts) > 1 else None


def is_set(text: str) -> bool:
    """Whether it is several in the braces of a set."""
    return text.startswith("\\{") and text.endswith("\\}") and len(elements(text)) > 1


def _inside_braces(text: str) -> str:
    if text.startswith("\\{") and text.endswith("\\}"):
        return text[2:-2].strip()
    pair = text[:1] + text[-1:]
    if len(text) > 1 and pair in ("{}", "[]") and _closes_at_end(text):
        return text[1:-1].strip()
    return text


def tuple_parts(text: str) -> list[str] | None:
    """The parts of `(a, b, …)` in order; `None`: it is none."""
    if not (text.startswith("(") and text.endswith(")") and _closes_at_end(text)):
        return None
    parts = _split(text[1:-1].strip())
    return parts if len(parts) > 1 else None


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens a text is closed by its last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth <= 0:
            return at == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Splits at commas, semicolons, `and`, `or` outside of brackets; not between thousands."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        depth += (character in _OPENING) - (character in _CLOSING)
        word = _LIST_WORD.match(text[at : at + 12]) if depth == 0 and character in " ,;" else None
        if word is None or _is_thousands(text, at):
            at += 1
            continue
        parts.append(text[start:at].strip())
        at += word.end()
        start = at
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _is_thousands(text: str, at: int) -> bool:
    """Whether a comma stands between the thousands of one number, as in `1,450,000`."""
    return (
        text[at] == ","
        and text[:at][-1:].isdigit()
        and re.match(r",\d{3}(?!\d)", text[at:]) is not None
        and re.search(r"(?<![\d,.])\d{1,3}(?:,\d{3})*$", text[max(0, at - 20) : at]) is not None
    )
