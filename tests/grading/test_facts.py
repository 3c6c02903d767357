from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.facts import FactsGrader, agreement
from moa.grading.grader import Grade

CAPITAL = json.dumps(
    {
        "answers": [
            {"answer": "Bonn", "from": "1949-05-23", "until": "1990-10-02"},
            {"answer": "Berlin", "from": "1990-10-03"},
        ]
    }
)
CAPITAL_1970 = json.dumps({**json.loads(CAPITAL), "cut_off": "1970-01-01"})


@pytest.mark.parametrize(
    ("completion", "reference", "grade"),
    [
        ("Paris", "Paris", 1.0),
        ("the paris.", "Paris", 1.0),
        ("The answer is Paris.", "Paris", 1.0),
        ('{"answer": "Paris"}', "Paris", 1.0),
        ("São Tomé", "Sao Tome", 1.0),
        ("Paris", '["London", "Paris"]', 1.0),
        ("New York City", "New York", 0.8),
        ("Berlin", "Paris", 0.0),
        ("-5", "5", 0.0),
        ("5", "-5", 0.0),
        ("$5", "\u20ac5", 0.0),
        ("C++", "C", 0.0),
        ("c++", "C++", 1.0),
        ("12 Monkeys", "12 Angry Men", 0.0),
        ("12 monkeys", "Twelve Monkeys", 1.0),
        ("5 million", "5 billion", 0.0),
        ("3 PM", "3 AM", 0.0),
        ("42 people", "42", 1.0),
        ("five", "5", 1.0),
        ("1,200 people", "1200", 1.0),
        ("1201", "1200", 0.0),
        ("10%", "0.1", 1.0),
        ("March 5, 2021", "5 March 2021", 1.0),
        ("March 6, 2021", "5 March 2021", 0.0),
        ("Paris\n\nIt has been the capital since 987.", "Paris", 1.0),
        ("Berlin", CAPITAL, 1.0),
        ("Bonn", CAPITAL, 0.0),
        ("Bonn", CAPITAL_1970, 1.0),
        ("Berlin", CAPITAL_1970, 0.0),
        ("7", "[7]", 1.0),
        ("[sic]", "[sic]", 1.0),
    ],
)
def test_the_best_agreement_with_any_reference_counts(
    completion: str, reference: str, grade: float
) -> None:
    assert FactsGrader().grade(completion, reference).value == pytest.approx(grade)


def test_without_partial_grades_shared_words_are_not_enough() -> None:
    whole = FactsGrader(partial=False)

    assert whole.grade("New York City", "New York") == Grade(0.0)
    assert whole.grade("new york", "New York") == Grade(1.0)
    assert whole.version != FactsGrader().version


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("", "Paris"),
        ("Paris", ""),
        ("Paris", "[]"),
        ("Paris", '{"a": 1}'),
        ("Paris", '{"answers": [null]}'),
        ("Paris", '{"answers": [{"answer": "Paris", "from": "last year"}]}'),
        ("Paris", '{"answers": [{"answer": "Paris", "until": "1990-01-01"}]}'),
    ],
)
def test_what_cannot_be_judged_is_missing(completion: str, reference: str) -> None:
    grade = FactsGrader().grade(completion, reference)

    assert grade.value is None
    assert grade.reason


@given(st.text(), st.text())
def test_agreement_is_in_its_bounds_and_whole_with_itself(one: str, other: str) -> None:
    assert 0.0 <= agreement(one, other) <= 1.0
    assert agreement(one, one) == 1.0 or not one.strip()


WORDS = st.lists(st.sampled_from(["red", "green", "blue", "old", "new"]), min_size=1).map(" ".join)


@given(WORDS, WORDS)
def test_shared_words_count_alike_both_ways(one: str, other: str) -> None:
    assert agreement(one, other) == pytest.approx(agreement(other, one))
