from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.code_tests import (
    UnreadableTests,
    functions_called,
    read_tests,
    same_text,
    same_value,
)
from moa.grading.inside.plain_data import decode, encode

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    LEAVES, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=10
)
HASHABLE = st.recursive(LEAVES | st.binary(), lambda part: st.tuples(part, part), max_leaves=4)
DATA = st.recursive(
    HASHABLE | st.complex_numbers(allow_nan=False),
    lambda part: (
        st.lists(part)
        | st.tuples(part)
        | st.sets(HASHABLE)
        | st.frozensets(HASHABLE)
        | st.dictionaries(HASHABLE, part)
    ),
    max_leaves=10,
)


def asserting(asserts: str, *, together: bool = False) -> str:
    """A reference."""
    test = {"asserts": asserts, "together": together}
    return json.dumps({"language": "python", "tests": [test]})


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("", "is no JSON"),
        ("    return a + b", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "gives no tests"),
        ("[1]", "gives no tests"),
        ('{"language": "python", "tests": []}', "gives no tests"),
        (
            '{"language": "cobol", "tests": [{"stdout": ""}]}',
            "language: .*'python', 'c' or 'c\\+\\+'",
        ),
        ('{"language": "python", "tests": [{"stdin": "1"}]}', "stdout: Field required"),
        ('{"language": "c", "tests": [{"asserts": "assert f()"}]}', "by stdin and stdout only"),
        (
            '{"language": "python", "tests": [{"stdout": ""}], "limits": {"wall_s": 0}}',
            "limits.wall_s",
        ),
        ('{"language": "python", "tests": [{"stdout": ""}], "extra": 1}', "extra: Extra"),
        (
            '{"language": "python", "tests": [{"call": "f()", "returns": 1}]}',
            "call: .*match pattern",
        ),
        (asserting("def test_f():\n    assert f(1) == 2"), "that never run"),
        (asserting("def check(candidate):\n    assert candidate(1)"), "that never run"),
        (asserting("if __name__ == '__main__':\n    assert f(1) == 2"), "that never run"),
        (asserting("import unittest\nunittest.main()"), "that never run"),
        (asserting("def test_f():\n    assert f(1) == 2", together=True), "that never run"),
        (asserting("from math import *\nassert sqrt(f(3)) == 2"), "import the names"),
        (asserting("s = S()\ns.push(1)\nassert s.pop() == 1"), "s.push.*together"),
        (asserting("assert MAX == 5"), "MAX == 5.*together"),
        (asserting("try:\n    f(1)\nexcept E:\n    pass"), "except E:.*together"),
        (asserting("assert isinstance(f(1), E)"), "isinstance.*together"),
        (asserting("assert f(3)(4) == 7"), "together"),
        (asserting("assert next(f(3)) == 0"), "together"),
        (asserting("import asyncio\nassert asyncio.run(f(1)) == 2"), "together"),
    ],
)
def test_a_reference_without_tests_is_told(reference: str, said: str) -> None:
    with pytest.raises(UnreadableTests, match=said):
        read_tests(reference)


@pytest.mark.parametrize(
    ("asserts", "together"),
    [
        ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", False),
        ("r = f('a b')\nr.sort()\nassert r.index('b') == ' '.join(f('a b')).count('b')", False),
        ("assert list(map(f, [1, 2])) == [2, 3]", False),
        ("for x in range(3):\n    assert f(x) == x", False),
        ("import re\nr = f(1)\nr = re.compile(r)\nassert r.match('x')", False),
        ("s = S()\ns.push(1)\nassert s.pop() == MAX", True),
    ],
)
def test_assertions_that_can_run_are_read(asserts: str, together: bool) -> None:
    assert len(read_tests(asserting(asserts, together=together)).tests) == 1


def test_languages_have_more_than_one_name() -> None:
    read = read_tests('{"language": "CPP", "tests": [{"stdin": "1", "stdout": "1"}]}')

    assert read.language == "c++"


