from __future__ import annotations

import pytest

from moa.errors import ConfigError
from moa.grading.own import OwnGrader

MODULE = "tests.grading.own_graders"


def test_a_function_of_ones_own_grades() -> None:
    grader = OwnGrader(f"{MODULE}:length")

    assert grader.grade("12345", "10") == (0.5, "")
    assert grader.version.startswith(f"{MODULE}:length/")


@pytest.mark.parametrize(
    ("function", "completion", "reason"),
    [
        ("unsure", "a", "cannot tell"),
        ("dies", "a", "SIGSEGV"),
        ("length", "a", "raised ValueError"),
        ("odd", "2", "2.0 is no grade"),
        ("odd", "text", "'good' is no grade"),
    ],
)
def test_what_is_no_grade_is_missing_with_a_reason(
    function: str, completion: str, reason: str
) -> None:
    found = OwnGrader(f"{MODULE}:{function}").grade(completion, "ten")

    assert found.value is None
    assert reason in found.reason


def test_one_that_hangs_is_ended() -> None:
    found = OwnGrader(f"{MODULE}:hangs", limit_s=0.2).grade("a", "b")

    assert found.value is None
    assert "longer than 0.2 s" in found.reason


@pytest.mark.parametrize("function", ["no_such_module:grade", MODULE, ":grade"])
def test_a_grader_that_is_not_there_is_refused(function: str) -> None:
    with pytest.raises(ConfigError, match="there is no module"):
        OwnGrader(function)


@pytest.mark.parametrize(
    ("function", "why"), [("none_such", "AttributeError"), ("__doc__", "it is no function")]
)
def test_a_function_that_is_not_there_is_told_before_anything_is_graded(
    function: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        OwnGrader(f"{MODULE}:{function}")
