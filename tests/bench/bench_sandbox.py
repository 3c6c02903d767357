"""What it costs to grade programs in a sandbox, beside running them bare.

    python -m tests.bench.bench_sandbox

Runs of a program that does nothing, with and without the sandbox, in turn; then tests of each kind,
and whole grades on one thread and on as many as there are cores. The bare runs are of programs
written here: nothing else may be run so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moa.grading.code import CodeGrader
from moa.grading.sandbox import open_sandbox
from tests.bench.results import record

PYTHON = "```python\ndef f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(f(1))\n```"
CPP = "```cpp\n#include <iostream>\nint main() { int x; std::cin >> x; std::cout << x + 1; }\n```"
TESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "python, stdin and stdout": (PYTHON, {"stdout": "2\n"}),
    "python, a call": (PYTHON, {"call": "f", "args": [1], "returns": 2}),
    "python, assertions": (PYTHON, {"asserts": "assert f(1) == 2"}),
    "python, assertions together": (PYTHON, {"asserts": "assert f(1) == 2", "together": True}),
    "c++, stdin and stdout, with compiling": (CPP, {"stdin": "1\n", "stdout": "2\n"}),
}


def main() -> None:
    """Measure, print a table, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    load = os.getloadavg()[0]
    record("sandbox", {"load": load, "start": starts(rounds), "grade": grades(rounds)})


def starts(rounds: int) -> dict[str, dict[str, float]]:
    """Of a program that does nothing: ms, in the sandbox and bare, round by round."""
    sandbox = open_sandbox()
    figures = {}
    for name, command in {
        "true": ["/usr/bin/true"],
        "python": [sandbox.python, "-s", "-B", "-c", "pass"],
    }.items():
        took: dict[str, list[float]] = {"sandbox": [], "bare": []}
        for _ in range(rounds):
            took["sandbox"].append(timed(lambda c=command: sandbox.run(c)))  # type: ignore[misc]
            took["bare"].append(timed(lambda c=command: subprocess.run(c, check=True)))  # type: ignore[misc]
        figures[name] = {
            f"{way}_ms_{word}": round(value, 2)
            for way, times in took.items()
            for word, value in (("median", statistics.median(times)), ("least", min(times)))
        }
        print(f"{name:40}", figures[name])
    return figures


def timed(action: Callable[[], object]) -> float:
    """How long it takes, in ms."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def grades(rounds: int) -> dict[str, dict[str, float]]:
    """Of a completion with one test: ms on one thread, and grades a second on all cores."""
    grader = CodeGrader()
    figures = {}
    for name, (completion, test) in TESTS.items():
        language = "c++" if completion is CPP else "python"
        reference = json.dumps({"language": language, "tests": [test]})

        def grade(c: str = completion, r: str = reference) -> None:
            given = grader.grade(c, r)
            if given.value != 1:
                raise SystemExit(f"{r} gave {given}")

        alone = [timed(grade) for _ in range(rounds)]
        cores = os.cpu_count() or 1
        with ThreadPoolExecutor(cores) as pool:
            began = time.perf_counter()
            for done in [pool.submit(grade) for _ in range(2 * rounds)]:
                done.result()
            together_s = time.perf_counter() - began
        figures[name] = {
            "ms_median": round(statistics.median(alone), 1),
            "ms_least": round(min(alone), 1),
            "per_s_on_all_cores": round(2 * rounds / together_s, 1),
        }
        print(f"{name:40}", figures[name])
    return figures


if __name__ == "__main__":
    main()
