from __future__ import annotations

import numpy as np

from moa.router.novelty import fit_novelty


def test_groups_of_unlike_spread_are_each_spread_evenly() -> None:
    random = np.random.default_rng(4)
    wide = random.normal(4 * np.eye(8)[0], 1.0, (4000, 8))
    tight = random.normal(4 * np.eye(8)[1], 0.1, (1000, 8))
    vectors = np.concatenate([wide, tight])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    groups = np.repeat([0, 1], [4000, 1000])
    new = random.permutation(5000) < 2500

    novelty = fit_novelty(vectors[~new], groups[~new], np.arange((~new).sum()) % 5, 8)
    of_new = novelty(vectors[new])

    for group in (0, 1):
        shares = (
            np.histogram(of_new[groups[new] == group], 5, (0, 1))[0] / (groups[new] == group).sum()
        )
        assert (np.abs(shares - 0.2) < 0.07).all()
    assert novelty(np.eye(8, dtype=np.float32)[-1:])[0] == 1


def test_a_group_in_one_fold_only_has_a_place_all_the_same() -> None:
    random = np.random.default_rng(4)
    vectors = random.normal(size=(100, 8)).astype(np.float32)
    groups = np.where(np.arange(100) == 0, 1, 0)

    novelty = fit_novelty(vectors, groups, np.arange(100) % 5, 8)

    assert np.isfinite(novelty.centres).all()
    assert np.isfinite(novelty(vectors)).all()
