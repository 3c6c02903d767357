from __future__ import annotations

import numpy as np
import pytest

from moa.router.features import fit_features
from moa.router.novelty import Novelty
from moa.training.fit import Reading
from moa.training.novelty import fit_novelty
from tests.training.made import made

TAUGHT, NEW = made(1, queries=3000), made(2, queries=3000)
EVEN = np.ones(3000)
FOLD = np.arange(3000) % 5
FEATURES = fit_features(*TAUGHT.reading, EVEN)


def fitted(rows: np.ndarray) -> Novelty:
    embeddings = TAUGHT.reading.embeddings[rows]
    features = FEATURES(*TAUGHT.reading.only(rows))
    _, domain = np.unique(TAUGHT.domain[rows], return_inverse=True)
    return fit_novelty(embeddings, features, domain, EVEN[rows], FOLD[rows])


def of(novelty: Novelty, reading: Reading) -> np.ndarray:
    return novelty(reading.embeddings, FEATURES(*reading))


def test_of_queries_like_the_training_data_no_more_are_novel_than_it_says() -> None:
    novelty = of(fitted(np.ones(3000, bool)), NEW.reading)

    for domain in range(3):
        mine = novelty[NEW.domain == domain]
        for most in (0.6, 0.75, 0.9, 0.95):
            assert 0.1 * (1 - most) < (mine > most).mean() < 1.35 * (1 - most) + 0.01, most


@pytest.mark.parametrize("domain", [0, 1, 2])
def test_a_kind_of_query_that_was_left_out_is_novel(domain: int) -> None:
    novelty = of(fitted(TAUGHT.domain != domain), NEW.reading)

    strange = NEW.domain == domain
    assert np.median(novelty[strange]) > 0.99
    assert np.median(novelty[~strange]) < 0.6


def test_a_shape_that_nothing_had_is_novel_though_the_topic_is_known() -> None:
    novelty = fitted(np.ones(3000, bool))
    odd = NEW.reading.surface + np.float32(100)

    found = of(novelty, Reading(NEW.reading.embeddings, odd))

    assert found.min() > 0.99


def test_groups_of_unlike_spread_are_each_spread_evenly() -> None:
    random = np.random.default_rng(4)
    wide = random.normal(4 * np.eye(8)[0], 1.0, (4000, 8))
    tight = random.normal(4 * np.eye(8)[1], 0.1, (1000, 8))
    vectors = np.concatenate([wide, tight])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    domain = np.repeat([0, 1], [4000, 1000])
    new = random.permutation(5000) < 2500
    none = np.zeros((5000, 1), np.float32)
    features = fit_features(vectors[~new], none[~new], np.ones((~new).sum()))

    novelty = fit_novelty(
        vectors[~new], features(vectors[~new], none[~new]), domain[~new],
        np.ones((~new).sum()), np.arange((~new).sum()) % 5,
    )  # fmt: skip
    of_new = novelty(vectors[new], features(vectors[new], none[new]))

    for group in (0, 1):
        mine = of_new[domain[new] == group]
        for most in (0.6, 0.75, 0.9):
            assert 0.1 * (1 - most) < (mine > most).mean() < 1.3 * (1 - most) + 0.02
    away = np.eye(8, dtype=np.float32)[-1:]
    assert novelty(away, features(away, none[:1]))[0] == 1


def test_a_group_in_one_fold_only_has_a_place_all_the_same() -> None:
    random = np.random.default_rng(4)
    vectors = random.normal(size=(100, 8)).astype(np.float32)
    surface = random.random((100, 3)).astype(np.float32)
    domain = np.where(np.arange(100) == 0, 1, 0)
    features = fit_features(vectors, surface, EVEN[:100])(vectors, surface)

    novelty = fit_novelty(vectors, features, domain, EVEN[:100], FOLD[:100])

    assert np.isfinite(novelty.centres).all()
    assert np.isfinite(novelty.whitening).all()
    assert np.isfinite(novelty(vectors, features)).all()


def test_equal_data_gives_equal_numbers() -> None:
    one, other = fitted(np.ones(3000, bool)), fitted(np.ones(3000, bool))

    for name in ("centres", "similarity", "directions", "whitening", "distance"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