def test_functions_that_assertions_call_are_the_programs() -> None:
    asserts = (
        "import math as m\n"
        "def check(candidate):\n"
        "    for value, wanted in CASES:\n"
        "        assert candidate(value) == wanted, len(m.__name__)\n"
        "CASES = [(1, 2)]\n"
        "try:\n    check(increment)\nexcept ValueError as error:\n    assert not error\n"
        "assert [twice(x) for x in (1,)] == [2]\n"
    )

    assert functions_called(asserts) == ["increment", "twice"]


@given(st.text())
def test_any_reference_is_read_or_told(text: str) -> None:
    with contextlib.suppress(UnreadableTests):
        read_tests(text)
    with contextlib.suppress(UnreadableTests):
        functions_called(text)


@given(DATA)
def test_data_comes_out_of_a_sandbox_as_it_was(value: object) -> None:
    there = decode(json.loads(json.dumps(encode(value))))

    assert there == value
    assert type(there) is type(value)


@given(JSON)
def test_a_wanted_value_is_the_same_as_itself(value: object) -> None:
    assert same_value(value, json.loads(json.dumps(encode(value))), 0)


@given(JSON, JSON)
def test_two_values_are_the_same_where_python_says_so(wanted: object, got: object) -> None:
    form = json.loads(json.dumps(encode(got)))

    assert same_value(wanted, form, 0) == (wanted == got)


@given(JSON, JSON)
def test_whatever_comes_from_a_program_is_compared(wanted: object, sent: object) -> None:
    assert same_value(wanted, sent, 0) in (True, False)


@pytest.mark.parametrize(
    ("wanted", "got", "tolerance", "same"),
    [
        ([1, [2, 3]], (1, [2, 3]), 0, True),
        ([3, 1, 2], {1, 2, 3}, 0, True),
        ([[1, 2], [0, 5]], {(0, 5), (1, 2)}, 0, True),
        ([3, 1, 2], [1, 2, 3], 0, False),
        ([1, 1], {1}, 0, False),
        ({"1": "a"}, {1: "a"}, 0, True),
        ({"1": "a"}, {1: "a", "1": "b"}, 0, False),
        (0.3, 0.1 + 0.2, 0, False),
        (0.3, 0.1 + 0.2, 1e-9, True),
        (1000.0, 1000.5, 1e-3, True),
        (0, 10**400, 0.1, False),
        (10**400, 10**400, 0, True),
        (float("inf"), 5, 1e-6, False),
        (float("inf"), float("inf"), 1e-6, True),
        (float("nan"), float("nan"), 0, True),
        ("1", 1, 0.5, False),
        (None, 0, 0.5, False),
        (["list", 1], ["list", 1], 0, True),
        ("abc", b"abc", 0, False),
    ],
)
def test_how_values_compare(wanted: object, got: object, tolerance: float, same: bool) -> None:
    assert same_value(wanted, json.loads(json.dumps(encode(got))), tolerance) is same


@pytest.mark.parametrize(
    ("wanted", "got", "tolerance", "same"),
    [
        ("1 2\n3\n", "1 2  \n3", 0, True),
        ("1 2\n3\n", "1 2 3\n", 0, False),
        ("  x\n", "x\n", 0, False),
        ("a\n\nb\n", "a\nb\n", 0, False),
        ("", "\n\n", 0, True),
        ("0.5 yes", "0.5000001 yes", 1e-6, True),
        ("0.5 yes", "0.5000001 no", 1e-6, False),
        ("nan", "nan", 0.1, True),
        ("nan", "inf", 0.1, False),
        ("inf", "5", 1e-6, False),
        ("inf", "Infinity", 1e-6, True),
    ],
)
def test_how_texts_compare(wanted: str, got: str, tolerance: float, same: bool) -> None:
    assert same_text(wanted, got, tolerance) is same
