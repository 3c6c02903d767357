"""What can be counted in a query: how long, how dense, how much of it is numbers, code, lines.

Any backbone's embedding is set beside these counts: a mean over tokens forgets how many there were,
and the length of a problem says much about how hard it is.

Capitals, double spaces and empty lines are not counted: who shouts asks the same question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 4096
"""Of a text that are read: its first and last halves of so many."""
BLOCK = 64
"""Texts that are counted at once: what a block needs stays in the cache."""

Surface = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_SINGLE = b"\\$^_{}()[]=+-*/<>%?.,;:!'\"#@|&~`"
_KINDS = (
    b"0123456789",
    b" \t\n\r",
    b"aeiou",
    bytes(range(128, 256)),
)
_DIGIT, _LETTER = np.zeros(256, bool), np.zeros(256, bool)
_DIGIT[48:58] = True
_LETTER[48:58] = _LETTER[65:91] = _LETTER[97:123] = _LETTER[128:] = True
_NESTING = np.zeros(256, np.int64)
_NESTING[list(b"([{")] = 1
_NESTING[list(b")]}")] = -1
_LINE_ENDS = re.compile(rb"[ \t\r]*\n(?:[ \t\r]*\n)*")
_BLANKS = re.compile(rb"(?<=[^ \t\n])[ \t]{2,}")
_TABLE = np.zeros((256, len(_SINGLE) + len(_KINDS)), np.float64)
for _column, _byte in enumerate(_SINGLE):
    _TABLE[_byte, _column] = 1
for _column, _kind in enumerate(_KINDS, start=len(_SINGLE)):
    _TABLE[list(_kind), _column] = 1

WIDTH = len(_SINGLE) + 2 * len(_KINDS) + 12


def plain(text: str) -> bytes:
    """A text as it is counted: small letters, single blanks, no empty lines; indents stay. Without
    its middle where it is longer than `MOST_BYTES`."""
    raw = text.encode()
    if len(raw) > MOST_BYTES:
        half = MOST_BYTES // 2
        raw = raw[:half] + raw[-half:]
    raw = raw.lower()
    # To look whether there is anything to replace is ten times as fast as to replace nothing.
    if any(one in raw for one in (b"\n\n", b" \n", b"\t\n", b"\r\n")):
        raw = _LINE_ENDS.sub(b"\n", raw)
    if b"  " in raw or b"\t" in raw:
        raw = _BLANKS.sub(b" ", raw)
    return raw.strip()


def surface(texts: Sequence[bytes]) -> Surface:
    """Counts of each text, logarithms and shares, shape (n, `WIDTH`).

    Args:
        texts: as `plain` gives them.
    """
    out = np.empty((len(texts), WIDTH), np.float32)
    for start in range(0, len(texts), BLOCK):
        block = list(texts[start : start + BLOCK])
        out[start : start + len(block)] = np.column_stack([*_columns(block)])
    return out


def _columns(texts: list[bytes]) -> Iterator[NDArray[np.float64]]:
    """Features of a block. A line feed before each text keeps it from its neighbour."""
    count = len(texts)
    raw = np.frombuffer(b"\n" + b"\n".join(texts) + b"\n", np.uint8)
    lengths = np.array([len(text) for text in texts])
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    owner = np.repeat(np.arange(count), lengths + 1)
    raw = raw[: len(owner)]  # one line feed and one text after the other
    size = np.maximum(lengths, 1)

    histogram = np.bincount(owner * 256 + raw, minlength=count * 256).reshape(count, 256)
    histogram[:, 10] -= 1
    kinds = histogram @ _TABLE
    yield np.log1p(kinds)
    yield kinds[:, len(_SINGLE) :] / size[:, None]
    yield np.log1p(lengths)

    def per_text(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(owner[mask], minlength=count).astype(np.float64)

    letter = _LETTER[raw]
    words = np.flatnonzero(letter & ~np.concatenate([[False], letter[:-1]]))
    yield from _words(raw, letter, words, owner, count)

    digit = _DIGIT[raw]
    yield from _runs(digit, owner, starts, count)

    line = raw == 10
    ends = np.flatnonzero(line)
    line_length = np.diff(np.append(ends, len(raw))) - 1
    yield np.log1p(per_text(line) - 1)
    yield np.log1p(np.maximum.reduceat(line_length, np.searchsorted(ends, starts)))
    after = np.roll(raw, -1)
    yield np.log1p(per_text(line & (after == 32)))  # indented lines
    yield np.log1p(per_text(line & (after == 42)))  # listed ones

    depth = np.cumsum(_NESTING[raw])
    yield np.maximum.reduceat(depth, starts) - depth[starts].astype(np.float64)


def _words(
    raw: Bytes, letter: NDArray[np.bool_], first: Ints, owner: Ints, count: int
) -> Iterator[NDArray[np.float64]]:
    """How many words, how many different ones, their share, and how long they are."""
    begins = np.zeros(len(raw), np.int64)
    begins[first] = 1
    number = np.cumsum(begins) - 1
    inside = np.flatnonzero(letter)
    place = inside - first[number[inside]]
    weight = _POWERS[np.minimum(place, len(_POWERS) - 1)]
    terms = np.append((raw[inside].astype(np.uint64) + np.uint64(1)) * weight, np.uint64(0))
    hashed = np.add.reduceat(terms, np.flatnonzero(place == 0))
    whose = owner[first]
    total = np.bincount(whose, minlength=count).astype(np.float64)
    key = (hashed * _PRIME >> np.uint64(24)) * np.uint64(BLOCK) + whose.astype(np.uint64)
    distinct = np.unique(key) % np.uint64(BLOCK)
    different = np.bincount(distinct.astype(np.int64), minlength=count).astype(np.float64)
    yield np.log1p(total)
    yield np.log1p(different)
    yield different / np.maximum(total, 1)
    yield np.bincount(owner[inside], minlength=count) / np.maximum(total, 1)


def _runs(
    digit: NDArray[np.bool_], owner: Ints, starts: Ints, count: int
) -> Iterator[NDArray[np.float64]]:
    """How many numbers, and how many digits the longest has."""
    before = np.concatenate([[False], digit[:-1]])
    begins, ends = np.flatnonzero(digit & ~before), np.flatnonzero(~digit & before)
    ends = np.append(ends, len(digit))[: len(begins)]
    longest = np.zeros(count)
    np.maximum.at(longest, owner[begins], (ends - begins).astype(np.float64))
    yield np.log1p(np.bincount(owner[begins], minlength=count).astype(np.float64))
    yield np.log1p(longest)


_PRIME = np.uint64(0x9E3779B97F4A7C15)
_POWERS = np.cumprod(np.full(24, 1_000_003, np.uint64))
