from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.program import NAMES, program_in

ADD = "def add(a, b):\n    return a + b\n"
PIECES = (
    "```",
    "````",
    "~~~",
    "```python",
    "```c++",
    "\n",
    "    ",
    "> ",
    ADD,
    "def f(",
    "é\x00\ud800",
)


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{ADD}```",
        f"Sure! Here it is:\n\n```Python\n{ADD}```\n\nIt adds two numbers.",
        f"```py\n{ADD}",
        f"~~~python3 title=add.py\n{ADD}~~~\n",
        f"````python\n{ADD}````",
        f"1. So:\n\n   ```python\n{textwrap.indent(ADD, '   ')}   ```\n2. Done.",
        f"> ```python\n{textwrap.indent(ADD, '> ')}> ```",
        f"```python\r\n{ADD}```\r\n".replace("\n", "\r\n"),
        f"```\n{ADD}```",
        f"```bash\npip install nothing\n```\n```\n{ADD}```",
        f"```python\nprint('first try')\n```\nNo, better:\n```python\n{ADD}```",
        f"```python\n{ADD}```\nFor example:\n```python\nprint(add(1, 2))\n```",
        f"```python\n{ADD}```\nIt prints:\n```\n3\n```",
        f"```python\n{ADD}```\nIn C:\n```c\nint add(int a, int b);\n```",
        ADD,
        f"Here is the function.\n\n{ADD}\nIt adds two numbers.",
        f"Use ```add(1, 2)``` so:\n```python\n{ADD}```",
    ],
)
def test_the_program_is_found(completion: str) -> None:
    found = program_in(completion, "python", ["add"])

    assert found is not None
    assert found.strip() == ADD.strip()


@pytest.mark.parametrize(
    "completion", ["", "I cannot do that.", "```python\n\n```", "```c\nint a;\n```"]
)
def test_there_may_be_none(completion: str) -> None:
    assert program_in(completion, "python") is None


def test_of_several_without_a_wanted_function_the_last_counts() -> None:
    completion = "```python\nprint(1)\n```\nor\n```python\nprint(2)\n```"

    assert program_in(completion, "python") == "print(2)\n"


def test_a_class_is_wanted_where_its_method_is_called() -> None:
    solution = "class Solution:\n    def f(self): ...\n"
    completion = f"```python\n{solution}```\n```python\nprint(Solution().f())\n```"

    assert program_in(completion, "python", ["Solution.f"]) == solution


@pytest.mark.parametrize(("language", "name"), [("c", "c"), ("c++", "cpp"), ("c++", "C++")])
def test_other_languages_have_their_names(language: str, name: str) -> None:
    source = "#include <stdio.h>\nint main(void) {\n  return 0;\n}\n"

    assert program_in(f"Text.\n```{name}\n{source}```\nText.", language) == source
    assert program_in(f"Text.\n\n{source}\nText.", language) == source


@given(
    completion=st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=5)).map("".join),
    language=st.sampled_from(list(NAMES)),
)
def test_any_text_has_a_program_or_none(completion: str, language: str) -> None:
    found = program_in(completion, language, ["add"])

    assert found is None or found.strip()


@pytest.mark.parametrize(
    "piece", ["```", "`" * 7 + "\n", "a;", "x[]", "( ", "> ", " \t", "// ;", "="]
)
def test_long_lines_take_no_longer_than_long_texts(piece: str) -> None:
    # A pattern that goes back over what it has read would not come to an end here.
    for begin in ("", "def f():\n", "int a;\n"):
        for language in NAMES:
            program_in(begin + piece * 30_000, language, ["add"])
