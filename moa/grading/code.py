"""Grades a program by running it against its tests, each in a sandbox of its own.

What a program can do about its verdict:

- *stdin and stdout*, *calls*: nothing. It gets inputs, prints or returns answers, and these are
  compared in this process, with expected values that never enter the sandbox.
- *assertions*: nothing. They run in a second sandbox; a call travels to the program's and plain
  data comes back. The exit code of the second one is the verdict, and the program is not in there.
- *assertions with `together`*: an early exit, `os._exit(0)`, patched built-ins, printed markers
  do not pass: a secret has to be printed after the last assertion. A program that was written
  against our script can find that secret, or the assertions, in its own process. Where that
  matters, test by calls.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Any

from moa.grading.code_tests import (
    AssertTest,
    CallTest,
    CodeTests,
    StdinTest,
    UnreadableTests,
    functions_called,
    read_tests,
    same_text,
    same_value,
)
from moa.grading.grader import Grade
from moa.grading.program import program_in
from moa.grading.sandbox import Limits, open_sandbox
from moa.grading.sandbox_run import Run, Streams

COMPILERS = {"c": "gcc", "c++": "g++"}
SUFFIXES = {"c": "c", "c++": "cc"}
COMPILING = Limits(
    wall_s=60, cpu_s=60, memory_mb=2048, processes=16, file_mb=64, tmp_mb=256, output_kb=32_768
)
_SCRIPTS = {
    name: (resources("moa.grading") / "inside" / name).read_bytes()
    for name in ("plain_data.py", "serve_calls.py", "run_asserts.py", "run_together.py")
}
_NO_TESTS = {3: "that this Python cannot read", 4: "that never call the program"}
"""Exit codes of `inside/run_asserts.py`."""


class SandboxTrouble(Exception):
    """A test could not be run, by no fault of the program."""


@dataclass(frozen=True, slots=True)
class Built:
    """A program that tests can be run on."""

    command: list[str]
    files: dict[str, bytes]


class CodeGrader:
    """Grades Python, C and C++ by tests.

    Args:
        folders: of this machine, which programs may read, such as a virtual environment.
        python: the interpreter they run on; by default this one, or the system's.

    Raises:
        ConfigError: there is no sandbox, so nothing can be run.
    """

    def __init__(self, folders: Sequence[str] = (), python: str | None = None) -> None:
        self._sandbox = open_sandbox(folders, python)
        self._compilers = {
            language: f"/usr/bin/{name}"
            for language, name in COMPILERS.items()
            if shutil.which(name, path="/usr/bin")
        }
        self._version = " ".join(["code/2", *self._versions()])

    @property
    def version(self) -> str:
        """With the interpreter's and the compilers'."""
        return self._version

    def _versions(self) -> Iterator[str]:
        shown = "import platform; print(platform.python_version())"
        run = self._sandbox.run([self._sandbox.python, "-c", shown])
        yield f"python/{run.stdout.decode().strip()}"
        for compiler in self._compilers.values():
            run = self._sandbox.run([compiler, "-dumpfullversion"])
            yield f"{os.path.basename(compiler)}/{run.stdout.decode().strip()}"

    def grade(self, completion: str, reference: str) -> Grade:
        """As `Grader`. A completion without a program, or with one that does not compile, crashes,
        or takes more than it may, is wrong; no tests, or a sandbox that fails, is a missing grade.
        """
        try:
            tests = read_tests(reference)
            if tests.language not in ("python", *self._compilers):
                return Grade(None, f"no {COMPILERS[tests.language]} here (`apt-get install g++`)")
            if not completion.strip():
                return Grade(None, "the completion is empty")
            program = program_in(completion, tests.language, functions_wanted(tests))
            passed = [] if program is None else list(self._passed(program, tests))
        except UnreadableTests as error:
            return Grade(None, f"the reference {error}")
        except (SandboxTrouble, OSError) as error:
            return Grade(None, f"the sandbox failed: {error}")
        share = sum(passed) / len(tests.tests)
        return Grade(share if tests.count == "share" else float(share == 1))

    def _passed(self, program: str, tests: CodeTests) -> Iterator[bool]:
        """Of each test, until the grade is clear or the time is up."""
        deadline = time.monotonic() + tests.total_s
        built = self._build(program, tests.language)
        if built is None:
            return
        for test in tests.tests:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            wall_s = min(tests.limits.wall_s, left_s)
            limits = tests.limits.model_copy(update={"wall_s": wall_s})
            passed = self._passes(built, test, tests.tolerance, limits)
            yield passed
            if not passed and tests.count == "all":
                return

    def _build(self, program: str, language: str) -> Built | None:
        """Ready to run; `None`: it does not compile."""
        source = program.encode(errors="replace")
        if language == "python":
            return Built(self._python("program.py"), {"program.py": source})
        name = f"program.{SUFFIXES[language]}"
        # The result leaves by standard output, and comes back as a file for each test.
        compiling = (
            f"{self._compilers[language]} -O2 -w -o /tmp/out /program/{name} -lm && cat /tmp/out"
        )
        run = self._sandbox.run(
            ["/bin/sh", "-c", compiling], files={name: source}, limits=COMPILING
        )
        if not ran(run).succeeded:
            return None
        return Built(["/program/program"], {"program": run.stdout})

    def _python(self, script: str, *arguments: str) -> list[str]:
        return [self._sandbox.python, "-s", "-B", f"/program/{script}", *arguments]

    def _passes(
        self,
        built: Built,
        test: StdinTest | CallTest | AssertTest,
        tolerance: float,
        limits: Limits,
    ) -> bool:
        """Whether one test passes."""
        if isinstance(test, StdinTest):
            return self._prints(built, test, tolerance, limits)
        if isinstance(test, CallTest):
            return self._returns(built, test, tolerance, limits)
        if test.together:
            return self._holds_together(built, test, limits)
        return self._holds(built, test, limits)

    def _prints(self, built: Built, test: StdinTest, tolerance: float, limits: Limits) -> bool:
        run = ran(
            self._sandbox.run(
                built.command,
                files=built.files,
                streams=Streams(test.stdin.encode(errors="replace")),
                limits=limits,
            )
        )
        printed = run.stdout.decode(errors="replace")
        return run.succeeded and same_text(test.stdout, printed, tolerance)

    def _returns(self, built: Built, test: CallTest, tolerance: float, limits: Limits) -> bool:
        nonce = secrets.token_hex(8)
        request = {
            "nonce": nonce,
            "call": test.call,
            "args": form(test.args),
            "kwargs": form(test.kwargs),
        }
        run = ran(
            self._sandbox.run(
                self._python("serve_calls.py"),
                files={**built.files, **scripts("plain_data.py", "serve_calls.py")},
                streams=Streams(json.dumps(request).encode() + b"\n"),
                limits=limits,
            )
        )
        answer = answer_of(run.stdout, nonce)
        if test.raises:
            kinds = answer.get("raises")
            return isinstance(kinds, list) and test.raises in kinds
        try:
            return "returns" in answer and same_value(test.returns, answer["returns"], tolerance)
        except RecursionError:
            return False

    def _holds(self, built: Built, test: AssertTest, limits: Limits) -> bool:
        """Program and assertions side by side; what ends the one ends the other."""
        names = functions_called(test.asserts)
        requests, answers, (stop, stopping) = os.pipe(), os.pipe(), os.pipe()
        with os.fdopen(stop, "rb"), ThreadPoolExecutor(1) as beside:
            serving = beside.submit(
                self._sandbox.run,
                self._python("serve_calls.py"),
                files={**built.files, **scripts("plain_data.py", "serve_calls.py")},
                streams=Streams(requests[0], answers[1], stop),
                limits=limits,
            )
            try:
                run = self._sandbox.run(
                    self._python("run_asserts.py", *names),
                    files={
                        "tests.py": test.asserts.encode(),
                        **scripts("plain_data.py", "run_asserts.py"),
                    },
                    streams=Streams(answers[0], requests[1]),
                    limits=limits,
                )
            finally:
                os.close(stopping)
            ran(serving.result())
        unfit = _NO_TESTS.get(ran(run).exit_code or 0)
        if unfit is not None:
            raise UnreadableTests(f"has assertions {unfit}")
        return run.succeeded

    def _holds_together(self, built: Built, test: AssertTest, limits: Limits) -> bool:
        secret = secrets.token_bytes(16).hex().encode()
        files = {"tests.py": test.asserts.encode(), **scripts("run_together.py")}
        run = ran(
            self._sandbox.run(
                self._python("run_together.py"),
                files={**built.files, **files},
                streams=Streams(secret),
                limits=limits,
            )
        )
        return run.succeeded and run.stdout == secret


def ran(run: Run) -> Run:
    """The run itself.

    Raises:
        SandboxTrouble: it did not take place.
    """
    if run.ended == "sandbox":
        raise SandboxTrouble(run.told())
    return run


def scripts(*names: str) -> dict[str, bytes]:
    """Those of `inside`."""
    return {name: _SCRIPTS[name] for name in names}


def functions_wanted(tests: CodeTests) -> list[str]:
    """What a program must define to be tested."""
    names = [test.call for test in tests.tests if isinstance(test, CallTest)]
    for test in tests.tests:
        if isinstance(test, AssertTest):
            defined = functions_called(test.asserts)
            names += [name for name in defined if re.search(rf"\b{name}\(", test.asserts)]
    return list(dict.fromkeys(names))


def form(value: object) -> object:
    """A value of JSON as `inside.plain_data` writes it."""
    if isinstance(value, list):
        return ["list", *map(form, value)]
    if isinstance(value, dict):
        return ["dict", *([key, form(each)] for key, each in value.items())]
    return value


def answer_of(printed: bytes, nonce: str) -> dict[str, Any]:
    """The line that answers a request; {} where there is none, or it is no JSON."""
    for line in reversed(printed.split(b"\n")):
        if line.startswith(nonce.encode()):
            try:
                answer = json.loads(line[len(nonce) :])
            except (ValueError, RecursionError):
                return {}
            return answer if isinstance(answer, dict) else {}
    return {}
