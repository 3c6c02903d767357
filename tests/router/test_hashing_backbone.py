from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moa.router.hashing_backbone import MOST_BYTES, HashingBackbone

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=150)
BACKBONE = HashingBackbone(256)


@given(TEXTS)
def test_a_text_is_embedded_alike_whatever_is_beside_it(texts: list[str]) -> None:
    together = BACKBONE.embed(texts)

    alone = [BACKBONE.embed([text])[0] for text in texts]

    assert together.shape == (len(texts), BACKBONE.width)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@given(TEXTS)
def test_the_ngrams_have_length_one_or_none(texts: list[str]) -> None:
    norms = np.linalg.norm(BACKBONE.embed(texts)[:, :256], axis=1)

    short = np.array([len(text.encode()) < 3 for text in texts], bool)
    assert np.allclose(norms[~short], 1, atol=1e-5)
    assert not norms[short].any()


def test_like_texts_are_closer_than_unlike_ones() -> None:
    texts = ["How many apples are left?", "How many pears are left?", "def sort(items): return"]

    apples, pears, code = BACKBONE.embed(texts)[:, :256]

    assert apples @ pears > 2 * (apples @ code)


def test_of_a_long_text_both_ends_are_read() -> None:
    middle = "x" * (3 * MOST_BYTES)

    one, same, other = BACKBONE.embed(
        [f"begin {middle} end", f"begin {middle}x end", f"begin {middle} fin"]
    )

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
