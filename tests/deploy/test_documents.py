"""Every command of the documents is known here: parsed by its own program, or run by a named test.

A command that is none of these fails: make it one that a test runs, and name that test in
`ELSEWHERE`. What the README and `jobs/README.md` say to type is run by `test_readme.py`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import typer
from botocore import xform_name

from moa.config import load_config
from moa.evaluation.config import EvaluateRouterConfig
from moa.evaluation.promotion import PromoteRouterConfig
from moa.fine_tuning.config import FineTuneConfig
from moa.pipeline.grade_config import GradeOutcomesConfig
from moa.pipeline.judge_config import JudgeOutcomesConfig
from moa.pipeline.sizing_config import SizeRunConfig
from moa.serving.config import load_endpoint_config
from moa.toml_file import Section, read_toml
from moa.training.add_models import AddModelsConfig
from moa.training.train import TrainRouterConfig
from tests.deploy.documents import ROOT, SHELL, Block, Command, blocks, commands

DOCUMENTS = sorted(
    {
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(
            ROOT / name
            for name in ("jobs/README.md", "notebooks/README.md", "tests/bench/README.md")
        ),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "moa").rglob("README.md"),
        *(ROOT / "notebooks").glob("*.ipynb"),
    }
)
STAND_INS = {
    "my_job.toml": "jobs/configs/route_batch.toml",
    "my_router.toml": "jobs/configs/train_router.toml",
    "my_serve.toml": "jobs/configs/serve.toml",
    "config/nightly.toml": "jobs/configs/route_batch.toml",
    "config/endpoint.toml": "jobs/configs/serve.toml",
}
"""Configs of the reader's own, and what is read in their place."""


def _reader(kind: type[Section]) -> Callable[[str, Sequence[str]], object]:
    return lambda path, overrides: read_toml(kind, path, overrides)


READERS: dict[str, Callable[[str, Sequence[str]], object]] = {
    "add_models": _reader(AddModelsConfig),
    "evaluate_router": _reader(EvaluateRouterConfig),
    "fine_tune_backbone": _reader(FineTuneConfig),
    "grade_outcomes": _reader(GradeOutcomesConfig),
    "judge_outcomes": _reader(JudgeOutcomesConfig),
    "list_batches": load_config,
    "promote_router": _reader(PromoteRouterConfig),
    "redrive_dead_letters": load_config,
    "route_batch": load_config,
    "serve_router": load_endpoint_config,
    "size_run": _reader(SizeRunConfig),
    "train_router": _reader(TrainRouterConfig),
}
"""Job → how it reads its config."""

NO_COMMANDS = {
    ("README.md", "query log ─►"): "the picture",
    ("README.md", "1,158 queries:"): "what `make demo` prints",
    (
        "README.md",
        "jobs/ ",
    ): "tests/test_layers.py::test_the_readme_names_the_folders_that_there_are",
    (
        "README.md",
        "client = openai",
    ): "tests/deploy/test_readme.py::test_the_endpoints_snippets_work",
    ("deploy/README.md", "RAY_SERVE_ENABLE_HA_PROXY"): "variables of nodes",
    ("deploy/kuberay/README.md", "base/"): "the tree",
}
"""(Document, how a block begins) → what it is, or the test that runs or holds it."""

MANIFESTS, IMAGES = "tests/deploy/test_manifests.py", "tests/deploy/test_containers.py"
NOTEBOOKS = "tests/notebooks/test_notebooks.py"
ELSEWHERE = {
    (
        "",
        "pip install -c constraints.txt -e",
    ): "the Makefile's own way to set up; every test needs it",
    ("", "pip install -e"): "the same, of an extra; pyproject.toml has it",
    ("", "apt-get install"): "needs root; .ci/run does it",
    (
        "deploy/containers/README.md",
        "docker build",
    ): f"{IMAGES}::test_the_readme_builds_this_file_under_this_name",
    ("", "gcloud iam"): "needs an account; test_iam_documents.py reads the files",
    (
        "deploy/kuberay/README.md",
        "kubectl ",
    ): f"{MANIFESTS}::test_kubectl_understands_every_command_of_the_readme",
    ("README.md", "curl "): "tests/deploy/test_readme.py::test_the_endpoints_snippets_work",
    (
        "notebooks/README.md",
        "jupytext --sync",
    ): f"{NOTEBOOKS}::test_a_notebook_keeps_no_outputs_and_is_its_pair",
}
"""(Document, or any; how a command begins) → the test that runs it, or why none does."""


