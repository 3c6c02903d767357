from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.final_answer import final_answer, is_unfinished, last_line


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ('{"reasoning": "2 + 2", "answer": "4"}', "4"),
        ('Sure:\n```json\n{"reasoning": "x",\n "answer": "4 apples"\n}\n```', "4 apples"),
        ('{"answer": 4}', "4"),
        ('{"answer": [1, 2]}', "[1, 2]"),
        ('{"answer": " a "}', " a "),
        ('{"answer": ""}', ""),
        ('{"final_answer": "4"}', "4"),
        ('{"answer": "3"}\nNo:\n{"answer": "4"}', "4"),
        ('{"answer": "a \\"b\\" c"}', 'a "b" c'),
        ('{"answer": "\\sqrt{2}"}', "\\sqrt{2}"),  # no valid JSON
        ('{"answer": "\\frac{1}{2}"}', "\\frac{1}{2}"),  # valid, but \f is a form feed
        ('{"answer": "\\\\frac{1}{2}"}', "\\frac{1}{2}"),
        ('{"answer": "2 \\times 3"}', "2 \\times 3"),
        ('{"answer": 4', "4"),
        ('{"reasoning": "so \\\\boxed{3}", "answer": "\\\\boxed{4}"}', "4"),
        ("<ANSWER>2</ANSWER>", "2"),
        ("<ANSWER>1</ANSWER> is wrong. <answer> 3 </answer>", "3"),
        ("so \\boxed{5}, no, \\boxed{6}.", "6"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{x = \\boxed{3}}", "3"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("The answer is 42. I am sure", "42"),
        ("the answer to this question is: **3.5**.", "3.5"),
        ("**Answer:** (B)", "(B)"),
        ("Final answer: Paris\n", "Paris"),
        ("The answer is $1,200.50.", "$1,200.50"),
        ("The answer is \\boxed{8} apples", "8"),
    ],
)
def test_a_marked_answer_is_found(completion: str, answer: str) -> None:
    assert final_answer(completion) == answer


@pytest.mark.parametrize("completion", ["", "42", "I do not know.", "\\boxed{4", "{}", "boxed 4"])
def test_what_marks_no_answer_has_none(completion: str) -> None:
    assert final_answer(completion) is None


@given(st.text(), st.text())
def test_a_json_answer_is_read_as_it_was_written(reasoning: str, answer: str) -> None:
    completion = json.dumps({"reasoning": reasoning, "answer": f"{answer}."})

    found = final_answer(completion)

    if "answer" not in answer.lower() and not any(sign in answer for sign in "\\<#\b\f\t\r"):
        assert found == f"{answer}."


def test_an_object_that_was_cut_off_is_unfinished() -> None:
    assert is_unfinished('```json\n{\n "reasoning": "first we')
    assert not is_unfinished('{"reasoning": "x", "answer": "4"}')
    assert not is_unfinished("first we")


@pytest.mark.parametrize(
    ("text", "line"), [("a\nb\n\n", "b"), ("a", "a"), ("", ""), ("\n", ""), ("a\n  b ", "b")]
)
def test_the_last_line_says_something(text: str, line: str) -> None:
    assert last_line(text) == line
