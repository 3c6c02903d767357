from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.grading.code import CodeGrader
from moa.grading.grader import Grade
from tests.grading.sandboxes import HOSTILE, sandbox_here

needs_gcc = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")

GCD = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n"
ADD_C = (
    "#include <stdio.h>\nint main(void) {\n"
    ' int a, b; scanf("%d %d", &a, &b);\n printf("%d\\n", a + b);\n}'
)
ADD_CC = (
    "#include <iostream>\nint main() {\n int a, b; std::cin >> a >> b;\n std::cout << a + b;\n}"
)
SECRET = 16_180_339
"""What only a program that sees the tests can answer."""
TIGHT = {"wall_s": 5, "memory_mb": 128}
CALL = {"call": "f", "args": [], "returns": SECRET}
ASSERT = {"asserts": f"WANTED = {SECRET}\nassert f() == WANTED\nassert f() != 0"}
TOGETHER = {**ASSERT, "together": True}


@pytest.fixture(scope="module")
def grader() -> CodeGrader:
    sandbox_here()
    return CodeGrader()


def graded(
    grader: CodeGrader,
    program: str,
    *tests: Mapping[str, object],
    language: str = "python",
    **said: object,
) -> Grade:
    reference = {"language": language, "tests": tests, **said}
    return grader.grade(f"So:\n```{language}\n{program}\n```\n", json.dumps(reference))


def test_the_version_names_what_programs_run_on(grader: CodeGrader) -> None:
    assert grader.version.startswith("code/2 python/3.")


@pytest.mark.parametrize(
    ("program", "test", "right"),
    [
        ("print(int(input()) + int(input()))", {"stdin": "1\n2\n", "stdout": "3\n"}, True),
        ("print(int(input()) - int(input()))", {"stdin": "1\n2\n", "stdout": "3\n"}, False),
        ("print(3)\nraise SystemExit(1)", {"stdout": "3\n"}, False),
        ("if __name__ == '__main__':\n    print(3)", {"stdout": "3\n"}, True),
        (GCD, {"call": "gcd", "args": [12, 18], "returns": 6}, True),
        (GCD, {"call": "gcd", "args": [12, 18], "returns": 5}, False),
        (GCD, {"call": "gcd", "kwargs": {"a": 12, "b": 18}, "returns": 6}, True),
        (GCD, {"call": "gcd", "args": [12, "x"], "raises": "TypeError"}, True),
        (GCD, {"call": "gcd", "args": [12, 18], "raises": "TypeError"}, False),
        (GCD, {"call": "lcm", "args": [12, 18], "returns": 36}, False),
        ("def gcd(a, b)", {"call": "gcd", "args": [12, 18], "returns": 6}, False),
        (GCD, {"asserts": "assert gcd(12, 18) == 6"}, True),
        (GCD, {"asserts": "assert gcd(12, 18) == 5"}, False),
        (GCD, {"asserts": "def check(f):\n    assert f(4, 6) == 2\ncheck(gcd)"}, True),
        (GCD, {"asserts": "assert gcd(12, 18) == 6", "together": True}, True),
        (GCD, {"asserts": "assert gcd(12, 18) == 5", "together": True}, False),
        (GCD + "print('hello' * 100)\nif __name__ == '__main__':\n    1 / 0",
         {"asserts": "assert gcd(12, 18) == 6"}, True),
        ("class Solution:\n    def f(self, x):\n        return [x, x]",
         {"call": "Solution.f", "args": ["é\ud83d"], "returns": ["é\ud83d"] * 2}, True),
        ("def f(x):\n    x.sort()",
         {"asserts": "x = [3, 1]\nassert f(x) is None\nassert x == [1, 3]"}, True),
        ("def f(n):\n    for i in range(n):\n        yield i",
         {"asserts": "assert list(f(3)) == [0, 1, 2]"}, True),
        ("def f(n):\n    return {n: (n, {n}), 2.5: b'x'}",
         {"asserts": "assert f(1) == {1: (1, {1}), 2.5: b'x'}"}, True),
        ("def f(x):\n    raise KeyError('no')",
         {"asserts": "try:\n    f(1)\nexcept KeyError:\n    pass\nelse:\n    assert False"}, True),
        ("from collections import namedtuple\nP = namedtuple('P', 'x')\ndef f():\n    return P(1)",
         {"asserts": "assert f().x == P(1).x", "together": True}, True),
    ],
)  # fmt: skip
def test_a_program_is_right_or_wrong(
    grader: CodeGrader, program: str, test: Mapping[str, object], right: bool
) -> None:
    assert graded(grader, program, test) == Grade(float(right))


@needs_gcc
@pytest.mark.parametrize(
    ("language", "program", "value"),
    [("c", ADD_C, 1.0), ("c++", ADD_CC, 1.0), ("c", ADD_CC, 0.0), ("c++", "int main() {", 0.0)],
)
def test_compiled_languages_are_compiled(
    grader: CodeGrader, language: str, program: str, value: float
) -> None:
    tests = [{"stdin": f"{n} 2\n", "stdout": f"{n + 2}\n"} for n in range(3)]

    assert graded(grader, program, *tests, language=language) == Grade(value)


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize("bomb", json.loads((HOSTILE / "compile_bombs.json").read_text()).items())
def test_what_breaks_a_compiler_is_wrong(grader: CodeGrader, bomb: tuple[str, str]) -> None:
    assert graded(grader, bomb[1], {"stdout": ""}, language="c++") == Grade(0.0)