def known(command: Command) -> None:
    """Pass, or say what is wrong with a command."""
    for word in command.words:
        if re.match(r"(?:deploy|jobs|moa|notebooks|tests)/[\w./-]+$", word):
            assert "NAME" in word or (ROOT / word).exists(), f"there is no {word}"
    match command.words:
        case ("." | "cd" | "export", *_):
            pass  # of the shell itself
        case ("python" | ".venv/bin/python", _, *_, "…"):
            pass  # the rest is elsewhere
        case ("python" | ".venv/bin/python", script, *words) if script.startswith("jobs/"):
            check_job(ROOT / script, words)
        case ("python" | ".venv/bin/python", "-m", module, *words) if "bench" in module:
            check_bench(module, tuple(words))
        case ("ray" | "serve" as program, *words):
            check_ray(program, [word for word in words if word != "…"])
            if "--" in words:
                inner = tuple(words[words.index("--") + 1 :])
                known(replace(command, text=shlex.join(inner), words=inner))
        case ("bash" | "sh", "-c", script):
            for text in script.split("&&"):
                known(replace(command, text=text.strip(), words=tuple(shlex.split(text))))
        case ("aws", service, operation, *words):
            check_aws(service, operation, words)
        case ("make", target, *given):
            check_make(target, tuple(given))
        case ("pytest" | ".venv/bin/pytest", *words):
            check_tests(words)
        case _:
            assert elsewhere(command), "no test is named for it"


def check_job(script: Path, words: Sequence[str]) -> None:
    """Parsed by the job's own command line, its config read with what `--set` changes."""
    main: Callable[..., None] = runpy.run_path(str(script))["main"]
    app = typer.Typer()
    app.command()(main)
    asked: dict[str, Any] = (
        typer.main.get_command(app).make_context(script.stem, list(words)).params
    )
    path = asked.get("config") or asked.get("path")
    if path is not None:
        READERS[script.stem](str(ROOT / STAND_INS.get(path, path)), asked["overrides"])


