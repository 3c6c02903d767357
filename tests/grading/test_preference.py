from __future__ import annotations

import numpy as np
import pytest

from moa.grading.judgements import Judgements, Pair, Rating
from moa.grading.preference import RATINGS, Given, Preferences, graded_by_judgements
from tests.grading.simulated import STRENGTHS, judged, model


def of_pairs(*pairs: Pair, sources: dict[str, str] | None = None) -> Preferences:
    return graded_by_judgements(Judgements(list(pairs), [], []), sources or {})


def of(found: Preferences, query_id: str, model: str) -> Given:
    (given,) = (one for one in found.given if (one.query_id, one.model) == (query_id, model))
    return given


def value(found: Preferences, query_id: str, model: str) -> float:
    grade = of(found, query_id, model).grade.value
    assert grade is not None
    return grade


def test_the_mean_grade_of_a_model_is_how_often_it_wins() -> None:
    found = of_pairs(*judged(8000, seed=1))

    for number, strength in enumerate(STRENGTHS):
        others = np.delete(STRENGTHS, number)
        wins = (1 / (1 + np.exp(others - strength))).mean()
        grades = [one.grade.value for one in found.given if one.model == model(number)]
        assert np.mean(np.array(grades, float)) == pytest.approx(wins, abs=0.03)


def test_an_answer_is_graded_by_its_own_judgements_and_by_whom_it_beat() -> None:
    known = judged(2000, seed=2)
    strongest, middle, weakest = model(4), model(2), model(0)
    often = [Pair("often", middle, strongest, 1.0, rater=str(n)) for n in range(5)]

    found = of_pairs(
        *known,
        *often,
        Pair("strong", middle, strongest, 1.0),
        Pair("weak", middle, weakest, 1.0),
        Pair("lost", middle, weakest, 0.0),
    )

    grades = [value(found, query, middle) for query in ("often", "strong", "weak", "lost")]
    assert grades == sorted(grades, reverse=True)
    assert 0 < grades[-1] < 0.5 < grades[2] < grades[0] < 1
    assert of(found, "often", middle).judgements == 5


def test_each_source_has_strengths_of_its_own() -> None:
    poems = [one._replace(source="poems") for one in judged(400, seed=3)]
    turned = [Pair(f"x{n}", one.model_a, one.model_b, 1 - one.share) for n, one in enumerate(poems)]

    found = of_pairs(*poems, *turned, sources={one.query_id: "maths" for one in turned})

    by_source = {group.source: group.strengths.value for group in found.groups}
    assert by_source["maths"] == pytest.approx(-by_source["poems"])


def test_models_that_nothing_connects_with_the_others_have_no_grade() -> None:
    found = of_pairs(*judged(100, seed=4), Pair("q0", "v/alone", "v/other", 1.0))

    grade = of(found, "q0", "v/alone").grade
    assert grade.value is None
    assert "not connected" in grade.reason
    assert found.groups[0].apart == ("v/alone", "v/other")
    assert found.groups[0].judgements == 100


def test_few_judgements_are_no_grade() -> None:
    found = of_pairs(*judged(19, seed=5))

    assert found.groups == []
    assert {one.grade.value for one in found.given} == {None}
    assert of(found, "q0", found.given[0].model).grade.reason.startswith("too few judgements: 19")


def test_one_sided_wins_stay_inside_the_scale() -> None:
    found = of_pairs(*(Pair(f"q{n}", "v/x", "v/y", 1.0) for n in range(1000)))

    assert 0.99 < value(found, "q1", "v/x") < 1
    assert 0 < value(found, "q1", "v/y") < 0.01


def test_several_raters_of_one_answer_are_averaged() -> None:
    ratings = [Rating("q", "v/x", 1.0, "ann"), Rating("q", "v/x", 0.5, "bob")]
    unsure = Rating("q", "v/x", None, "cid", "not sure")

    found = graded_by_judgements(Judgements([], [*ratings, unsure], []), {})

    (given,) = found.given
    assert given.grade.value == 0.75
    assert given.judgements == 2
    assert given.grader == RATINGS


def test_nobody_could_tell_is_missing_with_the_reason() -> None:
    found = graded_by_judgements(
        Judgements([], [Rating("q", "v/x", None, "judge/1 v/j", "no verdict")], []), {}
    )

    (given,) = found.given
    assert given.grade.value is None
    assert given.grade.reason == "no verdict"
    assert given.grader == "judge/1 v/j"


def test_a_rating_goes_before_pairs() -> None:
    pairs = judged(100, seed=6)
    rated = Rating("q0", pairs[0].model_a, 0.125)

    found = graded_by_judgements(Judgements(pairs, [rated], []), {})

    assert value(found, "q0", pairs[0].model_a) == 0.125
    assert value(found, "q0", pairs[0].model_b) != 0.125


def test_a_grade_by_a_model_alone_names_it() -> None:
    pairs = [one._replace(rater="judge/1 v/j") for one in judged(100, seed=7)]
    pairs.append(Pair("q0", pairs[0].model_a, pairs[0].model_b, 1.0, rater="ann"))

    found = of_pairs(*pairs)

    assert of(found, "q1", pairs[1].model_a).grader == "preference/1 choix/0.4.1 by judge/1 v/j"
    assert of(found, "q0", pairs[0].model_a).grader == "preference/1 choix/0.4.1"
