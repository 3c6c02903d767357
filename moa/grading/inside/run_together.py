"""Runs a program and its assertions in one process, for tests that need the program's own objects.

    python run_together.py < secret

The secret is printed after the last assertion, so that an early exit, or anything printed by a
program that does not know this script, is no success. A program written against this script can
read the secret: see `moa/grading/code.py`.
"""

from __future__ import annotations

import os
import sys

TESTS, PROGRAM = "/program/tests.py", "/program/program.py"


def main() -> None:
    """Program, tests, secret."""
    secret = sys.stdin.read()
    out = os.dup(1)
    os.dup2(2, 1)
    scope = {"__name__": "program"}
    for path in (PROGRAM, TESTS):
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), scope)
    os.write(out, secret.encode())


if __name__ == "__main__":
    main()
