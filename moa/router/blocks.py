"""Products of many rows with one matrix, in which a row's result does not depend on its neighbours.

The last bits of a matrix product depend on the shape of its operands: rows are multiplied in blocks
of one shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64

Floats = NDArray[np.float64]


def in_blocks(rows: NDArray[np.float32], weights: NDArray[np.floating]) -> Floats:
    """`rows @ weights[:-1] + weights[-1]` in single precision, shape (n, columns)."""
    matrix = np.ascontiguousarray(weights[:-1], np.float32)
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    block = np.zeros((BLOCK_ROWS, rows.shape[1]), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        some = rows[start : start + BLOCK_ROWS]
        block[: len(some)] = some
        out[start : start + len(some)] = (block @ matrix)[: len(some)]
    return np.asarray(out + weights[-1], np.float64)
