"""Products of many rows with one matrix, in which a row's result does not depend on its neighbours.

The last bits of a sum depend on its order, and a matrix product's on where a row stands: on one CPU
rows 6 to 11 of a dozen came out otherwise than rows 0 to 5. So nothing is rounded: rows are taken
in steps of 2^-20, weights are those of an artifact, which are half precision and so whole multiples
of 2^-24, and double precision holds every sum below 2^9 of their products exactly, whatever its
order, kernel and number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64
STEPS = 2.0**20
"""Of a row's values, to 1. Features are of the order of 2^-6."""

Floats = NDArray[np.float64]


def in_blocks(rows: NDArray[np.floating], weights: NDArray[np.floating]) -> Floats:
    """`rows @ weights[:-1] + weights[-1]`, shape (n, columns)."""
    out = np.empty((len(rows), weights.shape[1]))
    for start, product in products(rows, weights):
        out[start : start + len(product)] = product
    return np.asarray(out + weights[-1], np.float64)


def products(
    rows: NDArray[np.floating], weights: NDArray[np.floating]
) -> Iterator[tuple[int, Floats]]:
    """`rows @ weights[:-1]` block by block, each with the number of its first row. A block is valid
    until the next one: what is made of it at once is made in the processor's cache."""
    matrix = np.ascontiguousarray(weights[:-1], np.float64) / STEPS
    size = min(BLOCK_ROWS, max(1, len(rows)))  # who routes one query at a time waits for one row
    block = np.zeros((size, rows.shape[1]))
    product = np.empty((size, matrix.shape[1]))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        np.rint(some * STEPS, out=block[: len(some)])
        np.matmul(block, matrix, out=product)
        yield start, product[: len(some)]
