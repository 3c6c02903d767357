"""Products of many rows with one matrix, in which a row's result does not depend on its neighbours.

The last bits of a matrix product depend on the shape of its operands: rows are multiplied in blocks
of one shape.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64

Floats = NDArray[np.float64]


def in_blocks(rows: NDArray[np.float32], weights: NDArray[np.floating]) -> Floats:
    """`rows @ weights[:-1] + weights[-1]` in single precision, shape (n, columns)."""
    out = np.empty((len(rows), weights.shape[1]), np.float32)
    for start, product in products(rows, weights):
        out[start : start + len(product)] = product
    return np.asarray(out + weights[-1], np.float64)


def products(
    rows: NDArray[np.float32], weights: NDArray[np.floating]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """`rows @ weights[:-1]` block by block, each with the number of its first row. A block is valid
    until the next one: what is made of it at once is made in the processor's cache."""
    matrix = np.ascontiguousarray(weights[:-1], np.float32)
    block = np.zeros((BLOCK_ROWS, rows.shape[1]), np.float32)
    product = np.empty((BLOCK_ROWS, matrix.shape[1]), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        some = rows[start : start + BLOCK_ROWS]
        block[: len(some)] = some
        np.matmul(block, matrix, out=product)
        yield start, product[: len(some)]
