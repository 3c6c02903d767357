from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.evaluation.perturbations import KINDS, perturb

PROSE = (
    "How many apples does Alice have? She bought seven apples on Monday. Find the total number, "
    "and explain your reasoning."
)
CODE = """You are given a Python function. Complete the assertion with the output.

[PYTHON]
def f(total):
    return total.lower()
assert f('UppEr total') == ??
[/PYTHON]"""
FORMULA = "Determine the value of $\\frac{total}{answer}$ for each case where `total` is 3."


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_prose_and_equal_texts_equally(kind: str) -> None:
    one, other = perturb([PROSE, PROSE], kind), perturb(["x", PROSE], kind)

    assert one[0] != PROSE
    assert one[0] == one[1] == other[1]


@pytest.mark.parametrize("kind", KINDS)
def test_code_and_formulas_stay_as_they_are(kind: str) -> None:
    code, formula = perturb([CODE, FORMULA], kind)

    assert re.sub(r" +$", "", code, flags=re.MULTILINE).count(CODE[CODE.index("[PYTHON]") :]) == 1
    assert "$\\frac{total}{answer}$" in formula
    assert "`total`" in formula


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(max_size=60))
def test_any_text_can_be_perturbed(kind: str, text: str) -> None:
    (changed,) = perturb([text], kind)

    assert isinstance(changed, str)


def test_a_slip_touches_few_words_and_no_name_or_number() -> None:
    text = "Alice counts 123456 apples while Bobby watches another basket " * 10

    (changed,) = perturb([text], "typos")

    before, after = text.split(), changed.split()
    different = [one for one, other in zip(before, after, strict=True) if one != other]
    assert 1 <= len(different) <= 4
    assert all(word.islower() for word in different)


def test_amounts_of_money_are_no_formula() -> None:
    (changed,) = perturb(["It costs $2 per apple and $3 per pear."], "upper case")

    assert changed == "IT COSTS $2 PER APPLE AND $3 PER PEAR."


def test_another_phrase_has_a_capital_where_the_first_had_one() -> None:
    (changed,) = perturb(["How many pears, and how many plums?"], "rewording")

    assert changed == "What number of pears, and what number of plums?"
