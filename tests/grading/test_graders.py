from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.errors import ConfigError
from moa.grading.grader import Grade, Grader
from moa.grading.graders import open_grader

TEXT_GRADERS = ["choice", "exact", "facts", "maths"]
HOSTILE = [
    "\\boxed{" * 20000, "(" * 50000, "$" * 100001, "<answer>" * 12000, "9" * 50000, "1/" * 30000,
    "\\frac" * 20000, '{"answer": ' * 10000, "answer is " * 20000, "answer:" + " " * 99000,
    "#### " * 20000, "-" * 20000 + "1", "1," * 30000, "\\text{" * 20000,
    '"answer": "' + "\\" * 40000, "\n" * 100000, " " * 100000 + "x", "a " * 50000,
    "\ud800", "\x00", "\\boxed{\x00}",
]  # fmt: skip


@pytest.fixture(scope="module", params=TEXT_GRADERS)
def grader(request: pytest.FixtureRequest) -> Grader:
    return open_grader(request.param)


def is_grade(grade: Grade) -> bool:
    """In [0, 1] without a reason, or missing with one."""
    if grade.value is None:
        return bool(grade.reason)
    return 0.0 <= grade.value <= 1.0 and not grade.reason


@settings(max_examples=60)
@given(st.text(), st.text())
def test_any_two_texts_get_a_grade_or_a_reason(
    grader: Grader, completion: str, reference: str
) -> None:
    assert is_grade(grader.grade(completion, reference))


@given(st.text() | st.sampled_from(["A", "3", "A, C"]))
def test_a_reference_that_can_be_read_is_right_about_itself(grader: Grader, reference: str) -> None:
    grade = grader.grade(reference, reference)

    assert grade.value in (1.0, None)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_graded_all_the_same(grader: Grader, text: str) -> None:
    assert is_grade(grader.grade(text, "5"))
    assert is_grade(grader.grade("5", text))


def test_a_grader_says_what_its_grades_depend_on() -> None:
    versions = [open_grader(name).version for name in TEXT_GRADERS]

    assert len(set(versions)) == len(versions)


def test_without_the_extra_maths_says_what_to_install_and_the_others_work(tmp_path: Path) -> None:
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith("math_verify"):
            (tmp_path / installed.name).symlink_to(installed)
    script = (
        "from moa.grading.graders import open_grader\n"
        "print(open_grader('facts').grade('Paris', 'Paris').value)\n"
        "open_grader('maths')"
    )

    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "1.0\n"
    assert "ConfigError: the grader `maths` needs math-verify" in done.stderr


def test_an_unknown_grader_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'vibes' is none; there are choice, "):
        open_grader("vibes")
