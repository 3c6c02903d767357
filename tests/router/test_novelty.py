from __future__ import annotations

import numpy as np
import pytest

from moa.router.novelty import Novelty, distances

FLAT = np.linspace(0, 1, 11)


def novelty(similarity: np.ndarray | None = None, distance: np.ndarray | None = None) -> Novelty:
    """Two domains, along the axes of a plane; features are the embedding, doubled.

    Usual in either: a similarity from 0 to 1, spread evenly, and a distance from 0 to 1.
    """
    centres = np.vstack([np.eye(2), np.zeros(2)])
    whitening = np.zeros((3, 2, 2))
    whitening[:2] = np.eye(2)[:, None, :]
    whitening[2] = [[-1, 0], [0, -1]]  # centred at (1, 0) and (0, 1)
    return Novelty(
        centres=centres,
        similarity=np.stack([FLAT, FLAT], axis=1) if similarity is None else similarity,
        directions=np.vstack([np.eye(2) / 2, np.zeros(2)]),
        whitening=whitening,
        distance=np.stack([FLAT, FLAT], axis=1) if distance is None else distance,
    )


def of(points: list[list[float]], looks: Novelty) -> np.ndarray:
    vectors = np.array(points, np.float32)
    return looks(vectors, 2 * vectors)


def test_a_query_in_the_middle_of_its_domain_is_not_novel() -> None:
    assert of([[1, 0], [0, 1]], novelty()) == pytest.approx([0, 0], abs=1e-6)


def test_a_query_that_is_like_nothing_is_all_novel() -> None:
    assert of([[-5, -5]], novelty())[0] == 1


def test_the_stronger_look_counts_at_half_its_surprise() -> None:
    # Half as similar as the usual, but nowhere out of shape; and the other way round.
    far = np.stack([100 * FLAT] * 2, axis=1)
    close = np.stack([-2 + FLAT] * 2, axis=1)

    topic = of([[0.8, 0]], novelty(distance=far))[0]
    shape = of([[1, 0.9]], novelty(similarity=close))[0]

    # 0.2 of training queries are less similar than 0.8 is dissimilar: surprise 2 * min(0.8, 1).
    assert topic == pytest.approx(0, abs=1e-5)
    assert shape == pytest.approx(1 - 2 * 0.1, abs=1e-5)


def test_a_query_is_compared_with_its_nearest_domain_only() -> None:
    tight = np.stack([FLAT, 0.9 + FLAT / 10], axis=1)
    quiet = np.stack([100 * FLAT] * 2, axis=1)
    looks = novelty(similarity=tight, distance=quiet)

    scattered, narrow = of([[0.7, 0], [0, 0.7]], looks)

    assert scattered < 0.5
    assert narrow == 1


def test_a_querys_novelty_does_not_depend_on_its_neighbours() -> None:
    points = np.random.default_rng(1).normal(size=(150, 2)).astype(np.float32)
    looks = novelty()

    together = looks(points, 2 * points)

    alone = [looks(points[n : n + 1], 2 * points[n : n + 1])[0] for n in range(150)]
    assert together.tolist() == alone
    assert together.dtype == np.float32


def test_distances_are_those_of_mahalanobis() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    mean = np.array([3.0, -1.0])
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    whitening = np.zeros((3, 1, 2))
    whitening[:2, 0], whitening[2, 0] = root, -mean @ root
    points = np.random.default_rng(1).normal(size=(70, 2))

    found = distances(points, whitening)[:, 0]

    apart = points - mean
    exact = np.sqrt(np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart))
    assert found == pytest.approx(exact, rel=1e-5)
