"""The endpoint by the commands that users give: the job, `serve run` and `serve deploy`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from openai import AsyncOpenAI, OpenAI

from moa.serving.haproxy import free_port
from moa.storage.object_store import Folder
from tests.jobs.conftest import KEYS, RAY, ROOT
from tests.router.test_promotions import promote
from tests.serving.on_ray import BIN, HELLO, EndpointOnRay, artifact, endpoint_on_ray, having, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
APP = "moa.serving.deployment:build"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointOnRay]:
    """A cluster with a dashboard, as `serve deploy` asks that; nothing deployed."""
    with endpoint_on_ray(tmp_path_factory.mktemp("endpoint"), dashboard=True) as endpoint:
        yield endpoint


@pytest.fixture
def nothing_deployed(running: EndpointOnRay) -> Iterator[EndpointOnRay]:
    yield running
    serve(running, "shutdown", "--yes", "--address", running.dashboard)
    until(lambda: not running.haproxies() and not running.replicas("ingress"), 60)


def test_the_job_deploys_and_updates_and_what_it_deploys_outlives_it(
    nothing_deployed: EndpointOnRay,
) -> None:
    running = nothing_deployed

    first = running.deploy()
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stdout.splitlines()[-1] == f"{running.url}/v1"
    assert answers(running)
    before = running.replicas("ingress")

    again = running.deploy("max_usd_per_query=5")
    assert again.returncode == 0, again.stderr[-3000:]
    until(lambda: not (running.replicas("ingress") & before), 60)
    assert answers(running)

    elsewhere = running.deploy(f"http.port={free_port()}")
    assert elsewhere.returncode == 2
    assert f"listens at 127.0.0.1:{running.port}" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr
    assert answers(running)


def test_serve_run_serves_until_it_is_interrupted(nothing_deployed: EndpointOnRay) -> None:
    running = nothing_deployed
    start = serve(
        running, "start", "--address", running.address, "--http-host", "127.0.0.1",
        "--http-port", str(running.port),
    )  # fmt: skip
    assert start.returncode == 0, start.stderr[-3000:]
    command = [
        str(BIN / "serve"), "run", "--address", running.address, "--name", "moa", APP,
        f"config={running.config}",
    ]  # fmt: skip

    with begun(command, running.environ) as process:
        assert process.stdout is not None
        assert any("is ready" in line for line in process.stdout)
        assert answers(running)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said[-3000:]

    until(lambda: not running.replicas("ingress"), 60)


def test_the_file_in_deploy_is_deployed_where_it_says(
    nothing_deployed: EndpointOnRay, tmp_path: Path
) -> None:
    running = nothing_deployed

    routers = Folder(str(tmp_path / "routers"))
    first = promote(routers, str(artifact(tmp_path, "candidate")))
    args = {"router.artifact": routers.url, "revision": "1"}
    deploy_file(running, tmp_path / "endpoint.yaml", host="127.0.0.1", **args)

    until(lambda: router_in_use(running) == first, 120)
    assert answers(running)

    second = promote(routers, str(artifact(tmp_path, "its successor")))
    args["revision"] = "2"
    deploy_file(running, tmp_path / "endpoint.yaml", host="127.0.0.1", **args)

    until(lambda: router_in_use(running) == second, 120)
    assert answers(running)


def test_without_keys_it_does_not_start_where_others_can_reach_it(
    nothing_deployed: EndpointOnRay, tmp_path: Path
) -> None:
    running = nothing_deployed

    deploy_file(running, tmp_path / "endpoint.yaml", host="0.0.0.0")

    until(lambda: "access.open, and Serve listens at 0.0.0.0" in status(running), 120)
    assert router_in_use(running) is None


@pytest.mark.parametrize("how", ["told", "ctrl-c"])
async def test_on_its_own_ray_it_ends_in_seconds_but_not_before_its_streams(
    tmp_path: Path, how: str
) -> None:
    with begun(alone(tmp_path), without_a_cluster()) as process:
        url = await asyncio.to_thread(url_of, process)
        async with AsyncOpenAI(api_key="x", base_url=url, max_retries=0) as client:
            stream = await client.chat.completions.create(model="moa", messages=HELLO, stream=True)
            pieces = [await anext(aiter(stream))]
            if how == "told":
                process.send_signal(signal.SIGTERM)
            else:  # as a terminal does: all processes that are started from it
                os.killpg(process.pid, signal.SIGINT)
            told_at = time.monotonic()
            pieces += [piece async for piece in stream]
            streamed_s = time.monotonic() - told_at
        await asyncio.to_thread(process.wait, 60)
        ended_s = time.monotonic() - told_at

    assert process.returncode == 0
    assert pieces[-1].choices[0].finish_reason == "stop"
    sys.stdout.write(f"streamed for {streamed_s:.1f} s more, ended after {ended_s:.1f} s\n")


def test_when_it_is_killed_nobody_goes_on_listening(tmp_path: Path) -> None:
    with begun(alone(tmp_path), without_a_cluster()) as process:
        port = int(url_of(process).rsplit(":", 1)[1].removesuffix("/v1"))
        listening = having("haproxy.cfg", psutil.Process(process.pid).children(recursive=True))
        assert listening
        words = psutil.Process(min(listening)).cmdline()
        folder = Path(words[words.index("-f") + 1]).parents[1]

    until(lambda: not listening & having("haproxy.cfg", psutil.process_iter()), 60)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    shutil.rmtree(folder)  # which nobody was left to remove


def alone(folder: Path) -> list[str]:
    """The command that starts a Ray of its own."""
    return [
        sys.executable, "jobs/serve_router.py", "--config", "jobs/configs/serve.toml",
        "--set", "http.port=0", "--set", f"feedback.folder={folder}", "--set",
        "replay.script={latency={median_s=0.2,per_output_token_s=0.05}}",
    ]  # fmt: skip


def without_a_cluster() -> dict[str, str]:
    """The environment of that command."""
    return {name: value for name, value in (os.environ | RAY).items() if name != "RAY_ADDRESS"}


def url_of(process: subprocess.Popen[str]) -> str:
    """The address that it prints."""
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if line.startswith("http"))


def answers(running: EndpointOnRay) -> bool:
    """Whether the endpoint does."""
    with OpenAI(api_key="x", base_url=f"{running.url}/v1", max_retries=5) as client:
        made = client.chat.completions.create(model="moa", messages=HELLO)
    return bool(made.choices[0].message.content)


def serve(running: EndpointOnRay, *words: str) -> subprocess.CompletedProcess[str]:
    """Serve's own command."""
    return running.command([str(BIN / "serve"), *words])


