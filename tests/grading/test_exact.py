from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.exact import ExactGrader, is_exactly
from moa.grading.grader import Grade

LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("[1,2]", "[1, 2]"),
        ('"a"', "'a'"),
        ("a", "'a'"),
        ("'a'", "a"),
        ("", "''"),
        ('""', "''"),
        (" a ", "' a '"),
        ("{'b': 1, 'a': 2}", '{"a": 2, "b": 1}'),
        ("true", "True"),
        ("null", "None"),
        ("`[1, 2]`", "[1, 2]"),
        ("```python\n[1, 2]\n```", "[1, 2]"),
        ("('a', 1), ('b', 2)", "(('a', 1), ('b', 2))"),
        ("372359", "'372359'"),
        ("a\\nb", "'a\\nb'"),
        ("'148: b'148''", "\"148: b'148'\""),
        ("Paris", "Paris"),
        ("-0", "0"),
        ("\\foo", "'\\\\foo'"),
        ("'t\nZ'", "'t\\nZ'"),
    ],
)
def test_the_same_literal_is_exact(given: str, reference: str) -> None:
    assert is_exactly(given, reference)


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("1", "'2'"),
        ("'1'", "1"),
        ("1", "True"),
        ("1.0", "1"),
        ("(1, 2)", "[1, 2]"),
        ("a", "' a '"),
        ("Paris", "paris"),
        ("[1, 2", "[1, 2]"),
        ("{1, 2}", "[1, 2]"),
        ("'r'", "''"),
        ("'\"a\"'", "'a'"),
        ("'\\foo'", "'\\\\foo'"),
        ("'148: b'148'", "\"148: b'148'\""),
    ],
)
def test_another_value_or_type_is_not(given: str, reference: str) -> None:
    assert not is_exactly(given, reference)


@given(LITERALS)
def test_a_literal_is_exact_in_python_and_in_json(value: object) -> None:
    completion = json.dumps({"reasoning": "so", "answer": repr(value)})

    if not any(sign in repr(value) for sign in ("answer", "<", "#", "\\")):
        assert ExactGrader().grade(completion, repr(value)) == Grade(1.0)


@pytest.mark.parametrize(("completion", "reference"), [("", "5"), ("5", " ")])
def test_what_cannot_be_judged_is_missing(completion: str, reference: str) -> None:
    assert ExactGrader().grade(completion, reference).value is None