@cache
def check_bench(module: str, words: tuple[str, ...]) -> None:
    """It is there, and of its flags it only refuses one that it cannot know."""
    found = importlib.util.find_spec(module)
    assert found is not None, f"there is no {module}"
    if words:
        said = subprocess.run(
            [sys.executable, "-m", module, *words, "--no-such-flag"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        ).stderr
        assert said.endswith("unrecognized arguments: --no-such-flag\n"), said


@cache
def check_make(target: str, given: tuple[str, ...]) -> None:
    """Make has a rule for it, and the Makefile the variables."""
    makefile = (ROOT / "Makefile").read_text()
    for one in given:
        name = one.partition("=")[0]
        assert re.search(rf"\b{name}\b", makefile), f"the Makefile has no {name}"
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    assert target in phony.split(), f"the Makefile has no target {target}"
    done = subprocess.run(
        ["make", "--dry-run", target, *given], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def check_ray(program: str, words: Sequence[str]) -> None:
    """Parsed by Ray's own command line; a command that is only named need only be there."""
    module = {"ray": "ray.scripts.scripts", "serve": "ray.serve.scripts"}[program]
    command: click.Command = import_module(module).cli
    rest = list(words)
    while rest and isinstance(command, click.Group):
        assert rest[0] in command.commands, f"{program} has no {rest[0]}"
        command = command.commands[rest.pop(0)]
    if rest:
        command.make_context(program, rest)


def check_aws(service: str, operation: str, words: Sequence[str]) -> None:
    """The service has the operation, the operation these parameters."""
    model = botocore.session.Session().get_service_model({"s3api": "s3"}.get(service, service))
    names = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in names, f"{service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    known_flags = {f"--{xform_name(name, '-')}" for name in shape.members} if shape else set()
    unknown = {word for word in words if word.startswith("--")} - known_flags
    assert not unknown, f"{operation} has no {unknown}"
    for word in words:
        if word.startswith("file://"):
            check_test(word.removeprefix("file://"))


def check_tests(words: Sequence[str]) -> None:
    """What is named is there."""
    flags = {"-q", "-x", "-m", "-k", "-n"}
    for place, word in enumerate(words):
        if word not in flags and (not place or words[place - 1] not in {"-m", "-k", "-n"}):
            check_test(word)


def check_test(name: str) -> None:
    """There is such a file, folder or test."""
    path, _, function = name.partition("::")
    assert (ROOT / path).exists(), f"there is no {path}"
    if function:
        assert re.search(rf"def {function}\(", (ROOT / path).read_text()), f"there is no {name}"


def elsewhere(command: Command) -> tuple[str, str] | None:
    """The entry of `ELSEWHERE` that tells of a command."""
    for document, begins in ELSEWHERE:
        if document in ("", command.document) and command.text.startswith(begins):
            return document, begins
    return None


def parsed(block: Block) -> None:
    """A block that says what it is, read as that."""
    readers: dict[str, Callable[[str], object]] = {
        "json": json.loads,
        "python": lambda text: compile(text, block.document, "exec"),
        "text": str,
        "toml": tomllib.loads,
        "yaml": import_module("yaml").safe_load,  # typed or not, as types-PyYAML is there
    }
    assert block.info in readers, f"what is {block.info!r}?"
    readers[block.info](block.text)


def of_code(document: Path) -> Iterator[Block]:
    """Its blocks that are not told by name to be no commands."""
    for block in blocks(document):
        begins = [text for name, text in NO_COMMANDS if name == block.document]
        if not block.first.startswith(tuple(begins)):
            yield block


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_known(document: Path) -> None:
    unknown = []
    for block in of_code(document):
        try:
            if block.info and block.info not in SHELL:
                parsed(block)
                continue
            for command in commands(block):
                known(command)
        except Exception as error:
            unknown.append(f"{block.document}:{block.line}: {block.text}\n  {error}")

    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("python jobs/route_batch.py --config jobs/configs/demo.toml --set run.idd=x", "run.id"),
        ("python jobs/route_batch.py --config jobs/configs/none.toml", "none.toml"),
        ("python jobs/route_batch.py --conf jobs/configs/demo.toml", "--conf"),
        ("python -m tests.bench.bench_decide --lines 10", "--lines"),
        ("python -m tests.bench.bench_nothing", "bench_nothing"),
        ("ray jobs submit", "jobs"),
        ("ray job submit --host http://any -- python jobs/route_batch.py", "--host"),
        ("ray job submit -- python jobs/none.py", "none.py"),
        ("aws iam create-policy --name x", "--name"),
        ("make nothing", "nothing"),
        ("make test SLOWLY=1", "SLOWLY"),
        ("pytest tests/none.py", "none.py"),
        ("rm -rf runs", "no test is named"),
    ],
)
def test_a_command_that_is_wrong_is_found(text: str, wrong: str) -> None:
    block = Block("page.md", 1, "sh", text)

    with pytest.raises(Exception, match=re.escape(wrong)):  # of whatever program refuses it
        known(*commands(block))


def test_every_test_and_module_that_the_threat_model_names_is_there() -> None:
    named = re.findall(r"`((?:[\w/]+\.py)?(?:::\w+)?)`", (ROOT / "SECURITY.md").read_text())
    path, found = "", 0
    for name in filter(None, named):
        if not name.startswith("::"):
            path = name.partition("::")[0]
        of = "tests" if "test_" in path or path.startswith("providers/provider_contract") else "moa"
        if of == "tests" or "/" in path:
            check_test(f"{of}/{path}{name[name.find('::') :] if '::' in name else ''}")
            found += 1

    assert found > 50


def test_what_is_named_is_there() -> None:
    for said in (*ELSEWHERE.values(), *NO_COMMANDS.values()):
        if said.startswith("tests/"):
            check_test(said)
    for document, begins in NO_COMMANDS:
        found = blocks(ROOT / document)
        assert any(block.first.startswith(begins) for block in found), f"{document}: no {begins!r}"


def test_no_entry_is_left_of_a_command_that_has_gone() -> None:
    told = {
        elsewhere(command)
        for document in DOCUMENTS
        for block in of_code(document)
        if not block.info or block.info in SHELL
        for command in commands(block)
    }

    assert told - {None} == set(ELSEWHERE)
