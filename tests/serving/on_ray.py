"""A Ray cluster that runs the endpoint, started and updated by the commands that users give."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from openai import AsyncOpenAI

from moa.replay.process import ReplayServer, replay_server
from moa.serving.haproxy import free_port, ray_environ
from tests.jobs.conftest import KEYS, RAY, ROOT, catalog_at, cluster

HELLO: Any = [{"role": "user", "content": "What is the sum of the first ten primes?"}]
SLOW: dict[str, object] = {
    "synthetic": True,
    "latency": {"median_s": 0.2, "per_output_token_s": 0.02},
}
BIN = Path(sys.executable).parent


@dataclass
class EndpointOnRay:
    """A cluster, and what is deployed on it."""

    address: str
    """For RAY_ADDRESS."""
    pid: int
    """Of the process that has started the cluster, whose children all others are."""
    dashboard: str
    """Its address, where the cluster has one."""
    config: Path
    port: int
    server: ReplayServer
    proxy: str
    """Folder of HAProxy's files."""
    overrides: list[str] = field(default_factory=list)
    """Of all deployments."""

    @property
    def url(self) -> str:
        """Without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """Of commands that are given."""
        return {**os.environ, **KEYS, **RAY, "RAY_ADDRESS": self.address}

    def deploy(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """Deploy as a user does; again, it is an update. The command ends once it is there."""
        given = (f"http.port={self.port}", *self.overrides, *overrides)
        sets = [flag for one in given for flag in ("--set", one)]
        command = [sys.executable, "jobs/serve_router.py", "--config", str(self.config), *sets]
        return self.command(command)

    def command(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Any command that knows of the cluster."""
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=180
        )

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of the replicas that there are of one deployment."""
        return self._processes(f"ServeReplica:moa:{deployment}")

    def haproxies(self) -> set[int]:
        """Process ids, of those too whose parent has died."""
        return having(f"{self.proxy}/", psutil.process_iter())

    def reachable(self) -> set[str]:
        """Ingress replicas to which HAProxy passes requests now; that their processes are there
        comes before, that they are known to be gone after."""
        return {name for name in self.servers() if name.startswith("SERVE_REPLICA")}

    def servers(self) -> dict[str, str]:
        """Whom HAProxy asks: name → address."""
        found: dict[str, str] = {}
        for at in Path(self.proxy).glob("*/admin.sock"):
            with suppress(OSError), socket.socket(socket.AF_UNIX) as admin:
                admin.connect(str(at))
                admin.sendall(b"show stat\n")
                with admin.makefile() as said:
                    rows = [row for row in csv.DictReader(said) if row["status"] == "UP"]
                found |= {row["svname"]: row["addr"] for row in rows if row["addr"]}
        return found

    def _processes(self, words: str) -> set[int]:
        return having(words, psutil.Process(self.pid).children(recursive=True))

    def client(self, retries: int = 0) -> AsyncOpenAI:
        """OpenAI's own."""
        return AsyncOpenAI(api_key="x", base_url=f"{self.url}/v1", max_retries=retries)


@contextmanager
def deployed_endpoint(
    folder: Path, *overrides: str, script: dict[str, object] = SLOW, **environ: str
) -> Iterator[EndpointOnRay]:
    """An endpoint that answers.

    Args:
        folder: empty.
        overrides: of this and all later deployments.
        script: of its vendor.
        environ: of the cluster.
    """
    with endpoint_on_ray(folder, **environ) as endpoint:  # type: ignore[arg-type]
        endpoint.overrides += overrides
        endpoint.server.set_script(script)
        done = endpoint.deploy()
        assert done.returncode == 0, done.stderr[-3000:]
        yield endpoint