def test_tests_count_all_together_or_each(grader: CodeGrader) -> None:
    tests = [{"call": "gcd", "args": [n, 6], "returns": 6} for n in (6, 7, 12, 13)]

    assert graded(grader, GCD, *tests) == Grade(0.0)
    assert graded(grader, GCD, *tests, count="share") == Grade(0.5)


def test_one_run_does_not_see_what_another_left(grader: CodeGrader) -> None:
    counts = (
        "import os\ndef f():\n    open('/tmp/x', 'a').write('x')\n"
        "    return os.path.getsize('/tmp/x')"
    )

    assert graded(grader, counts, *[{"call": "f", "returns": 1}] * 3) == Grade(1.0)


def test_time_and_numbers_have_their_limits(grader: CodeGrader) -> None:
    waits = "import time\ntime.sleep(1000)"
    began = time.monotonic()

    grade = graded(grader, waits, *[{"stdout": ""}] * 50, count="share", total_s=1.0)

    assert grade == Grade(0.0)
    assert time.monotonic() - began < 50  # of 50 tests of 10 s each
    near = {"call": "f", "returns": 0.3}
    assert graded(grader, "def f():\n    return 0.1 + 0.2", near, tolerance=1e-9) == Grade(1.0)


@pytest.mark.parametrize(
    ("completion", "reference", "reason"),
    [
        ("x", "", "the reference is no JSON"),
        ("x", '{"language": "python"}', "the reference gives no tests"),
        (" \n", '{"language": "python", "tests": [{"stdout": ""}]}', "the completion is empty"),
        (
            "```\ndef f(): ...\n```",
            '{"language": "python", "tests": [{"asserts": "assert f("}]}',
            "the reference has assertions that are no Python",
        ),
        (
            "```\ndef f(): ...\n```",
            '{"language": "python", "tests": [{"asserts": "assert len([1]) == 1"}]}',
            "the reference has assertions that never call the program",
        ),
    ],
)
def test_without_tests_or_text_the_grade_is_missing(
    grader: CodeGrader, completion: str, reference: str, reason: str
) -> None:
    grade = grader.grade(completion, reference)

    assert grade.value is None
    assert grade.reason.startswith(reason)


def test_a_text_without_a_program_is_wrong(grader: CodeGrader) -> None:
    reference = {"language": "python", "tests": [CALL]}

    assert grader.grade("I cannot do that.", json.dumps(reference)) == Grade(0.0)


def test_what_a_program_raises_arrives_but_ends_no_loop(grader: CodeGrader) -> None:
    decoding = "try:\n    f(b'\\xff')\n    assert False\nexcept UnicodeDecodeError:\n    pass"
    loop = "assert all(got == 1 for got in map(f, [1, 2]))"

    assert graded(grader, "def f(b):\n    b.decode()", {"asserts": decoding}) == Grade(1.0)
    assert graded(grader, "def f(b):\n    raise StopIteration", {"asserts": loop}) == Grade(0.0)


FORGERIES = dict(
    part.split("\n", 1) for part in (HOSTILE / "forgeries.py.txt").read_text().split("\n# == ")[1:]
)
IN_THE_TESTS_PROCESS = {
    "an equal of all", "an object that is equal", "text that is equal", "a look at the callers",
    "a look for the tests", "a search in memory",
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("test", [CALL, ASSERT], ids=["by a call", "by assertions"])
def test_a_verdict_is_not_forged(
    grader: CodeGrader, forgery: str, test: Mapping[str, object]
) -> None:
    before = psutil.Process().children(recursive=True)  # another test's, perhaps

    assert graded(grader, FORGERIES[forgery], test, limits=TIGHT) == Grade(0.0)
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.slow
@pytest.mark.parametrize("forgery", sorted(FORGERIES.keys() - IN_THE_TESTS_PROCESS))
def test_beside_its_tests_no_early_end_passes(grader: CodeGrader, forgery: str) -> None:
    assert graded(grader, FORGERIES[forgery], TOGETHER, limits=TIGHT) == Grade(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("forgery", sorted(IN_THE_TESTS_PROCESS))
def test_beside_its_tests_a_program_can_cheat(grader: CodeGrader, forgery: str) -> None:
    # As moa/grading/code.py says. Where this fails, what it says is no longer true.
    assert graded(grader, FORGERIES[forgery], TOGETHER) == Grade(1.0)


def test_many_are_graded_at_once(grader: CodeGrader) -> None:
    programs = [f"def f():\n    return {n % 2}" for n in range(12)]

    def grade(program: str) -> Grade:
        return graded(grader, program, {"asserts": "assert f() == 1"})

    with ThreadPoolExecutor(4) as pool:
        grades = list(pool.map(grade, programs))

    assert grades == [Grade(0.0), Grade(1.0)] * 6


@settings(max_examples=15)
@given(completion=st.text(min_size=1), fenced=st.booleans())
def test_whatever_a_completion_is_it_has_a_grade(
    grader: CodeGrader, completion: str, fenced: bool
) -> None:
    text = f"```python\n{completion}\n```" if fenced else completion
    reference: dict[str, Sequence[object] | str] = {"language": "python", "tests": [CALL]}

    grade = grader.grade(text, json.dumps(reference))

    assert grade.value == 0.0 or (grade.value is None and not text.strip())
