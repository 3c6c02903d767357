"""Which prompts are nearly the same, and which of two sides a group of them is on.

A group's name is the hash of its first prompt, and a prompt that comes later joins the group of
the nearest one that is there. So groups grow and never merge, and what side a query is on never
changes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

ALIKE = 0.7
"""Share of three-word sequences that two near duplicates have in common, of those that either has
(Jaccard). Of 13,323 benchmark prompts it joins one question in other words ("determine" for
"choose"), and leaves apart other questions in one template."""
_WORDS = 3
_BANDS, _ROWS = 25, 5
"""Two prompts are compared if one band of their hashes is equal: at `ALIKE`, 99 in 100 are."""
_MOST_COMPARED = 256
"""Of each band; a template that ten thousand prompts begin with must not make it quadratic."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_RANDOM = np.random.default_rng(0)
_FACTORS = _RANDOM.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _RANDOM.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
_PLACES = _RANDOM.integers(0, 2**63, _WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
"""What a word's hash is multiplied by, for its place in a sequence."""
_SPLIT_SEED = 7
"""So that sides and folds, which are by the same names, have nothing to do with each other."""

Signature = NDArray[np.uint32]


def text_group(prompt: str) -> str:
    """What prompts that differ in case and spaces only share."""
    return xxhash.xxh3_64_hexdigest(" ".join(prompt.lower().split()).encode())


def is_held_out(group: str, share: float) -> bool:
    """Whether a group is on the side that nothing is learnt from: so is this share of groups."""
    return xxhash.xxh3_64_intdigest(group.encode(), seed=_SPLIT_SEED) < share * 2.0**64


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode())


class Fingerprint(NamedTuple):
    """All that is looked at of a prompt."""

    text: str
    """As `text_group`."""
    signature: Signature
    """Its MinHash, shape (125,): the share of equal numbers estimates how alike two are."""
    bands: tuple[bytes, ...]


def fingerprint(prompt: str) -> Fingerprint:
    """Of a prompt.

    Source: Broder, On the resemblance and containment of documents, 1997.
    """
    words = _TOKEN.findall(prompt.lower())
    hashed = np.fromiter(map(_hash, words), np.uint64, len(words))
    hashed = np.pad(hashed, (0, max(0, _WORDS - len(words))))
    sequences = np.unique(np.lib.stride_tricks.sliding_window_view(hashed, _WORDS) @ _PLACES)
    mixed = (sequences[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
    least = np.asarray(mixed.min(axis=0), np.uint32)
    whole, width = least.tobytes(), 4 * _ROWS
    bands = tuple(whole[n * width : (n + 1) * width] for n in range(_BANDS))
    return Fingerprint(text_group(prompt), least, bands)


class Place(NamedTuple):
    """Where a prompt belongs."""

    group: str
    sides: frozenset[str]
    """Of all prompts that it is nearly the same as; empty for the first of a group."""


class NearDuplicates:
    """Prompts that are known, with their groups and sides."""

    def __init__(self) -> None:
        self._signatures: list[Signature] = []
        self._known: list[tuple[str, str]] = []
        self._same: dict[str, int] = {}
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]

    def add(self, prompt: Fingerprint, group: str, side: str) -> None:
        """A prompt that is found from now on; of prompts with one text, the first."""
        number = len(self._signatures)
        if self._same.setdefault(prompt.text, number) != number:
            return
        self._signatures.append(prompt.signature)
        self._known.append((group, side))
        for known, band in zip(self._bands, prompt.bands, strict=True):
            known.setdefault(band, []).append(number)

    def place(self, prompt: Fingerprint) -> Place:
        """The group of the prompt that is most like it, or one of its own."""
        near = self.near(prompt)
        if not near:
            return Place(prompt.text, frozenset())
        sides = frozenset(self._known[number][1] for number in near)
        return Place(self._known[near[0]][0], sides)

    def near(self, prompt: Fingerprint) -> list[int]:
        """Numbers of the prompts that it is like, the most alike first; one with its very text is
        all that is told."""
        if prompt.text in self._same:
            return [self._same[prompt.text]]
        buckets = (known.get(band) for known, band in zip(self._bands, prompt.bands, strict=True))
        found = {number for one in buckets if one for number in one[:_MOST_COMPARED]}
        if not found:
            return []
        numbers = sorted(found)
        table = np.stack([self._signatures[number] for number in numbers])
        alike = (table == prompt.signature).mean(axis=1)
        ranked = np.argsort(-alike, kind="stable")
        return [numbers[n] for n in ranked if alike[n] >= ALIKE]
