from __future__ import annotations

import numpy as np
import pytest

from moa.training.ease import LEAST_GRADES, fit_ease

MODELS = 40
STRENGTHS = np.linspace(-1, 1, MODELS)


def graded(
    ease: np.ndarray, domain: np.ndarray, of_domain: np.ndarray, seed: int = 1
) -> np.ndarray:
    odds = (ease + of_domain[domain])[:, None] + STRENGTHS
    random = np.random.default_rng(seed)
    return np.asarray(random.random(odds.shape) < 1 / (1 + np.exp(-odds)), float)


def planted(queries: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ease, domain, ease of the domains, grades."""
    random = np.random.default_rng(5)
    domain = np.arange(queries) % 3
    ease = random.normal(0, 1, queries)
    of_domain = np.array([-1.0, 0.25, 0.75])
    return ease, domain, of_domain, graded(ease, domain, of_domain)


def test_the_ease_of_queries_and_domains_is_found() -> None:
    ease, domain, of_domain, grade = planted()

    found = fit_ease(grade, domain)

    assert np.corrcoef(found.of_query, ease)[0, 1] > 0.9
    assert found.of_domain == pytest.approx(of_domain, abs=0.2)
    assert found.of_domain.mean() == pytest.approx(0, abs=1e-9)


def test_a_strong_model_in_one_domain_only_does_not_make_the_domain_easy() -> None:
    ease, domain, of_domain, grade = planted()
    strong, weak = STRENGTHS > 0.3, STRENGTHS < -0.3
    grade[np.ix_(domain == 0, weak)] = np.nan
    grade[np.ix_(domain == 2, strong)] = np.nan

    found = fit_ease(grade, domain)

    raw = [np.nanmean(grade[domain == n]) for n in range(3)]
    assert raw[2] - raw[0] < 0.25  # where all were asked, 0.31
    assert found.of_domain == pytest.approx(of_domain, abs=0.35)
    assert np.corrcoef(found.of_query, ease)[0, 1] > 0.85


def test_few_answers_are_believed_less_than_many() -> None:
    _, domain, _, grade = planted()
    grade[0] = 1
    grade[3] = np.nan
    grade[3, :2] = 1

    found = fit_ease(grade, domain)

    assert 0 < found.of_query[3] < found.of_query[0] / 2


def test_where_nothing_tells_there_is_no_ease() -> None:
    _, domain, _, grade = planted()
    grade[7] = np.nan
    rare = domain == 1
    grade[rare] = np.nan
    told = np.flatnonzero(rare)[: LEAST_GRADES - 1]
    grade[told] = 1

    found = fit_ease(grade, domain)

    assert np.isnan(found.of_query[7])
    assert np.isnan(found.of_query[rare]).all()
    assert found.of_domain[1] == 0
    assert np.isfinite(found.of_query[~rare & (np.arange(900) != 7)]).all()


def test_without_any_domain_that_is_told_of_all_are_alike() -> None:
    found = fit_ease(np.ones((LEAST_GRADES - 1, 2)), np.zeros(LEAST_GRADES - 1, np.intp))

    assert np.isnan(found.of_query).all()
    assert found.of_domain.tolist() == [0]
