from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moa.router.factors import softmax
from moa.training.dataset import Dataset
from moa.training.domains import (
    LEAST_SOURCE,
    MOST_SOURCES,
    OTHERS,
    PER_CLUSTER,
    Domains,
    find_domains,
    fit_domain_map,
)
from tests.training.made import SOURCES, made

MADE = made()
X = MADE.reading.embeddings.astype(np.float64)
FOLD = np.arange(len(X)) % 5
EVEN = np.ones(len(X))


def with_sources(sources: list[str]) -> Dataset:
    return replace(MADE.data, sources=tuple(sources))


def test_the_sources_of_a_log_are_its_domains() -> None:
    found = find_domains(MADE.data, MADE.reading.embeddings)

    assert found.names == list(SOURCES)
    assert np.array_equal(found.of_query, MADE.domain)


def test_small_sources_are_others_together() -> None:
    sources = list(MADE.data.sources)
    sources[: LEAST_SOURCE - 1] = ["small"] * (LEAST_SOURCE - 1)
    sources[30], sources[31] = "a single one", "zoology"

    found = find_domains(with_sources(sources), MADE.reading.embeddings)

    assert found.names == [*SOURCES, OTHERS]
    named = [found.names[n] for n in found.of_query.tolist()]
    assert named == [source if source in SOURCES else OTHERS for source in sources]


def test_a_source_per_customer_makes_no_thousand_domains() -> None:
    data = MADE.data.only(np.arange(LEAST_SOURCE * 40) % len(X))
    customers = [f"customer {n % 40}" for n in range(LEAST_SOURCE * 40)]

    found = find_domains(replace(data, sources=tuple(customers)), MADE.reading.embeddings)

    assert len(found.names) == MOST_SOURCES + 1
    assert found.names[-1] == OTHERS
    assert (found.of_query == MOST_SOURCES).sum() == 10 * LEAST_SOURCE


def test_sources_that_are_all_small_are_one_domain() -> None:
    each_its_own = [f"s{n}" for n in range(len(X))]

    found = find_domains(with_sources(each_its_own), MADE.reading.embeddings)

    assert found.names == [OTHERS]
    assert not found.of_query.any()


def test_a_log_of_one_source_is_cut_into_clusters_alike_on_a_rerun() -> None:
    big = made(3, queries=3 * PER_CLUSTER)
    data = replace(big.data, sources=("log",) * len(big.data.texts))

    first = find_domains(data, big.reading.embeddings)
    again = find_domains(data, big.reading.embeddings)

    assert first.names == ["log 1", "log 2", "log 3"]
    assert np.array_equal(first.of_query, again.of_query)
    table = np.zeros((3, 3))
    np.add.at(table, (first.of_query, big.domain), 1)
    assert table.max(axis=1).sum() / table.sum() > 0.95


def test_a_small_log_of_one_source_is_one_domain() -> None:
    few = np.arange(PER_CLUSTER)

    found = find_domains(with_sources(["log"] * len(X)).only(few), MADE.reading.embeddings[few])

    assert found.names == ["log"]
    assert not found.of_query.any()


def test_a_log_of_one_question_asked_again_and_again_is_one_domain() -> None:
    same = np.resize(MADE.reading.embeddings[:1], (len(X), X.shape[1]))
    asked = np.resize(MADE.reading.embeddings[:2], (3 * len(X), X.shape[1]))

    one = find_domains(with_sources(["log"] * len(X)), same)
    two = find_domains(with_sources(["log"] * len(X)), asked)

    assert one.names == ["log 1"]
    assert two.names == ["log 1", "log 2"]
    assert set(two.of_query) == {0, 1}


def test_the_map_finds_the_domains_of_queries_that_it_has_not_seen() -> None:
    domains = find_domains(MADE.data, MADE.reading.embeddings)
    new = made(8)

    fitted = fit_domain_map(X, domains, EVEN, FOLD)

    log_odds = new.reading.embeddings @ fitted.weights[:-1] + fitted.weights[-1]
    assert (log_odds.argmax(axis=1) == new.domain).mean() > 0.97
    assert (fitted.share.argmax(axis=1) == MADE.domain).mean() > 0.97
    assert fitted.share.sum(axis=1) == pytest.approx(EVEN)


def test_a_share_is_told_by_a_map_that_has_not_seen_the_query() -> None:
    domains = find_domains(MADE.data, MADE.reading.embeddings)
    wrong = domains._replace(
        of_query=np.where(FOLD == 2, (domains.of_query + 1) % 3, domains.of_query)
    )

    before = fit_domain_map(X, domains, EVEN, FOLD)
    after = fit_domain_map(X, wrong, EVEN, FOLD)

    assert np.array_equal(before.share[FOLD == 2], after.share[FOLD == 2])
    assert (before.share[FOLD != 2] != after.share[FOLD != 2]).all()


def test_two_domains_are_told_apart_as_three_are() -> None:
    two = np.flatnonzero(MADE.domain < 2)
    domains = find_domains(MADE.data.only(two), MADE.reading.embeddings[two])

    fitted = fit_domain_map(X[two], domains, EVEN[two], FOLD[two])

    share = softmax(X[two] @ fitted.weights[:-1] + fitted.weights[-1])
    assert (share.argmax(axis=1) == MADE.domain[two]).mean() > 0.97
    assert fitted.share.shape == (len(two), 2)


def test_a_domain_of_no_weight_is_never_likely() -> None:
    domains = find_domains(MADE.data, MADE.reading.embeddings)
    weight = np.where(MADE.domain == 1, 0.0, 1.0)

    fitted = fit_domain_map(X, domains, weight, FOLD)

    assert fitted.share[:, 1].max() < 1e-6


def test_of_one_domain_every_query_is_sure() -> None:
    few = np.arange(50)
    domains = find_domains(with_sources(["log"] * len(X)).only(few), MADE.reading.embeddings[:50])

    fitted = fit_domain_map(X[:50], domains, EVEN[:50], FOLD[:50])

    assert (fitted.share == 1).all()
    assert not fitted.weights.any()


@pytest.mark.parametrize("stray", [1, 30])
def test_a_domain_of_one_fold_is_told_of_there_as_unheard_of(stray: int) -> None:
    of_query = np.where(np.isin(np.arange(len(X)), np.flatnonzero(FOLD == 2)[:stray]), 1, 0)

    fitted = fit_domain_map(X, Domains(["log", "stray"], of_query), EVEN, FOLD)

    assert fitted.share[FOLD == 2, 1].max() < 1e-6
    assert np.isfinite(fitted.share).all()
    assert np.isfinite(fitted.weights).all()
