"""Data flows one way, imports flow the other; and the documents show the tree as it is."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("jobs",),
    ("moa.fine_tuning",),
    ("moa.pipeline", "moa.training", "moa.serving"),
    ("moa.cluster",),
    ("moa.stages",),
    ("moa.decisions",),
    ("moa.evaluation",),
    ("moa.reports", "moa.replay"),
    ("moa.dispatch",),
    ("moa.router", "moa.planning", "moa.providers", "moa.grading"),
    ("moa.storage",),
    (
        "moa.schema",
        "moa.catalog",
        "moa.prices",
        "moa.price_list",
        "moa.errors",
        "moa.command_line",
        "moa.config",
        "moa.plan_config",
        "moa.dispatch_config",
        "moa.log",
        "moa.request",
        "moa.toml_file",
        "moa.intervals",
    ),
)
"""A module may import from lower lines, and from its own package. The lowest line is one."""
RAY_ALLOWED = (
    "jobs", "moa.cluster", "moa.fine_tuning.workers", "moa.pipeline", "moa.serving.deployment",
    "moa.serving.router_replicas", "moa.serving.shared_actors",
)  # fmt: skip
TOP_LEVEL = {
    ".ci", ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "README.md", "SECURITY.md", "constraints-cpu.txt", "constraints.txt", "deploy",
    "jobs", "moa", "notebooks", "pyproject.toml", "tests", ".pre-commit-config.yaml",
    ".dockerignore", "LICENCES.md",
}  # fmt: skip


def tracked(pattern: str) -> list[Path]:
    listing = ["git", "ls-files", "-co", "--exclude-standard", pattern]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split() if (ROOT / name).exists()]


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, and the names that it takes from packages of ours."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself: name the module whole"
            assert node.module is not None
            yield node.module
            if node.module in ("moa", "jobs"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> tuple[int, str] | None:
    """The line a module is on, from the top, and its package there."""
    for number, packages in enumerate(LAYERS):
        for package in packages:
            if is_in(module, (package,)):
                return number, package
    return None


def is_in(module: str, packages: Sequence[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in packages)


SOURCES = [p for p in tracked("*.py") if p.parts[0] in ("moa", "jobs")]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_imports_only_from_lower_lines(path: Path) -> None:
    module = module_name(path)
    if module == "moa":
        return
    mine = layer(module)
    assert mine is not None, f"{module} is on no line: add it to LAYERS or move it"

    for imported in imports(path):
        theirs = layer(imported)
        if theirs is None or theirs[1] == mine[1]:
            continue
        lowest = mine[0] == theirs[0] == len(LAYERS) - 1
        assert theirs[0] > mine[0] or lowest, f"{module} imports {imported} from above or beside it"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_the_upper_lines_know_ray(path: Path) -> None:
    knows_ray = any(name == "ray" or name.startswith("ray.") for name in imports(path))

    assert not knows_ray or is_in(module_name(path), RAY_ALLOWED)


def test_nobody_imports_a_job() -> None:
    importers = [
        str(path)
        for path in SOURCES
        if any(name == "jobs" or name.startswith("jobs.") for name in imports(path))
    ]

    assert importers == []


def test_the_top_level_holds_what_it_should() -> None:
    names = {path.parts[0] for path in tracked("*")}

    assert names <= TOP_LEVEL


def test_every_line_that_is_written_down_exists() -> None:
    modules = {module_name(path) for path in SOURCES}

    for package in (package for line in LAYERS for package in line):
        assert any(is_in(module, (package,)) for module in modules), f"there is no {package}"


def test_the_readme_names_the_folders_that_there_are() -> None:
    text = (ROOT / "README.md").read_text().split("## The tree")[1].split("\n## ")[0]
    printed = set(re.findall(r"^ +([a-z_]+)/", text, flags=re.MULTILINE))

    packages = {path.parts[1] for path in SOURCES if path.parts[0] == "moa" and len(path.parts) > 2}
    assert packages <= printed
    assert all((ROOT / name).is_dir() or (ROOT / "moa" / name).is_dir() for name in printed)


def test_the_architecture_prints_the_tree_as_it_is() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = text.split("## The tree")[1].split("```")[1]
    printed = set()
    folder = ""
    for line in block.splitlines():
        if match := re.match(r"(\S+/)\s", line + " "):
            folder = match[1]
        for name in re.findall(r"\b[a-z_0-9]+\.py\b", line.split("  #")[0]):
            printed.add(folder + name)
    real = {str(p) for p in SOURCES if p.name not in ("__init__.py", "__main__.py")}

    assert printed == real
