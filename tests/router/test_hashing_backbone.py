from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.hashing_backbone import HashingBackbone
from moa.router.surface import MOST_BYTES, plain

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
    norms = np.linalg.norm(BACKBONE.embed(texts), axis=1)

    short = np.array([len(plain(text)) < 3 for text in texts], bool)
    assert np.allclose(norms[~short], 1, atol=1e-5)
    assert not norms[short].any()


def test_like_texts_are_closer_than_unlike_ones() -> None:
    texts = ["How many apples are left?", "How many pears are left?", "def sort(items): return"]

    apples, pears, code = BACKBONE.embed(texts)

    assert apples @ pears > 2 * (apples @ code)


def test_of_a_long_text_both_ends_are_read() -> None:
    middle = "x" * (3 * MOST_BYTES)

    one, same, other = BACKBONE.embed(
        [f"begin {middle} end", f"begin {middle}x end", f"begin {middle} fin"]
    )

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_how_a_text_is_written_down_does_not_change_what_is_read() -> None:
    one, other = BACKBONE.embed(["What is a prime?\nSay it.", "WHAT  IS A PRIME? \n\n  \nSAY  IT."])

    assert np.array_equal(one, other)


@pytest.mark.parametrize("buckets", [0, 1, 32, 1000, 1 << 17])
def test_a_number_of_buckets_that_hashes_cannot_fill_evenly_is_refused(buckets: int) -> None:
    with pytest.raises(ValueError, match="a power of two from 64 to 65,536"):
        HashingBackbone(buckets)


def test_the_digest_tells_backbones_of_other_numbers_apart() -> None:
    assert BACKBONE.spec == HashingBackbone(256).spec
    assert BACKBONE.spec["digest"] != HashingBackbone(512).spec["digest"]
