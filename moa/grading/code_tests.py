"""What a reference says of a program: its language, its tests, how they count, what it may take.

{"language": "python", "tests": [{"call": "gcd", "args": [12, 18], "returns": 6}]}
{"language": "c++", "tests": [{"stdin": "12 18\\n", "stdout": "6\\n"}], "count": "share"}
{"language": "python", "tests": [{"asserts": "assert gcd(12, 18) == 6"}]}
"""

from __future__ import annotations

import ast
import builtins
import json
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeGuard

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    model_validator,
)

from moa.grading.sandbox import Limits


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StdinTest(_Part):
    """The program reads and prints."""

    stdin: str = ""
    stdout: str
    """Compared line by line, without white space at the ends of lines and of the text."""


class CallTest(_Part):
    """A function of the program is called; what it returns is compared outside the sandbox."""

    call: str = Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)?$")
    """`f`, or `Class.method` of an object made without arguments."""
    args: list[JsonValue] = []
    kwargs: dict[str, JsonValue] = {}
    returns: JsonValue = None
    """Lists stand for tuples too, and for sets in any order; keys are compared as text."""
    raises: str = ""
    """Name of an exception, or of one that it derives from; "": it must return."""


class AssertTest(_Part):
    """Statements that raise nothing where the program is right."""

    asserts: str = Field(min_length=1)
    together: bool = False
    """Run in the program's own process. Only for tests that need its objects: elsewhere what its
    functions return arrives as data, and the program cannot touch the assertions."""


def kind_of_test(said: object) -> str:
    """By what only that kind says."""
    keys = said if isinstance(said, dict) else {}
    return next((key for key in ("call", "asserts") if key in keys), "stdin")


Test = Annotated[
    Annotated[StdinTest, Tag("stdin")]
    | Annotated[CallTest, Tag("call")]
    | Annotated[AssertTest, Tag("asserts")],
    Discriminator(kind_of_test),
]


class CodeTests(_Part):
    """A reference."""

    language: Literal["python", "c", "c++"]
    tests: Annotated[list[Test], Field(min_length=1, max_length=1000)]
    count: Literal["all", "share"] = "all"
    """`all`: the grade is 1 where every test passes, else 0; `share`: the share that passes."""
    tolerance: float = Field(0, ge=0, allow_inf_nan=False)
    """By which numbers may differ, relative to the wanted one, or absolute below 1."""
    limits: Limits = Limits()
    """Of each test's run."""
    total_s: float = Field(120, gt=0, le=3600)
    """Of all; tests that did not get their turn have failed."""

    @model_validator(mode="after")
    def _what_fits(self) -> CodeTests:
        if self.language != "python" and any(not isinstance(t, StdinTest) for t in self.tests):
            raise ValueError(f"a program in {self.language} is tested by stdin and stdout only")
        return self


PLAIN = frozenset(
    name
    for kind in (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
    for name in dir(kind)
)
"""Attributes of what may come out of a sandbox."""


class UnreadableTests(ValueError):
    """A reference is none of this form; the message says why, in a line."""


def read_tests(reference: str) -> CodeTests:
    """A reference from its JSON.

    Raises:
        UnreadableTests: it is none, or has no tests.
    """
    try:
        said = json.loads(reference)
    except (ValueError, RecursionError):
        raise UnreadableTests("is no JSON: it gives no tests") from None
    if not isinstance(said, dict) or not said.get("tests"):
        raise UnreadableTests("gives no tests")
    if isinstance(said.get("language"), str):
        spoken = said["language"].lower()
        said["language"] = {"cpp": "c++", "py": "python", "python3": "python"}.get(spoken, spoken)
    try:
        tests = CodeTests.model_validate(said)
        for test in tests.tests:
            if isinstance(test, AssertTest):
                check_asserts(test)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableTests(f"{where or 'tests'}: {first['msg']}") from None
    except RecursionError:
        raise UnreadableTests("is nested too deep") from None
    return tests


def check_asserts(test: AssertTest) -> None:
    """Refuse assertions by which every program would pass, or none.

    Raises:
        UnreadableTests: they are no Python, never run, or need objects that only the program's own
            process has.
    """
    names = frozenset(functions_called(test.asserts))
    tree = ast.parse(test.asserts)
    if not any(map(runs, tree.body)):
        raise UnreadableTests(
            "has assertions that never run: they stand in functions or classes that nothing calls"
        )
    if any(
        isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)
    ):
        raise UnreadableTests("has assertions with `import *`: import the names that they use")
    wanted = None if test.together else next(objects_wanted(tree, names), None)
    if wanted is not None:
        raise UnreadableTests(
            f"has assertions that need more than plain data of the program (`{wanted}`): "
            'say `"together": true`'
        )