def deploy_file(running: EndpointOnRay, written: Path, *, host: str, **args: str) -> None:
    """`serve deploy`, by the file that is in `deploy/`."""
    document = yaml.safe_load((ROOT / "deploy/endpoint.yaml").read_text())
    document["http_options"] |= {"host": host, "port": running.port}
    document["applications"][0]["args"] |= {"config": str(running.config), **args}
    written.write_text(yaml.safe_dump(document))
    deployed = serve(running, "deploy", str(written), "--address", running.dashboard)
    assert deployed.returncode == 0, deployed.stderr[-3000:]


def status(running: EndpointOnRay) -> str:
    """What Serve says of the application, on one line."""
    said = serve(running, "status", "--address", running.dashboard, "--name", "moa").stdout
    return " ".join(said.split())


def router_in_use(running: EndpointOnRay) -> str | None:
    """Its version, once the endpoint is there; what Serve has promised comes later."""
    try:
        with urllib.request.urlopen(f"{running.url}/healthz", timeout=10) as answer:
            return str(json.load(answer)["router_version"])
    except OSError:
        return None


def as_in_a_terminal() -> None:
    """Whoever is started in the background is started with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def begun(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on; what is left of it at the end is killed."""
    with subprocess.Popen(
        command, cwd=ROOT, env={**environ, **KEYS}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=as_in_a_terminal,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
