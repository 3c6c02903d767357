"""A completion that holds a program instead of a formula: what reads formulas runs none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from moa.grading.symbolic import compare

FORMS = [
    "{}", "2+{}", "({})", "5)+{}", "\\text{{{}}}", "\\mathrm{{{}}}", "\\operatorname{{{}}}",
    "x_{{{}}}", "\\frac{{{}}}{{2}}", "\\sqrt{{{}}}", "f({})", "{} = 1",
    "\\begin{{matrix}}{}\\end{{matrix}}",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("program", ["__import__('os').mkdir('{}')", "open('{}','w')"])
def test_no_program_in_a_formula_is_run(form: str, program: str, tmp_path: Path) -> None:
    made = tmp_path / "made"

    for pair in (
        (form.format(program.format(made)), "2"),
        ("2", form.format(program.format(made))),
    ):
        with suppress(Exception):  # the library may refuse to read it
            compare(pair)

    assert not made.exists()


def test_such_a_program_would_be_seen(tmp_path: Path) -> None:
    made = tmp_path / "made"

    eval(f"__import__('os').mkdir('{made}')")

    assert made.exists()
