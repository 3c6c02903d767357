"""The embedded default: hashed character n-grams and a few surface counts. No weights, no GPU.

It sees what a query is about and how it is written, hardly how hard it is: enough to show the
whole way, and a floor that any learned backbone has to beat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from moa.router.backbone import Embeddings

NGRAMS = (3, 5, 7)
"""Lengths in bytes of the lower-cased text."""
MOST_BYTES = 4096
"""Of a text that are read: its first and last halves of so many."""
BLOCK = 64
"""Texts that are embedded at once: counts of a block stay in the cache."""
SURFACE = (
    b"0123456789",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"\n",
    b"+-*/=^<>%$\\",
    b"()[]{}",
    b"\"'`",
    b"?",
    b",.;:!",
    b" \t",
    bytes(range(128, 256)),
)
"""Kinds of bytes whose shares are told, after the text's length."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_LOG1P = np.log1p(np.arange(MOST_BYTES + 1)).astype(np.float32)
"""By table: what a vector unit makes of the last elements of an array may differ from the rest."""
_PROBE = "How many r's are in “Strawberry”?\n\tlet x = 3.14 * (y[2] - 1)^2".encode()
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32


@dataclass(frozen=True, slots=True)
class HashingBackbone:
    """See the module."""

    buckets: int = 1024

    @property
    def width(self) -> int:
        """See `Backbone.width`."""
        return self.buckets + 1 + len(SURFACE)

    @property
    def spec(self) -> Mapping[str, JsonValue]:
        """See `Backbone.spec`. The digest is of what the numbers mean: a router that was trained on
        other n-grams, hashes or kinds of bytes is not this backbone's.
        """
        return {"kind": "hashing", "buckets": self.buckets, "digest": self._digest()}

    def _digest(self) -> str:
        """Of the constants, and of the counts of some text, which are whole numbers and so alike
        on every machine; 16 hex digits."""
        text = np.frombuffer(_PROBE, np.uint8)
        counts = self._ngram_counts(_LOWER[text], np.zeros(len(text), np.intp), 1)
        constants = repr((NGRAMS, MOST_BYTES, SURFACE, int(_PRIME))).encode()
        return hashlib.sha256(constants + counts.tobytes()).hexdigest()[:16]

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """See `Backbone.embed`. The n-gram part has length 1, of a text below 3 bytes 0."""
        out = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(texts), BLOCK):
            block = [_cut(text.encode()) for text in texts[start : start + BLOCK]]
            self._embed_block(block, out[start : start + BLOCK])
        return out

    def _embed_block(self, texts: list[bytes], out: Embeddings) -> None:
        lengths = np.array([len(text) for text in texts])
        raw = np.frombuffer(b"".join(texts), np.uint8)
        owner = np.repeat(np.arange(len(texts)), lengths)
        counts = self._ngram_counts(_LOWER[raw], owner, len(texts))
        weights = _LOG1P[np.minimum(counts, MOST_BYTES)]
        norms = np.sqrt((weights.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        out[:, : self.buckets] = weights / np.maximum(norms, 1e-12)
        out[:, self.buckets] = _LOG1P[np.minimum(lengths, MOST_BYTES)] / 10
        share = 1 / np.maximum(lengths, 1)
        for number, kind in enumerate(_KINDS, start=self.buckets + 1):
            out[:, number] = np.bincount(owner, weights=kind[raw], minlength=len(texts)) * share

    def _ngram_counts(
        self, text: NDArray[np.uint8], owner: NDArray[np.intp], texts: int
    ) -> NDArray[np.int64]:
        """How often each bucket is hit by the n-grams of each text, shape (texts, buckets)."""
        counts = np.zeros(texts * self.buckets, np.int64)
        for length in NGRAMS:
            last = len(text) - length + 1
            if last <= 0:
                continue
            hashed = np.full(last, length, np.uint64)
            for offset in range(length):
                hashed = hashed * np.uint64(257) + text[offset : offset + last]
            buckets = ((hashed * _PRIME) >> np.uint64(40)) % np.uint64(self.buckets)
            inside = owner[:last] == owner[length - 1 :]
            slots = owner[:last][inside] * self.buckets + buckets[inside].astype(np.int64)
            counts += np.bincount(slots, minlength=len(counts))
        return counts.reshape(texts, self.buckets)


def _cut(text: bytes) -> bytes:
    if len(text) <= MOST_BYTES:
        return text
    half = MOST_BYTES // 2
    return text[:half] + text[-half:]


def _table(kind: bytes) -> NDArray[np.float64]:
    table = np.zeros(256)
    table[list(kind)] = 1
    return table


_KINDS = tuple(_table(kind) for kind in SURFACE)
