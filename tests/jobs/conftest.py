"""A backlog of recorded queries, vendors on localhost that outlive the job, and the job itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.catalog import Wire
from moa.replay.process import ReplayServer, replay_server
from moa.schema import OUTCOMES
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
KEYS = {"OPENAI_API_KEY": "o", "ANTHROPIC_API_KEY": "a", "GEMINI_API_KEY": "g"}
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
QUERIES = 240
HASTY = ("dispatch.fallback=false", "dispatch.give_up_after_s=1")
OUT = {"outages": [{"provider": "openai", "to_s": 3600}]}


@dataclass
class Start:
    """One start of the job, in a process of its own."""

    process: subprocess.Popen[str]
    family: list[psutil.Process] = field(default_factory=list)

    def wait(self, timeout_s: float = 240) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    def kill(self, *, family: bool) -> None:
        """End it by SIGKILL; with all processes that it has started, as a loss of power does."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        if family:
            self.bury()
        self.process.communicate()

    def kill_one(self, name: str) -> None:
        """End one of the processes that it has started by SIGKILL: an actor of this class."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for one in family:
            with suppress(psutil.Error, IndexError):  # it ended meanwhile
                if f"ray::{name}" in one.cmdline()[0]:
                    one.kill()
                    return
        raise AssertionError(f"there is no {name} to kill")

    def ended_within(self, seconds: float) -> bool:
        """Whether it is over, or ends while it is waited for."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        return self.process.poll() is not None

    def bury(self) -> None:
        """Kill what the process has left behind."""
        for one in self.family:
            if one.is_running():
                one.kill()
        psutil.wait_procs(self.family, timeout=30)


@dataclass
class JobUnderTest:
    """`jobs/route_batch.py`, its accounts at a replay server as if that were the vendors."""

    config: Path
    folder: Path
    server: ReplayServer
    starts: list[Start] = field(default_factory=list)
    said: str = ""

    def start(self, *overrides: str, flags: Sequence[str] = (), **environ: str) -> Start:
        """Start it; `overrides` as for `--set`."""
        sets = [flag for one in overrides for flag in ("--set", one)]
        process = subprocess.Popen(
            [sys.executable, "jobs/route_batch.py", "--config", str(self.config), *sets, *flags],
            cwd=ROOT,
            env={**os.environ, **KEYS, **RAY, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Start(process)
        self.starts.append(started)
        return started

    def run(self, *overrides: str) -> str:
        """Start it, and expect it to end well; its stdout."""
        status, out, err = self.start(*overrides).wait()
        assert status == 0, err[-4000:]
        return out


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobUnderTest]:
    """A run of 240 recorded queries in 5 row groups, 30 queries a part."""
    with job_in(tmp_path) as under_test:
        yield under_test


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobUnderTest]:
    """The same, run to its end without a disturbance; `said` is what it printed."""
    with job_in(tmp_path_factory.mktemp("finished")) as under_test:
        under_test.said = under_test.run()
        yield under_test