@contextmanager
def endpoint_on_ray(
    folder: Path,
    *,
    cpus: int = 8,
    drain_s: float = 30,
    limits: str = "",
    dashboard: bool = False,
    **environ: str,
) -> Iterator[EndpointOnRay]:
    """A cluster for as long as the block, nothing deployed yet.

    Args:
        folder: empty.
        cpus: that Ray believes to have.
        drain_s: that streams have to end when their replica goes.
        limits: of the catalog's models.
        dashboard: whether there is one.
        environ: of the cluster, besides what HAProxy needs.
    """
    with (
        TemporaryDirectory(prefix="moa-") as proxy,
        replay_server(synthetic=True) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**ray_environ(Path(proxy), drain_s), **environ}.items():
            patch.setenv(name, value)
        catalog = catalog_at(folder / "catalog.toml", server.base_url, limits)
        text = (ROOT / "jobs/configs/serve.toml").read_text()
        text = text[: text.index("\n[replay]")]
        for before, after in {
            'catalog = "jobs/configs/demo_catalog.toml"': f'catalog = "{catalog}"',
            'folder = "runs/endpoint"': f'folder = "{folder}/feedback"',
        }.items():
            assert before in text
            text = text.replace(before, after)
        config = folder / "serve.toml"
        config.write_text(text)
        options = (
            f"num_cpus={cpus}, include_dashboard={dashboard}, dashboard_port={free_port()}, "
            "object_store_memory=100 << 20"
        )
        says = (
            "context.address_info['gcs_address'] + '|' + str(__import__('os').getpid()) + '|' "
            "+ str(context.dashboard_url)"
        )
        with nothing_left(proxy), cluster(options, says) as said:
            patch.undo()  # read by now
            address, pid, url = said.split("|")
            overrides = [f"serve.drain_s={drain_s}", "serve.health_every_s=1"]
            yield EndpointOnRay(
                address, int(pid), f"http://{url}", config, free_port(), server, proxy, overrides
            )


@contextmanager
def nothing_left(folder: str) -> Iterator[None]:
    """HAProxy outlives a Ray that is killed; one of this folder is ended with the block."""
    yield
    for pid in having(f"{folder}/", psutil.process_iter()):
        os.kill(pid, signal.SIGKILL)


def having(words: str, processes: Iterable[psutil.Process]) -> set[int]:
    """Process ids of those with these words in their command line."""
    found = set()
    for one in processes:
        with suppress(psutil.Error):  # it ended meanwhile
            if words in " ".join(one.cmdline()):
                found.add(one.pid)
    return found


def artifact(folder: Path, name: str) -> Path:
    """A copy of the embedded router, with a version of its own."""
    copy = folder / name
    shutil.copytree(ROOT / "moa/router/embedded", copy)
    document = (copy / "artifact.json").read_text()
    (copy / "artifact.json").write_text(document + " " * len(name))
    return copy


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what happens in other processes, of which nobody tells; in a thread of its own."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "it never came"
        time.sleep(0.1)


def nothing_was_lost(running: EndpointOnRay, calls_before: int, answers: int) -> None:
    """Each request that came so far that a vendor was called was answered at once.

    That a request is sent on a connection that HAProxy is just closing is HTTP's own race: nobody
    has accepted it, and the client sends it again. Had it been accepted, there would be two calls.
    """
    calls = running.server.ledger()[calls_before:]
    assert {call["fate"] for call in calls} == {"ok"}
    assert len(calls) == answers


async def load(client: AsyncOpenAI, seen: list[str], number: int, over: asyncio.Event) -> None:
    """Ask again and again, once more after it is over; odd ones stream. Any error ends it.

    Args:
        client: whom to ask by.
        seen: gets the router's version of each answer.
        number: of this asker.
        over: set by whoever has seen enough.
    """
    last = False
    while not last:
        last = over.is_set()
        if number % 2:
            async with client.chat.completions.with_streaming_response.create(
                model="moa", messages=HELLO, stream=True
            ) as answer:
                text = await answer.text()
                assert text.endswith("data: [DONE]\n\n"), text[-200:]
                seen.append(answer.headers["x-moa-router-version"])
        else:
            raw = await client.chat.completions.with_raw_response.create(
                model="moa", messages=HELLO
            )
            assert raw.parse().choices[0].message.content
            seen.append(raw.headers["x-moa-router-version"])
