from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.blocks import BLOCK_ROWS, in_blocks

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.normal(size=(1101, 48)).astype(np.float16)
ROWS = (RANDOM.normal(size=(200, 1100)) / 32).astype(np.float32)


def test_a_product_is_that_of_rows_and_matrix_with_its_last_row_added() -> None:
    found = in_blocks(ROWS, WEIGHTS)

    exact = ROWS.astype(np.float64) @ WEIGHTS[:-1].astype(np.float64) + WEIGHTS[-1]
    assert found == pytest.approx(exact, abs=1e-4)


@given(st.integers(0, 199), st.integers(0, 3 * BLOCK_ROWS), st.integers(0, 70))
def test_a_row_comes_out_alike_wherever_it_stands(row: int, before: int, after: int) -> None:
    mine = ROWS[row : row + 1]
    beside = np.resize(ROWS, (before + after, ROWS.shape[1]))

    alone = in_blocks(mine, WEIGHTS)[0]
    among = in_blocks(np.concatenate([beside[:before], mine, beside[before:]]), WEIGHTS)[before]

    assert np.array_equal(alone, among)


def test_a_columns_result_does_not_depend_on_the_other_columns() -> None:
    whole = in_blocks(ROWS, WEIGHTS)

    for columns in ([3], [47, 3], list(range(0, 48, 5))):
        assert np.array_equal(in_blocks(ROWS, WEIGHTS[:, columns]), whole[:, columns])


def test_no_row_gives_no_row() -> None:
    assert in_blocks(ROWS[:0], WEIGHTS).shape == (0, 48)
