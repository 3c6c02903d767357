from __future__ import annotations

import pytest

from moa.grading.choice import ChoiceGrader
from moa.grading.grader import Grade


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("B", "B"),
        ("b", "(B)"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. Paris", "B"),
        ("B) Paris", "b"),
        ("The answer is (B).", "B"),
        ("The correct answer is B", "B"),
        ("Let me think. A is wrong.\n\nAnswer: B", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ('{"reasoning": "not A", "answer": "B"}', "B"),
        ("I would go for option B here", "B"),
        ("A looks right, but in the end it is (B) that holds", "B"),
        ("<ANSWER>3</ANSWER>", "3"),
        ("<ANSWER>2</ANSWER> is wrong.\n<ANSWER>3</ANSWER>", "3"),
        ("Option 3", "3"),
        ("A, C", "C, A"),
        ("A and C", "AC"),
        ("Answer: A, B and D", "A,B,D"),
        ("The answers are A, B and C", "ABC"),
        ("The answer is A, because B is wrong.", "A"),
        ("The answer is B since it is so", "B"),
        ("So the answer is:\n\n**(B) Paris**", "B"),
        ("**B**\n\nBecause A is not right.", "B"),
        ("I choose (B), not (D).", "B"),
    ],
)
def test_the_picked_options_are_right(completion: str, reference: str) -> None:
    assert ChoiceGrader().grade(completion, reference) == Grade(1.0)


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("A", "B"),
        ("<ANSWER>None of the above</ANSWER>", "3"),
        ("<ANSWER>31</ANSWER>", "3"),
        ("I do not know", "B"),
        ("A", "A, C"),
        ("A, B", "A"),
        ("A man walks in", "A"),
        ("Answer: Berlin", "B"),
        ("I would choose (B) over (D).", "D"),
        ("I choose (B), not (D).", "D"),
        ("A. Paris is wrong.\nB. So is Rome.\nIt remains open.", "A"),
        ("The answer is DEAD", "ADE"),
    ],
)
def test_other_options_or_none_are_wrong(completion: str, reference: str) -> None:
    assert ChoiceGrader().grade(completion, reference) == Grade(0.0)


@pytest.mark.parametrize(("completion", "reference"), [("", "B"), ("B", ""), ("B", "Paris")])
def test_what_cannot_be_judged_is_missing(completion: str, reference: str) -> None:
    grade = ChoiceGrader().grade(completion, reference)

    assert grade.value is None
    assert grade.reason
