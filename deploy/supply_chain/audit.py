"""Known vulnerabilities of what images install: told, and refused where a release is without them.

    python -m deploy.supply_chain.audit FILE.lock… [options of pip-audit]

Exit 1: a package has a vulnerability, and a version that mends it. Exit 0 otherwise, and where no
source of advisories can be reached: it says so, for a machine without a network must not fail.

pip-audit alone does not do: where a registry serves packages but no advisories it finds no
vulnerability, exit 0; and it fails where there is no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploy.supply_chain.licences import pins

PROBE = "ray"
"""Asked for alone, first: where nothing is known of it, nothing is of the others."""
TIMEOUT_S = 90
"""Packages are asked for one by one: 250 took 24 s on 2026-11-26."""
REMEDY = """Raise these in constraints.txt and run `make lock`. What does not concern this project
is passed over by AUDIT="--ignore-vuln ID"."""


class Finding(NamedTuple):
    """One vulnerability of one package."""

    package: str
    version: str
    advisory: str
    mended_in: tuple[str, ...]


def main() -> None:
    """Look at all that the locks hold."""
    locks = [word for word in sys.argv[1:] if word.endswith(".lock")]
    options = [word for word in sys.argv[1:] if word not in locks]
    wanted = sorted({f"{n}=={v}" for lock in locks for n, v in pins(Path(lock)).items()})
    answer = ask([pin for pin in wanted if pin.startswith(f"{PROBE}==")], options)
    if not isinstance(answer, str):
        answer = ask(wanted, options)
    if isinstance(answer, str):
        say(f"audit skipped: {answer}")
        return
    for finding in answer:
        say(told(finding))
    say(f"audited {len(wanted)} packages: {len(answer)} known vulnerabilities")
    if any(finding.mended_in for finding in answer):
        sys.exit(REMEDY)


def ask(wanted: Sequence[str], options: Sequence[str]) -> list[Finding] | str:
    """What is known of `name==version`s, or why nothing can be told."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as names:
        names.write("\n".join(wanted))
        names.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", names.name, "--no-deps"]
        command += ["--disable-pip", "--timeout", "5", "--format", "json"]
        command += ["--progress-spinner", "off", *options]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S} s"
    if not done.stdout.startswith("{"):
        return (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
    return read(json.loads(done.stdout)["dependencies"])


def read(packages: Sequence[dict[str, Any]]) -> list[Finding] | str:
    """What pip-audit's answer holds; packages that it skipped are named."""
    unknown = [package["name"] for package in packages if "vulns" not in package]
    if len(unknown) == len(packages):
        return f"the registry serves no advisories (asked for: {', '.join(unknown)})"
    if unknown:
        say(f"nothing is known of {', '.join(unknown)}")
    return [
        Finding(package["name"], package["version"], known["id"], tuple(known["fix_versions"]))
        for package in packages
        for known in package.get("vulns", ())
    ]


def told(finding: Finding) -> str:
    """One line."""
    mended = ", ".join(finding.mended_in)
    end = f"mended in {mended}" if mended else "not mended yet"
    return f"{finding.package} {finding.version}: {finding.advisory}, {end}"


def say(line: str) -> None:
    """To whoever ran `make`."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
