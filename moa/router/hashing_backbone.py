"""The embedded default: hashed character n-grams. No weights, no GPU.

It sees what a query is about and how it is written, hardly what it means: enough to tell domains
apart and to find what is hard about the queries of one, and a floor that a language model has to
beat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from moa.router.backbone import Embeddings
from moa.router.surface import BLOCK, MOST_BYTES, plain

NGRAMS = (3, 5, 7)
"""Lengths in bytes; at most 8, the bytes of a machine word."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_LOG1P = np.log1p(np.arange(MOST_BYTES + 1)).astype(np.float32)
"""By table: what a vector unit makes of the last elements of an array may differ from the rest."""
_PROBE = "How many r's  are in “Strawberry”?\n\n\tlet x = 3.14 * (y[2] - 1)^2"


@dataclass(frozen=True, slots=True)
class HashingBackbone:
    """See the module.

    Raises:
        ValueError: `buckets` is no power of two from 64 to 65,536.
    """

    buckets: int = 1024

    def __post_init__(self) -> None:
        if self.buckets not in [1 << bits for bits in range(6, 17)]:
            raise ValueError(f"{self.buckets} buckets: a power of two from 64 to 65,536 is needed")

    @property
    def width(self) -> int:
        """See `Backbone.width`."""
        return self.buckets

    @property
    def spec(self) -> Mapping[str, JsonValue]:
        """See `Backbone.spec`. The digest is of what the numbers mean: a router that was trained on
        other n-grams or hashes is not this backbone's.
        """
        return {"kind": "hashing", "buckets": self.buckets, "digest": self._digest()}

    def _digest(self) -> str:
        """Of the constants, and of the counts of some text, which are whole numbers and so alike
        on every machine; 16 hex digits."""
        text = np.frombuffer(plain(_PROBE), np.uint8)
        counts = self._ngram_counts(text, np.zeros(len(text), np.int64), 1)
        constants = repr((NGRAMS, MOST_BYTES, int(_PRIME))).encode()
        return hashlib.sha256(constants + counts.tobytes()).hexdigest()[:16]

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """See `Backbone.embed`. Each has length 1, of a text below 3 bytes 0."""
        out = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(texts), BLOCK):
            block = [plain(text) for text in texts[start : start + BLOCK]]
            out[start : start + BLOCK] = self._embed_block(block)
        return out

    def _embed_block(self, texts: list[bytes]) -> Embeddings:
        lengths = np.array([len(text) for text in texts])
        raw = np.frombuffer(b"".join(texts), np.uint8)
        owner = np.repeat(np.arange(len(texts)), lengths)
        counts = self._ngram_counts(raw, owner, len(texts))
        weights = _LOG1P[np.minimum(counts, MOST_BYTES)]
        norms = np.sqrt(np.einsum("ij,ij->i", weights, weights, dtype=np.float64))
        return np.asarray(weights / np.maximum(norms, 1e-12)[:, None], np.float32)

    def _ngram_counts(
        self, text: NDArray[np.uint8], owner: NDArray[np.int64], texts: int
    ) -> NDArray[np.int64]:
        """How often each bucket is hit by the n-grams of each text, shape (texts, buckets)."""
        padded = np.concatenate([text, np.zeros(8, np.uint8)])
        words = np.ndarray(len(text), np.dtype("<u8"), padded, strides=(1,))  # each byte and 7 more
        shift = np.uint64(64 - (self.buckets.bit_length() - 1))
        slots = []
        for length in NGRAMS:
            last = max(0, len(text) - length + 1)
            kept = words[:last] << np.uint64(64 - 8 * length)  # without the bytes beyond
            bucket = (((kept ^ kept >> np.uint64(29)) * _PRIME) >> shift).astype(np.int64)
            slot = owner[:last] * self.buckets + bucket
            slots.append(slot[owner[:last] == owner[len(text) - last :]])
        counts = np.bincount(np.concatenate(slots), minlength=texts * self.buckets)
        return counts.reshape(texts, self.buckets)
