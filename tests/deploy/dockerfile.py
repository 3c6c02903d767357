"""A Dockerfile as its steps, and what of a checkout a build is sent."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "deploy/containers"


class Step(NamedTuple):
    """One instruction."""

    instruction: str
    value: str


class Copy(NamedTuple):
    """A COPY, taken apart."""

    sources: list[str]
    target: str
    stage: str | None
    """Whose files they are; of the checkout if `None`."""
    owner: tuple[int, int]


def read(name: str, **build_args: str) -> DockerfileParser:
    """`cpu` or `gpu`, as a build reads it that is given these arguments."""
    text = (CONTAINERS / f"{name}.Dockerfile").read_bytes()
    return DockerfileParser(fileobj=io.BytesIO(text), build_args=build_args)


def stages(parsed: DockerfileParser) -> dict[str, list[Step]]:
    """Name of a stage (`""` for the last) → its steps, FROM first."""
    found: list[list[Step]] = []
    for item in parsed.structure:
        if item["instruction"] == "FROM":
            found.append([])
        if found and item["instruction"] != "COMMENT":
            found[-1].append(Step(item["instruction"], item["value"]))
    names = [_stage_name(steps[0].value) for steps in found]
    return dict(zip(names, found, strict=True))


def _stage_name(value: str) -> str:
    _, _, name = value.partition(" AS ")
    return name


def copies(steps: list[Step]) -> list[Copy]:
    """All that a stage copies."""
    return [copy_of(step.value) for step in steps if step.instruction == "COPY"]


def copy_of(value: str) -> Copy:
    """`[--from=STAGE] [--chown=UID:GID] SOURCE… TARGET`."""
    words = shlex.split(value)
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    user, group = options.get("chown", "0:0").split(":")
    return Copy(sources, target, options.get("from"), (int(user), int(group)))


def health_check(steps: list[Step]) -> tuple[dict[str, str], list[str]]:
    """Options and command of a HEALTHCHECK in its exec form."""
    (value,) = [step.value for step in steps if step.instruction == "HEALTHCHECK"]
    options, _, command = value.partition("CMD")
    return dict(word[2:].split("=") for word in options.split()), json.loads(command)


def sent(path: str) -> bool:
    """Whether a build is sent `path`, relative to the checkout: the last pattern that fits says."""
    answer = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if re.fullmatch(_expression(pattern) + "(/.*)?", path):
            answer = line != pattern
    return answer


def _expression(pattern: str) -> str:
    """Docker's pattern as a regular expression: `**/` is any folders, `*` stays in one."""
    words = re.split(r"(\*\*/|\*)", pattern)
    meaning = {"**/": "(.*/)?", "*": "[^/]*"}
    return "".join(meaning.get(word, re.escape(word)) for word in words)


def files_of(source: str) -> list[str]:
    """Files that `COPY source` takes of this checkout, relative to it."""
    path = ROOT / source
    inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [name for p in inside if sent(name := p.relative_to(ROOT).as_posix())]
