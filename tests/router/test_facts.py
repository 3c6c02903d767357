from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ArtifactError, ConfigError
from moa.router.facts import (
    GRADE_STEPS,
    NO_GRADE,
    RouterFacts,
    grades_of,
    installed,
    read_facts,
    steps_of,
)
from moa.router.router import Router

FACTS = read_facts("moa/router/embedded")
POOL = ("openai/gpt-4o-mini", "google/gemini-1.5-pro", "openai/gpt-4o")


def test_facts_are_those_of_the_router() -> None:
    router = Router.load("moa/router/embedded")

    assert router.facts.version == FACTS.version
    assert router.facts.models == FACTS.models
    assert np.array_equal(router.facts.grades, FACTS.grades)
    assert len(FACTS.grades) == FACTS.training.queries
    for column, model in enumerate(FACTS.models):
        known = int((FACTS.grades[:, column] != NO_GRADE).sum())
        assert known == FACTS.training.outcomes[model]


def test_a_pool_with_an_unknown_model_is_refused() -> None:
    FACTS.check_pool(POOL)

    with pytest.raises(ConfigError, match=r"not trained on openai/gpt-9; it knows openai/gpt-4o,"):
        FACTS.check_pool([*POOL, "openai/gpt-9"])


def test_a_router_that_is_not_there_is_told() -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/artifact.json is not there"):
        read_facts("nowhere")


def test_the_installation_is_looked_at_only_for_what_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    away = installed("moa/router/embedded")
    (tmp_path / "moa/router/embedded").mkdir(parents=True)

    assert Path(away).is_absolute()
    assert (Path(away) / "artifact.json").is_file()
    assert installed("moa/router/embedded") == "moa/router/embedded"
    assert installed("s3://bucket/moa/router/embedded") == "s3://bucket/moa/router/embedded"
    assert installed("nowhere") == "nowhere"


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=50))
def test_grades_are_kept_to_half_a_step_and_missing_ones_stay_missing(grades: list[float]) -> None:
    given_ones = np.array(grades)

    kept = grades_of(steps_of(given_ones))

    assert np.array_equal(np.isnan(kept), np.isnan(given_ones))
    assert np.nanmax(np.abs(kept - given_ones), initial=0) <= 0.5 / GRADE_STEPS + 1e-12
    assert np.array_equal(steps_of(kept), steps_of(given_ones))


def with_grades(grades: np.ndarray) -> RouterFacts:
    return replace(FACTS, grades=grades)


def test_the_best_constant_is_compared_on_common_queries() -> None:
    best = FACTS.best_constant(FACTS.models)

    # gpt-4o-mini has the higher mean, 0.790 against 0.732, on the easier queries it was asked.
    assert best.model == "openai/gpt-4o"
    assert "openai/gpt-4o-mini on 1,800" in best.why
    assert "google/gemini-1.5-pro on 12,155" in best.why
    assert FACTS.best_constant(["openai/gpt-4o-mini"]).model == "openai/gpt-4o-mini"


def test_a_best_constant_that_few_queries_speak_for_says_how_many() -> None:
    grades = FACTS.grades.copy()
    mini = FACTS.models.index("openai/gpt-4o-mini")
    grades[grades[:, mini] != NO_GRADE, mini] = GRADE_STEPS

    best = with_grades(grades).best_constant(FACTS.models)

    assert best.model == "openai/gpt-4o-mini"
    assert "above that of openai/gpt-4o on 1,800 training queries that both" in best.why