def runs(statement: ast.stmt) -> bool:
    """Whether a statement at the outermost level asserts or calls something."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    nodes = list(ast.walk(statement))
    if isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in nodes
    ):
        return False
    if any(ast.unparse(node) in ("unittest.main", "pytest.main") for node in attributes(nodes)):
        return False  # these look for tests where there are none
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in nodes)


def attributes(nodes: Iterable[ast.AST]) -> Iterator[ast.Attribute]:
    """Those of them that are `object.name`."""
    return (node for node in nodes if isinstance(node, ast.Attribute))


def objects_wanted(tree: ast.Module, names: frozenset[str]) -> Iterator[str]:
    """What in assertions works only on the program's own objects: its classes, constants,
    exceptions and coroutines, attributes of what it returns that plain data has not.

    Args:
        tree: the assertions.
        names: the program's.
    """

    def is_own(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Name) and node.id in names

    def is_returned(node: ast.AST) -> bool:
        return (isinstance(node, ast.Call) and is_own(node.func)) or (
            isinstance(node, ast.Name) and node.id in returned
        )

    returned = names_of_returned(tree, names)
    for node in ast.walk(tree):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.Attribute):
            if is_own(node.value) or (is_returned(node.value) and node.attr not in PLAIN):
                yield ast.unparse(node)
        elif isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.BinOp):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Subscript):
            parts = [node.value]
        elif isinstance(node, ast.ExceptHandler):
            parts = list(node.type.elts) if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Await) and is_returned(node.value):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if is_returned(node.func) or (
                called in ("next", "asyncio.run") and any(map(is_returned, node.args))
            ):
                yield ast.unparse(node)
            parts = list(node.args[1:2]) if called in ("isinstance", "issubclass") else []
        if any(map(is_own, parts)):
            yield ast.unparse(node).partition("\n")[0]


def names_of_returned(tree: ast.Module, names: frozenset[str]) -> frozenset[str]:
    """Variables that hold what the program returned, and never anything else."""
    returned, other = set[str](), set[str]()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        value = node.value
        is_call = isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
        from_program = is_call and value.func.id in names  # type: ignore[attr-defined]
        for target in node.targets:
            if isinstance(target, ast.Name):
                (returned if from_program else other).add(target.id)
    return frozenset(returned - other)


def functions_called(asserts: str) -> list[str]:
    """Names that assertions use and do not define: the program's.

    Raises:
        UnreadableTests: they are no Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(asserts)))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UnreadableTests("has assertions that are no Python") from None
    names = [node for node in nodes if isinstance(node, ast.Name)]
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    own = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
    return sorted(used - own - set(dir(builtins)))


def same_text(wanted: str, got: str, tolerance: float) -> bool:
    """Whether two outputs are the same, white space at ends aside."""
    if lines(wanted) == lines(got):
        return True
    if not tolerance:
        return False
    ours, theirs = wanted.split(), got.split()
    return len(ours) == len(theirs) and all(
        a == b or near(number(a), number(b), tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def lines(text: str) -> list[str]:
    """Without white space at the ends of lines and of the text."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def number(word: str) -> float:
    """NaN, which is near nothing, where it is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan


def near(wanted: float, got: float, tolerance: float) -> bool:
    """Whether two numbers differ by no more than the tolerance."""
    try:
        if math.isinf(wanted) or math.isinf(got):
            return wanted == got  # all is near infinity otherwise
        return abs(wanted - got) <= tolerance * max(1.0, abs(wanted))
    except OverflowError:  # an integer that no float holds
        return False


def same_value(wanted: object, form: object, tolerance: float) -> bool:
    """Whether a value that a program gave, in the form of `inside.plain_data`, is the wanted one.

    The form is compared as it is. To make sets and dictionaries of it would let a program choose
    keys that collide, and keep this process busy for minutes.
    """
    if isinstance(form, list):
        if not form or not isinstance(form[0], str):
            return False
        return same_collection(wanted, form[0], form[1:], tolerance)
    if isinstance(wanted, int | float) and isinstance(form, int | float):
        return (
            wanted == form or near(wanted, form, tolerance) or (wanted != wanted and form != form)
        )
    return type(wanted) is type(form) and bool(wanted == form)


def same_collection(wanted: object, kind: str, rest: list[object], tolerance: float) -> bool:
    """`same_value` of what has parts."""
    if kind == "dict":
        if not isinstance(wanted, dict):
            return False
        got = {key_text(each[0]): each[1] for each in rest if pair(each)}
        return (
            len(got) == len(rest)  # else some entry is no pair, or two keys read alike
            and got.keys() == wanted.keys()
            and all(same_value(each, got[key], tolerance) for key, each in wanted.items())
        )
    if not isinstance(wanted, list) or len(wanted) != len(rest):
        return False
    if kind in ("set", "frozenset"):
        wanted, rest = sorted(wanted, key=as_text), sorted(rest, key=as_text)
    elif kind not in ("list", "tuple"):
        return False
    return all(same_value(a, b, tolerance) for a, b in zip(wanted, rest, strict=True))


def pair(entry: object) -> TypeGuard[list[object]]:
    """Whether it is a key and a value."""
    return isinstance(entry, list) and len(entry) == 2


def key_text(key: object) -> str:
    """A key as JSON would write it: `1` is "1", `true` is "true"."""
    return key if isinstance(key, str) else as_text(key)


def as_text(value: object) -> str:
    """To sort by, and alike for a list and the form of one."""
    if isinstance(value, list) and value and value[0] in ("list", "tuple", "set", "frozenset"):
        value = value[1:]
    return json.dumps(value, sort_keys=True)
