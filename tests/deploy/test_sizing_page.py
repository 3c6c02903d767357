"""deploy/SIZING.md is what the command prints, and its arithmetic is right."""

from __future__ import annotations

import ast
import json
import operator
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "deploy/SIZING.md").read_text()
COMMAND = "python jobs/size_run.py --config jobs/configs/size_run.toml --json sizes.json"
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Line(NamedTuple):
    """`what: expression = result unit`."""

    what: str
    expression: str
    result: str

    @property
    def value(self) -> float:
        return number(self.result)


def number(text: str) -> float:
    return float(text.replace(",", ""))


def lines() -> Iterator[Line]:
    for block in re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL):
        for text in block.splitlines():
            found = re.fullmatch(r"(.+): (.+) = ([\d.,]+)(?: [^=]+)?", text)
            assert found is not None, text
            yield Line(*found.groups())


LINES = {line.what: line for line in lines()}


def reckoned(expression: str) -> float:
    """What it comes to: sums, products and quotients of numbers."""
    text = re.sub(r"(?<=\d),(?=\d)", "", expression).replace("\N{MULTIPLICATION SIGN}", "*")

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), expression
        return float(node.value)  # type: ignore[arg-type]

    return value(ast.parse(text, mode="eval").body)


def last_digit(result: str) -> float:
    """What the last digit that is shown stands for."""
    _, point, decimals = result.partition(".")
    return 10.0 ** -len(decimals) if point else 1.0


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the page's own command prints and writes."""
    path = tmp_path_factory.mktemp("sizes") / "sizes.json"
    _, *words = COMMAND.replace("sizes.json", str(path)).split()
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout, json.loads(path.read_text())


def test_the_tables_are_what_the_command_prints(said: tuple[str, dict[str, Any]]) -> None:
    printed = said[0].partition("\n\n")[2].strip()

    assert f"    {COMMAND}\n" in PAGE
    assert printed.startswith("| ")
    assert printed in PAGE, f"put into deploy/SIZING.md what `{COMMAND}` prints:\n{printed}"
    assert f"list prices of {said[1]['prices_of']}" in PAGE


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: line.what)
def test_each_line_of_the_arithmetic_is_right(line: Line) -> None:
    assert abs(reckoned(line.expression) - line.value) <= 0.51 * last_digit(line.result)


def test_the_arithmetic_comes_to_what_the_command_finds(
    said: tuple[str, dict[str, Any]],
) -> None:
    size = next(one for one in said[1]["sizes"] if one["queries"] == 10_000_000)
    spans, usd = size["spans_s"], size["cost_usd"]
    openai = next(one for one in size["accounts"] if one["account"] == "openai")
    calls = {one["model"]: one for one in said[1]["calls"]}
    found = {
        "scoring with 120": spans["score"] / 3600,
        "at 400,000 a minute": spans["calls"]["expected"] / 3600,
        "planning": spans["plan"],
        "report": spans["report"] / 60,
        "the end": size["ends_in_s"]["expected"] / 3600,
        "calls of openai at once, by Little's law": openai["calls_at_once"],
        "GPUs": usd["router"],
        "calls": usd["calls"]["expected"],
        "parts": size["parts"],
        "files": size["files"],
        "driver's memory": size["driver_bytes"],
        "price of it": said[1]["router_pass"]["usd"],
        "a call of haiku or luna": calls["openai/gpt-6-luna"]["live_usd"],
    }

    for what, value in found.items():
        assert LINES[what].value == pytest.approx(value, rel=2e-3), what
    assert calls["anthropic/claude-opus-5-5"]["live_usd"] == pytest.approx(0.020)
    assert size["machines"]["router_replicas"] == 120
    assert size["binds"] == ["anthropic/claude-haiku-5-5 output_tpm", "deadline"]
    assert size["bounds"][1]["name"] == "openai/gpt-6-luna tpm"
