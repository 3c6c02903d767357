"""LICENCES.md: the licence of each package that is installed; refuses what must not be linked in.

    python -m deploy.supply_chain.licences

Licences are what a package's own metadata say, of the very version that a lock names; nothing is
installed for that. Libraries of others that a wheel holds are not in its metadata, and not here.

Runs on the packages of `requirements.txt` beside this file: only a new pip reads metadata alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "LICENCES.md"
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
SETS = {
    "cpu image": "deploy/containers/cpu.lock",
    "gpu image": "deploy/containers/gpu.lock",
    "extra cpu": "constraints-cpu.txt",
    "development": "constraints.txt",
}
"""Where a package is installed → the file that names it. The last two count where no other does."""
HEAD = """# Licences

Of all packages that images hold, of the extra `cpu`, and of the tools of development. `make
licences` writes this from the metadata of the versions that `deploy/containers/*.lock`,
`constraints-cpu.txt` and `constraints.txt` name; `deploy/supply_chain/licences.toml` says what is
accepted. This project itself: Apache-2.0.

Not in it: what a base image holds (Ray's, Ubuntu's, CUDA's); bubblewrap (LGPL) and GCC (GPL), which
are programs of their own in the CPU image; libraries of others in a wheel, which its files list.

Of those, copyleft is (looked at on 2026-11-26; each a shared library in a file of its own): FFmpeg
in opencv's wheel (LGPL-2.1), libzmq in pyzmq's (MPL-2.0), GCC's run time in numpy's, scipy's,
scikit-learn's and torch's (GPL-3.0 with its exception for that; libquadmath LGPL-2.1).
"""


class Package(NamedTuple):
    """One line of the report."""

    name: str
    version: str
    licence: str
    """An SPDX expression, or what the metadata say where that is no known licence."""
    installed: str
    """Keys of `SETS`, comma-separated."""


class Rules(NamedTuple):
    """licences.toml."""

    accepted: list[str]
    spelled: dict[str, str]
    read: dict[str, str]
    proprietary: dict[str, str]
    exceptions: dict[str, tuple[str, str]]


def main() -> None:
    """Write the report; exit 1 and say why where something is refused."""
    rules = read_rules()
    packages = sorted(find_packages(rules), key=lambda package: normal(package.name))
    REPORT.write_text(render(packages, rules))
    refusals = refused(packages, rules)
    sys.exit("\n".join(refusals) if refusals else None)


def read_rules() -> Rules:
    """What licences.toml beside this file says."""
    return Rules(**tomllib.loads(Path(__file__).with_name("licences.toml").read_text()))


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Normalised name → version, of each `name==version` in a lock or in constraints."""
    return {normal(name): version for name, version in PIN.findall(path.read_text())}


def installed() -> dict[tuple[str, str], list[str]]:
    """Name and version → keys of `SETS`."""
    found: dict[tuple[str, str], list[str]] = {}
    for where, path in SETS.items():
        for pin in pins(ROOT / path).items():
            if where != "development" or pin not in found:
                found.setdefault(pin, []).append(where)
    return found


def find_packages(rules: Rules) -> Iterator[Package]:
    """All of `SETS`, each once per version."""
    places = installed()
    for where in SETS:
        here = [pin for pin, named in places.items() if named[0] == where]
        for metadata in read_metadata(here):
            name = normal(metadata["name"])
            version = dict(here)[name]
            licence = licence_of(name, metadata, rules)
            yield Package(name, version, licence, ", ".join(places[name, version]))


def read_metadata(wanted: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Core metadata, by pip's report; no wheel is fetched where the registry has them apart."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names.txt")
        names.write_text("\n".join(f"{name}=={version}" for name, version in wanted))
        report = Path(folder, "report.json")
        options = ["-qq", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "install", *options, "--report", str(report)]
        subprocess.run([*command, "--requirement", str(names)], check=True)
        return [item["metadata"] for item in json.loads(report.read_text())["install"]]


def licence_of(name: str, metadata: Mapping[str, Any], rules: Rules) -> str:
    """An SPDX expression where the metadata, or the rules, know one.

    What the metadata say, best first: the expression; the text's first line; all classifiers.
    """
    if name in rules.read:
        return rules.read[name]
    if expression := metadata.get("license_expression"):
        return str(expression)
    line, _, _ = str(metadata.get("license") or "").strip().partition("\n")
    text = rules.spelled.get(line, line)
    known = {*rules.accepted, *rules.proprietary}
    if terms(text) and terms(text) <= known | {licence for licence, _ in rules.exceptions.values()}:
        return text
    classifiers = [c.split(" :: ")[-1] for c in metadata.get("classifier", ()) if "License" in c]
    return " AND ".join(rules.spelled.get(c, c) for c in classifiers) or text[:60] or "none named"


def terms(expression: str) -> set[str]:
    """The licences that an SPDX expression names; what follows `WITH` is part of its licence."""
    return {term for term in re.split(r"\s+(?:AND|OR)\s+|[()]+", expression) if term}


def refused(packages: Iterable[Package], rules: Rules) -> list[str]:
    """One line for each package that must not be linked in; tools of development may be."""
    lines = []
    for package in packages:
        bad = terms(package.licence) - {*rules.accepted, *rules.proprietary}
        borne = rules.exceptions.get(package.name, ("", ""))[0] == package.licence
        if bad and not borne and package.installed != "development":
            lines.append(
                f"{package.name} {package.version} ({package.installed}) is under "
                f"{package.licence}, and {', '.join(sorted(bad))} is not accepted: do without it, "
                "or write an exception into deploy/supply_chain/licences.toml, with its reason"
            )
    return lines


def render(packages: Iterable[Package], rules: Rules) -> str:
    """The report, in Markdown; `read_report` reads its first table."""
    rows = [*packages]
    parts = [HEAD, "| package | version | licence | installed in |", "|---|---|---|---|"]
    parts += [f"| {' | '.join(package)} |" for package in rows]
    parts += [
        "",
        "## Copyleft, and why it is borne",
        "",
        "| package | licence | reason |",
        "|---|---|---|",
    ]
    here = {package.name for package in rows}
    parts += [
        f"| {name} | {licence} | {reason} |"
        for name, (licence, reason) in rules.exceptions.items()
        if name in here
    ]
    parts += ["", "## Proprietary", "", "| licence | what, and why |", "|---|---|"]
    parts += [f"| {licence} | {reason} |" for licence, reason in rules.proprietary.items()]
    return "\n".join(parts) + "\n"


def read_report(text: str) -> list[Package]:
    """The packages of a report."""
    lines = text.splitlines()
    first = lines.index("|---|---|---|---|") + 1
    table = lines[first : lines.index("", first)]
    return [Package(*(cell.strip() for cell in line.strip("|").split("|"))) for line in table]


if __name__ == "__main__":
    main()
