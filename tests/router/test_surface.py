from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.surface import MOST_BYTES, WIDTH, plain, surface

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
WRITTEN = st.text(st.sampled_from("ab7Z  \n\t(}*.é日'"), max_size=60)
TEXTS = st.lists(ANY | WRITTEN, max_size=150)
ASCII = st.text(st.characters(max_codepoint=126, min_codepoint=32) | st.just("\n"), max_size=80)

SIGNS = b"\\$^_{}()[]=+-*/<>%?.,;:!'\"#@|&~`"
NAMES = (
    *(chr(sign) for sign in SIGNS), "digits", "blanks", "vowels", "not ASCII",
    "share of digits", "share of blanks", "share of vowels", "share of not ASCII",
    "length", "words", "different words", "share of different words", "letters a word",
    "numbers", "longest number", "line feeds", "longest line", "indented lines", "listed lines",
    "depth",
)  # fmt: skip
PLAIN = {
    "share of digits", "share of blanks", "share of vowels", "share of not ASCII",
    "share of different words", "letters a word", "depth",
}  # fmt: skip
"""Told as they are; all others as logarithms of one more."""


def counted(text: str) -> dict[str, float]:
    """What `surface` counts, and what it does not count left out."""
    (row,) = surface([plain(text)])
    values = {
        name: float(value) if name in PLAIN else float(np.expm1(value))
        for name, value in zip(NAMES, row, strict=True)
    }
    return {name: round(value, 4) for name, value in values.items() if abs(value) > 1e-6}


def counted_by_hand(text: bytes) -> list[float]:
    """The slow way, of one text."""
    occurs = Counter(text)
    size = max(1, len(text))
    kinds = [
        sum(occurs[byte] for byte in kind)
        for kind in (b"0123456789", b" \t\n\r", b"aeiou", bytes(range(128, 256)))
    ]
    words = re.findall(rb"[0-9A-Za-z\x80-\xff]+", text)
    numbers = re.findall(rb"[0-9]+", text)
    lines = text.split(b"\n")
    depth = deepest = 0
    for byte in text:
        depth += (byte in b"([{") - (byte in b")]}")
        deepest = max(deepest, depth)
    several, logarithms = max(1, len(words)), [float(occurs[sign]) for sign in SIGNS]
    return [
        *np.log1p([*logarithms, *kinds]),
        *(kind / size for kind in kinds),
        np.log1p(len(text)),
        np.log1p(len(words)),
        np.log1p(len(set(words))),
        len(set(words)) / several,
        sum(map(len, words)) / several,
        np.log1p(len(numbers)),
        np.log1p(max(map(len, numbers), default=0)),
        np.log1p(len(lines) - 1),
        np.log1p(max(map(len, lines))),
        np.log1p(sum(line.startswith(b" ") for line in lines)),
        np.log1p(sum(line.startswith(b"*") for line in lines)),
        deepest,
    ]


@given(TEXTS)
def test_what_is_counted_is_what_counting_by_hand_gives(texts: list[str]) -> None:
    found = surface([plain(text) for text in texts])

    by_hand = np.array([counted_by_hand(plain(text)) for text in texts]).reshape(-1, WIDTH)
    assert found == pytest.approx(by_hand, abs=1e-5)


@given(TEXTS)
def test_a_text_is_counted_alike_whatever_is_beside_it(texts: list[str]) -> None:
    together = surface([plain(text) for text in texts])

    alone = [surface([plain(text)])[0] for text in texts]
    assert together.shape == (len(texts), WIDTH)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" \n\n ", {}),
        (
            "Is 12 in 345",
            {
                "digits": 5, "blanks": 3, "vowels": 2, "share of digits": 0.4167,
                "share of blanks": 0.25, "share of vowels": 0.1667, "length": 12, "words": 4,
                "different words": 4, "share of different words": 1, "letters a word": 2.25,
                "numbers": 2, "longest number": 3, "longest line": 12,
            },
        ),
        (
            "((a)[{b}])",
            {
                "(": 2, ")": 2, "[": 1, "]": 1, "{": 1, "}": 1, "vowels": 1, "share of vowels": 0.1,
                "length": 10, "words": 2, "different words": 2, "share of different words": 1,
                "letters a word": 1, "longest line": 10, "depth": 3,
            },
        ),
        (
            "żż żż",
            {
                "blanks": 1, "not ASCII": 8, "share of blanks": 0.1111,
                "share of not ASCII": 0.8889, "length": 9, "words": 2, "different words": 1,
                "share of different words": 0.5, "letters a word": 4, "longest line": 9,
            },
        ),
        (
            "do:\n  x\n* y\n* z",
            {
                ":": 1, "*": 2, "blanks": 7, "vowels": 1, "share of blanks": 0.4667,
                "share of vowels": 0.0667, "length": 15, "words": 4, "different words": 4,
                "share of different words": 1, "letters a word": 1.25, "line feeds": 3,
                "longest line": 3, "indented lines": 1, "listed lines": 2,
            },
        ),
    ],
)  # fmt: skip
def test_small_texts_have_the_counts_that_a_reader_finds(
    text: str, expected: dict[str, float]
) -> None:
    assert counted(text) == expected


def test_a_closing_bracket_of_one_text_opens_no_depth_in_the_next() -> None:
    rows = surface([b")))", b"(", b"((("])

    assert rows[:, NAMES.index("depth")].tolist() == [0, 1, 3]


def test_numbers_at_the_ends_of_texts_are_not_one_number() -> None:
    rows = surface([b"12", b"345", b"", b"6"])

    longest = np.expm1(rows[:, NAMES.index("longest number")])
    assert longest == pytest.approx([2, 3, 0, 1], abs=1e-5)


@given(ASCII)
def test_who_shouts_asks_the_same(text: str) -> None:
    assert plain(text.upper()) == plain(text.lower()) == plain(text)


@given(ASCII, st.data())
def test_blanks_that_nobody_sees_are_not_read(text: str, data: st.DataObject) -> None:
    lines = text.split("\n")
    loose = []
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        wide = line[indent:].replace(" ", " " * data.draw(st.integers(1, 3)))
        end = " " * data.draw(st.integers(0, 2))
        loose.append(line[:indent] + wide + end + "\n" * data.draw(st.integers(0, 2)))

    assert plain("\n" + "\n".join(loose) + "\n\n") == plain(text)


@given(ANY | WRITTEN)
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    once = plain(text)

    assert plain(once.decode()) == once


def test_indents_are_read() -> None:
    assert plain("if a:\n    b\n\tc") == b"if a:\n    b\n\tc"


@pytest.mark.parametrize("sign", ["x", "é", "日"])
def test_of_a_long_text_both_ends_are_read(sign: str) -> None:
    half = MOST_BYTES // 2
    long = f"begin {sign * MOST_BYTES} end"

    cut = plain(long)

    assert len(cut) == MOST_BYTES
    assert cut[:half] == long.encode()[:half]
    assert cut[half:] == long.encode()[-half:]
    assert np.isfinite(surface([cut])).all()
