"""What the README and `jobs/README.md` say to type is typed here, word by word."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.deploy.documents import ROOT, Block, blocks

README = ROOT / "README.md"
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
ANSWERED = re.compile(r'"status":"answered"|"done":(?!0,)\d+')


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository with `runs/` of its own, and an environment in which all is installed."""
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "runs") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    python = commands / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for stamp in (".made", ".core", ".serve", ".dev"):  # newer than what they depend on
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def block_with(text: str, document: Path = README) -> Block:
    """The one paragraph of code that has it."""
    (found,) = (block for block in blocks(document) if text in block.text and block.info != "sh")
    return found


def environ(checkout: Path) -> dict[str, str]:
    """Of a reader who has activated the environment."""
    path = f"{checkout / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **RAY, "PATH": path}


def typed(text: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Give it to a shell."""
    return subprocess.run(
        ["bash", "-c", text], cwd=checkout, env=environ(checkout), capture_output=True, text=True
    )


@contextmanager
def started(text: str, checkout: Path) -> Iterator[subprocess.Popen[str]]:
    """Give it to a shell, and end it with all that it has started when the block ends."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {text}"],
        cwd=checkout,
        env=environ(checkout),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            family = [psutil.Process(process.pid), *_children(process.pid)]
            for one in family:
                if one.is_running():
                    one.kill()
            psutil.wait_procs(family, timeout=30)


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.slow
def test_the_demo_ends_with_the_summary_that_the_readme_shows(checkout: Path) -> None:
    assert block_with("make demo").first.split("#")[0].strip() == "make demo"
    shown = block_with("1,158 queries: 1,158 answered").text

    done = typed("make demo", checkout)

    assert done.returncode == 0, done.stderr[-3000:]
    assert _fixed(done.stdout) >= _fixed(shown)
    (page,) = (checkout / "runs").glob("demo-*/report/report.html")
    assert str(page.relative_to(checkout)) in done.stdout


def _fixed(summary: str) -> set[str]:
    """What does not change from one run to the next, or with prices: who answered how many."""
    return set(re.findall(r"[a-z]+/\S+ +[\d,]+ queries|\d+ answered, .* dead letters", summary))


@pytest.mark.slow
def test_killed_and_typed_again_it_goes_on(checkout: Path) -> None:
    text = block_with("run.id=mine").text
    with started(text, checkout) as first:
        assert first.stdout is not None
        assert any(ANSWERED.search(line) for line in first.stdout), "it ended before it was killed"

    again = typed(text, checkout)

    assert again.returncode == 0, again.stderr[-3000:]
    assert "1,158 answered" in again.stdout
    kept = [json.loads(path.read_text()) for path in (checkout / "runs/mine/starts").iterdir()]
    assert len(kept) == 2


@pytest.mark.slow
def test_a_plan_is_shown_and_nobody_is_called(checkout: Path) -> None:
    done = typed(block_with("--plan-only").text, checkout)

    assert done.returncode == 0, done.stderr[-3000:]
    assert "plan: runs/planned/" in done.stdout
    assert not list((checkout / "runs/planned").glob("outcomes/*"))


@pytest.mark.slow
def test_from_a_night_to_a_refused_promotion(checkout: Path) -> None:
    """As `jobs/README.md` says: of one night there is too little, and the candidate is refused."""
    text = block_with("run.id=night", ROOT / "jobs/README.md").text
    lines = [line.split("     # ")[0] for line in text.splitlines()]
    *before, evaluate, promote = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()

    for line in before:
        done = typed(line, checkout)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    evaluated, promoted = typed(evaluate, checkout), typed(promote, checkout)

    assert evaluated.returncode == 1, evaluated.stderr[-3000:]
    assert promoted.returncode == 1, promoted.stderr[-3000:]
    assert "of each are needed" in evaluated.stdout
    assert "REFUSED" in promoted.stderr
    assert "was not measured" in promoted.stderr


def test_the_endpoints_snippets_work(checkout: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"localhost:{free.getsockname()[1]}"
    serve, curl, python = (
        block_with("--one-process").text.splitlines()[1],
        re.search(r"curl (?:.|\n)*", block_with("--one-process").text),
        block_with("client = openai").text,
    )
    assert curl is not None
    client = python.replace("messages=…", 'messages=[{"role": "user", "content": "Hi"}]')
    loud = f"import openai\n{client.replace('client.chat', 'stream = client.chat')}"
    program = f"{loud}\nprint(*(event.model for event in stream))".replace(
        "localhost:8000", address
    )

    at = f"{serve.split('  #')[0]} --set http.port={address.split(':')[1]}"
    with started(at, checkout) as process:
        assert process.stdout is not None
        assert any("/v1" in line for line in process.stdout), "it has not started"
        asked = typed(program_of(program), checkout)
        curled = (
            typed(curl.group().replace("localhost:8000", address), checkout)
            if shutil.which("curl")
            else None
        )

    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
    if curled is None:
        pytest.skip("curl is not installed; the client's snippet has worked")
    answer = json.loads(curled.stdout)
    assert answer["choices"][0]["message"]["content"]
    assert answer["moa"]["rule"]


def program_of(text: str) -> str:
    """A command that runs it."""
    return f"python - <<'END'\n{text}\nEND"
