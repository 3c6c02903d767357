from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.grading.grader import Grade
from moa.grading.maths import MathsGrader, given_answer

PIECES = st.sampled_from(
    ["\\frac", "{", "}", "(", ")", "[", "]", ",", "1", "23", "0", ".", "/", "^", "_", "-", "+", "=",
     "<", "\\le ", "\\sqrt", "\\pi ", "x", "y", " ", "$", "\\%", "%", "\\text{", " or ", " and ",
     "\\boxed{", "\\pm ", "\\infty ", "\\cup ", "!", "*", "\\{", "\\}", ":", "#", "\u00bd", "\n"]
)  # fmt: skip
WRITTEN = st.lists(PIECES, max_size=12).map("".join)


@pytest.fixture(scope="module")
def maths() -> MathsGrader:
    return MathsGrader()


def equal_and_different() -> Iterator[tuple[str, str, float]]:
    """Answer, reference, grade."""
    for answer, reference in [
        # read by us
        ("10\\%", "0.1"), ("0.1", "10\\%"), ("75\\%", "75"), ("$1,450,000", "1450000"),
        ("3\\frac{1}{2}", "3.5"), ("3 1/2", "\\frac{7}{2}"), ("\\$12.50", "12.5"),
        ("30^\\circ", "30"), ("30 degrees", "30^{\\circ}"), ("x = 3", "3"), ("3", "x=3"),
        ("12\\text{ cm}^2", "12"), ("2 hours", "120 minutes"), ("\\text{(C)}", "C"), ("c", "(C)"),
        ("C) 42", "C"), ("Yes, it is", "yes"), ("\\text{even}", "Even"),
        ("no solutions", "No solution"),
        ("9 AM", "9:00 a.m."), ("5 \\text{ m/s}^2", "5"), ("5 m/s", "18 km/h"),
        ("60 miles per hour", "60 mph"), ("60 miles per hour", "60 miles"), ("4 units^2", "4"),
        ("\\$1.2 million", "1200000"), ("1.2 million", "1.2"), ("5 hundred", "500"),
        ("\\textbf{(B) } 12", "12"), ("y=2, x=1", "x=1, y=2"), ("y=2, x=1", "(1,2)"),
        ("(x,y)=(1,2)", "x=1, y=2"), ("(y,x)=(2,1)", "(1,2)"), ("(x,y)=(1,2)", "(1,2)"),
        ("10\\pi \\text{ cm}^2", "10\\pi"), ("10\\pi", "10\\pi \\text{ square cm}"),
        ("-y+x", "x-y"), ("5 units", "5 cm"),
        ("0.666666666", "2/3"), ("2.999999999", "3"), ("03:30", "3:30"),
        # ranges
        ("(1,2]", "1<x\\le 2"), ("1<x\\le 2", "(1,2]"), ("x \\in [2, \\infty)", "x \\ge 2"),
        ("x<-1 \\text{ or } x>3", "(-\\infty,-1)\\cup(3,\\infty)"),
        ("(3,\\infty)\\cup(-\\infty,-1)", "x<-1 \\text{ or } x>3"),
        ("[\\sqrt{4}, 3)", "2 \\le x < 3"), ("|x| < 3", "(-3,3)"),
        # several answers
        ("3, 1 and 2", "\\{1,2,3\\}"), ("x=2, x=-2", "\\pm 2"), 
        ("\\pm\\sqrt{2}", "\\sqrt2,-\\sqrt2"),
        ("(3, 0.5)", "(3,\\frac12)"), ("[1, 2, 3]", "1, 2, 3"),
        # read by the library
        ("\\sqrt{50}", "5\\sqrt{2}"), ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt2}{2}"),
        ("2^{10}", "1024"), ("5!", "120"), ("\\binom{5}{2}", "10"), ("3+4i", "4i+3"),
        ("(x-1)(x+1)", "x^2-1"), ("2x+1=y", "y=2x+1"), ("\\frac{\\pi}{6}", "pi/6"),
        ("1.41421356", "\\sqrt{2}"), ("0.\\overline{3}", "\\frac13"), ("\u221a16", "4"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
         "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}"),
    ]:  # fmt: skip
        yield answer, reference, 1.0
    for answer, reference in [
        ("-0.5", "0.5"), ("1/2", "1/3"), ("0.333", "1/3"), ("9.111", "9.11"), ("500%", "50"),
        ("2 hours", "2 minutes"), ("B", "C"), ("No", "Yes"), ("Monday", "Tuesday"),
        ("(2,5)", "[2,5]"), ("(1,3]", "1<x\\le 2"), ("x>3", "x\\ge 3"), ("(3,4)", "(4,3)"),
        ("1, 2", "1, 2, 3"), ("2, 2", "2, 3"), ("10879, -10879", "10879"), ("1.41", "\\sqrt2"),
        ("25 - 15\\frac{z_2}{z_1}", "25"), ("\\frac{3\\sqrt{6}}{5\\sqrt{5}}", "3"), ("p - 2", "2"),
        ("1021_3", "1021_4"), ("\\infty", "-\\infty"), ("3x^2", "3x^3"), ("a", "b"),
        ("No solution", "5"), ("1/0", "3"),
        # alike to whoever drops words, signs or order
        ("3:30 PM", "3:30 AM"), ("9 a.m.", "9 p.m."), ("500 BC", "500 AD"), ("1:15", "2:30"),
        ("20^\\circ C", "20^\\circ F"), ("60 \\text{ mph}", "60 \\text{ km/h}"),
        ("5 \\text{ m/s}", "5 \\text{ km/h}"), ("5 million", "5 thousand"), ("4 squared", "4"),
        ("4 times x", "4"), ("2 thirds", "2"), ("2 xy", "2"), ("x-y", "xy"), ("a, b", "ab"),
        ("1 2 3", "123"), ("10 1/2", "101/2"), ("x=1, y=2", "x=2, y=1"), ("x=2, y=1", "(1,2)"),
        ("(x,y)=(2,1)", "x=1, y=2"), ("10\\pi \\text{ cm}^2", "10\\pi \\text{ cm}^3"),
        ("\\langle 1,2\\rangle", "\\langle 2,1\\rangle"), ("(1,2)", "\\{1,2\\}"),
        ("\\{1,2\\}", "[1,2]"), ("1234567.0", "1234568"), ("12345678", "12345678.4"),
        ("(A), (B)", "A"), ("1 hour 30 minutes", "1 hour"),
        ("\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 4 \\end{pmatrix}"),
    ]:  # fmt: skip
        yield answer, reference, 0.0