def recorded_backlog(rows: int) -> pa.Table:
    """Recorded queries, again and again; from the second time on with a number before the prompt,
    so that the answer has to be made up.
    """
    table = pq.read_table(ROOT / "moa/recordings/demo_backlog.parquet")
    rounds = [table.slice(0, rows)]
    for number in range(1, -(-rows // table.num_rows)):
        columns = {name: table.column(name).to_pylist() for name in ("query_id", "prompt")}
        again = table.slice(0, rows - number * table.num_rows)
        for name, joint in (("query_id", "-"), ("prompt", ". ")):
            values = [f"{number}{joint}{text}" for text in columns[name][: again.num_rows]]
            again = again.set_column(again.schema.get_field_index(name), name, [values])
        rounds.append(again.cast(table.schema))
    return pa.concat_tables(rounds)


@contextmanager
def job_in(
    folder: Path, *, rows: int = QUERIES, part_rows: int = 30, limits: str = ""
) -> Iterator[JobUnderTest]:
    """The demo's job on a backlog of recorded queries, its models with such limits."""
    backlog = folder / "backlog.parquet"
    pq.write_table(recorded_backlog(rows), backlog, row_group_size=max(50, rows // 5))
    with replay_server() as server:
        catalog = catalog_at(folder / "catalog.toml", server.base_url, limits)
        config = folder / "job.toml"
        text = (ROOT / "jobs/configs/demo.toml").read_text()
        text = text[: text.index("[replay]")]
        parts = f"part_rows = {part_rows}"
        for before, after in {
            'catalog = "jobs/configs/demo_catalog.toml"': f'catalog = "{catalog}"',
            'folder = "runs"': f'folder = "{folder}/runs"',
            'path = "moa/recordings/demo_backlog.parquet"': f'path = "{backlog}"\n{parts}',
        }.items():
            assert before in text
            text = text.replace(before, after)
        config.write_text(text)
        under_test = JobUnderTest(config, folder / "runs" / "demo", server)
        try:
            yield under_test
        finally:
            for start in under_test.starts:
                if start.process.poll() is None:
                    start.kill(family=True)
                start.bury()


def catalog_at(path: Path, base_url: Callable[[Wire], str], limits: str = "") -> Path:
    """The demo's catalog, its accounts at the replay server, its models with these limits."""
    text = (ROOT / "jobs/configs/demo_catalog.toml").read_text()
    wires: tuple[Wire, ...] = ("openai", "anthropic", "gemini")
    for wire in wires:
        line = f'wire = "{wire}"\n'
        assert line in text
        text = text.replace(line, f'{line}base_url = "{base_url(wire)}"\n')
    if limits:
        text = re.sub(r"(?m)^(context_window = .*)$", rf"\1\nlimits = {{ {limits} }}", text)
    path.write_text(text)
    return path


@dataclass
class Night:
    """A finished run with dead letters, in a folder of its own."""

    job: JobUnderTest
    name: str

    @property
    def folder(self) -> Path:
        return self.job.folder.parent / self.name

    @property
    def merged(self) -> MergedRun:
        return MergedRun(RunFolder(str(self.folder)))

    def start(self, *flags: str, command: str = "redrive_dead_letters") -> Start:
        config = ["--config", str(self.job.config), "--set", f"run.id={self.name}"]
        # A redrive need not be told what the run was begun with, but what may change since.
        given = HASTY if command == "route_batch" else HASTY[1:]
        sets = [flag for one in given for flag in ("--set", one)]
        process = subprocess.Popen(
            [sys.executable, f"jobs/{command}.py", *config, *sets, *flags],
            cwd=ROOT,
            env={**os.environ, **KEYS, **RAY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Start(process)
        self.job.starts.append(started)
        return started

    def redrive(self, *flags: str) -> str:
        status, out, err = self.start(*flags).wait()
        assert status == 0, err[-4000:]
        return out

    def refused(self, *flags: str) -> str:
        """What is said of a command that does nothing."""
        asked, files = len(self.job.server.ledger()), sorted(self.folder.rglob("*"))
        status, _, err = self.start(*flags).wait()
        assert status == 2
        assert "Traceback" not in err
        assert len(self.job.server.ledger()) == asked
        assert sorted(self.folder.rglob("*")) == files
        return err

    def outcomes(self) -> pa.Table:
        return pa.concat_tables(self.merged.outcomes()).sort_by("query_id")

    def dead(self) -> set[str]:
        letters = [table["query_id"].to_pylist() for table in self.merged.dead_letters()]
        return {name for names in letters for name in names}

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "report/report.json").read_text())
        return document

    def asked(self) -> Counter[str]:
        return Counter(call["query_id"] for call in self.job.server.ledger())


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobUnderTest]:
    """A run that has ended while OpenAI was out, without fallbacks."""
    with job_in(tmp_path_factory.mktemp("bad_night")) as job:
        job.server.set_script(OUT)
        job.said = job.run(*HASTY)
        yield job


@pytest.fixture
def night(bad_night: JobUnderTest, request: pytest.FixtureRequest) -> Night:
    """A copy of it, and vendors that are well again."""
    copy = Night(bad_night, re.sub(r"\W+", "-", request.node.name)[:60])
    shutil.copytree(bad_night.folder, copy.folder)
    bad_night.server.reset()
    return copy


def assert_whole(night: Night) -> None:
    """One outcome a query, one dead letter for each that is dead, and a bill that is their sum."""
    found, report = night.outcomes(), night.report()
    manifests = [json.loads(path.read_text()) for path in night.folder.rglob("manifest.json")]
    dead = found.filter(pc.equal(found["status"], "dead_letter"))
    assert found.schema.equals(OUTCOMES)
    assert len(set(found["query_id"].to_pylist())) == found.num_rows == QUERIES
    assert set(dead["query_id"].to_pylist()) == night.dead()
    assert sum(found["cost_usd"].to_pylist()) == Decimal(report["cost_usd"])
    assert sum(Decimal(one["cost_usd"]) for one in manifests) == Decimal(report["cost_usd"])
    assert report["queries"] == report["ended"] == QUERIES
    assert report["dead_letters"] == dead.num_rows
    assert sum(queries for _, _, queries in report["routes"]) == QUERIES


@contextmanager
def cluster(options: str, says: str) -> Iterator[str]:
    """A Ray of its own, in processes of its own, until the block ends; what it says of itself.

    Args:
        options: of `ray.init`.
        says: an expression of its context, `context`.
    """
    script = (
        "import ray\n"
        f"context = ray.init(address='local', logging_level='error', {options})\n"
        f"print('CLUSTER', {says}, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **RAY, **KEYS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("CLUSTER"))
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for one in family:
                if one.is_running():
                    one.kill()