@pytest.mark.parametrize(("answer", "reference", "grade"), list(equal_and_different()))
def test_answers_are_compared_as_values(
    maths: MathsGrader, answer: str, reference: str, grade: float
) -> None:
    boxed = f"So it is \\boxed{{{answer}}}."
    in_json = json.dumps({"reasoning": "Let us see: 17.", "answer": answer})

    assert maths.grade(boxed, reference) == Grade(grade)
    assert maths.grade(in_json, reference) == Grade(grade)
    assert maths.grade(boxed, f"first this\n#### {reference}") == Grade(grade)


@pytest.mark.parametrize(
    ("completion", "reference", "grade"),
    [
        ("Thus the total cost is 3 * 6 = 18 dollars.", "18", 1.0),
        ("First 5, then 7.\n\nSo the answer is 12.\n\nI hope this helps!", "12", 1.0),
        ("She has 12 left.\n\nI hope this helps!", "12", 1.0),
        ("It took her over 18 hours", "18", 1.0),
        ("5 of the 8 are red, so the number of red ones is 5", "5", 1.0),
        ("Jeff has 86 glasses and 42 plates now.", "128", 0.0),
        ("We get $x = \\frac12$, so the length is $\\frac{\\sqrt 3}{2}$.", "\\sqrt{3}/2", 1.0),
        ('{"reasoning": "first 12, then 13', "13", 0.0),
        ("I cannot say.", "13", 0.0),
        ("So the final answer is:\n\n**5**", "5", 1.0),
        ("Answer:\n\nTo solve this we add.\n\nThe sum is 7", "7", 1.0),
        ("Thus, 3", "3", 1.0),
        ("42", "# 42", 1.0),
    ],
)
def test_an_answer_that_is_not_marked_is_looked_for(
    maths: MathsGrader, completion: str, reference: str, grade: float
) -> None:
    assert maths.grade(completion, reference) == Grade(grade)


@pytest.mark.parametrize(
    ("completion", "reference", "reason"),
    [
        ("", "5", "the completion is empty"),
        (" \n", "5", "the completion is empty"),
        ("5", "", "the reference is empty"),
        ("5", " $ $ ", "the reference is empty"),
        ("5", "x" * 3000, "the reference is longer than 2000 characters"),
        ("\\boxed{5}", "\\frac{{", "unreadable reference"),
    ],
)
def test_what_cannot_be_judged_is_missing(
    maths: MathsGrader, completion: str, reference: str, reason: str
) -> None:
    assert maths.grade(completion, reference) == Grade(None, reason)


def test_what_takes_too_long_is_missing_and_the_next_is_graded() -> None:
    hasty = MathsGrader(limit_s=2.0)
    assert hasty.grade("\\boxed{\\sqrt{4}}", "2") == Grade(1.0)

    grade = hasty.grade("\\boxed{9^{9^{9^9}}}", "3")

    assert grade == Grade(None, "took longer than 2 s")
    assert hasty.grade("\\boxed{\\sqrt{9}}", "3").value == 1.0


def test_the_version_names_the_libraries_that_decide(maths: MathsGrader) -> None:
    names = [part.split("/")[0] for part in maths.version.split()]

    assert names == ["maths", "math-verify", "latex2sympy2-extended", "sympy"]


@settings(max_examples=60)
@given(WRITTEN, WRITTEN)
def test_a_grade_is_0_or_1_or_missing_with_a_reason(
    maths: MathsGrader, completion: str, reference: str
) -> None:
    grade = maths.grade(completion, reference)

    assert grade.value in (0.0, 1.0) if not grade.reason else grade.value is None


@given(st.text() | WRITTEN)
def test_a_reference_as_its_own_completion_is_right(maths: MathsGrader, reference: str) -> None:
    grade = maths.grade(reference, reference)

    assert grade.value == 1.0 or grade.reason == "the reference is empty"


@given(st.text() | WRITTEN, st.sampled_from(["5", "x", "(1,2]", "yes"]))
def test_an_answer_is_taken_out_of_whatever_there_is(completion: str, reference: str) -> None:
    answer = given_answer(completion, reference)

    assert answer is None or len(answer) <= max(2 * len(completion), 100)
