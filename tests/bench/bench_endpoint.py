"""What the endpoint adds to a call, how many requests a core bears, and whether memory stays flat.

    python -m tests.bench.bench_endpoint                   # one process, and Ray Serve; 6 minutes
    python -m tests.bench.bench_endpoint --side one --memory 50000
    python -m tests.bench.bench_endpoint --scale 0.2       # a trial: printed, not kept

The vendor is the replay server on localhost, which takes half a second for an answer; "added" is
against clients that call it directly. Clients, vendor and endpoint share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from moa.replay.process import ReplayServer, replay_server
from tests.bench.results import record

ROOT = Path(__file__).parents[2]
SIDES: Mapping[str, tuple[list[str], dict[str, str]]] = {
    "one process": (["--one-process"], {}),
    "serve": ([], {}),
    "serve, separate thread": ([], {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}),
    "serve, its own proxy": (["--set", "serve.haproxy=false"], {}),
}
"""How the job is started, and with what in its environment."""
USUAL = ("one process", "serve")
STREAMS = (1, 16, 64)
VENDOR_S = 0.5
MODEL = "openai/gpt-4o-mini"
API_NAME = "gpt-4o-mini-2024-07-18"
KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "bench")
SLOW = {"synthetic": True, "latency": {"median_s": VENDOR_S}}
FAST = {"synthetic": True}


def main() -> None:
    """Measure, print tables, keep the figures of a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", nargs="+", choices=list(SIDES), default=list(USUAL))
    parser.add_argument("--memory", type=int, default=0, help="requests, to see memory")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with replay_server(synthetic=True, script=SLOW) as vendor:
        direct = _latencies(
            f"{vendor.base_url('openai')}/chat/completions", API_NAME, options.scale
        )
        for side in options.side:
            with endpoint(side, vendor) as (url, root):
                figures[side] = _measure(side, url, root, vendor, direct, options)
    if options.scale == 1:
        record("endpoint", {"vendor_s": VENDOR_S, "direct": direct, "sides": figures})


def _measure(
    side: str,
    url: str,
    root: psutil.Process,
    vendor: ReplayServer,
    direct: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    vendor.set_script(SLOW)
    load(url, MODEL, 4, 40)  # accounts are proven, connections open
    found: dict[str, Any] = {}
    print(f"\n{side:22} {'added p50':>10} {'p99':>9} {'p50 to 1st':>11} {'p99':>9}   ms")
    for name, one in _latencies(url, "moa", options.scale).items():
        added = {key: one[key] - direct[name][key] for key in one}
        found[name] = {key: round(value, 2) for key, value in added.items()}
        print(f"{name:>10} streams     " + " ".join(f"{value:9.1f}" for value in added.values()))
    vendor.set_script(FAST)
    load(url, MODEL, 16, 200)
    for name, model in (("straight", MODEL), ("routed", "moa")):
        before = _cpu_s(root)
        whole = load(url, model, 16, round(3000 * options.scale))
        cpu_ms = 1000 * (_cpu_s(root) - before) / round(3000 * options.scale)
        found[name] = {"per_s": round(whole["per_s"], 1), "cpu_ms": round(cpu_ms, 3)}
        print(f"{name:>10}: {whole['per_s']:.0f} requests/s, {cpu_ms:.2f} ms of CPU each")
    if options.memory:
        before_mb = _memory_mb(root)
        load(url, "moa", 16, options.memory)
        after_mb = _memory_mb(root)
        found["memory_mb"] = [round(before_mb), round(after_mb)]
        print(f"{options.memory} more requests: from {before_mb:.0f} to {after_mb:.0f} MB")
    return found


def _latencies(url: str, model: str, scale: float) -> dict[str, dict[str, float]]:
    """By the number of clients: whole answers, and first pieces of streams."""
    found = {}
    for streams in STREAMS:
        requests = max(2 * streams, round(scale * max(60, 12 * streams)))
        spread = ("--spread-s", str(VENDOR_S))
        whole = load(url, model, streams, requests, *spread)
        first = load(url, model, streams, requests, *spread, "--stream")
        found[str(streams)] = {
            "p50_ms": whole["p50_ms"],
            "p99_ms": whole["p99_ms"],
            "first_p50_ms": first["p50_ms"],
            "first_p99_ms": first["p99_ms"],
        }
    return found


def load(url: str, model: str, streams: int, requests: int, *more: str) -> dict[str, float]:
    """Clients, in a process of their own."""
    command = [sys.executable, "-m", "tests.bench.endpoint.load", url, model, "bench"]
    command += [str(streams), str(requests), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def endpoint(side: str, vendor: ReplayServer) -> Iterator[tuple[str, psutil.Process]]:
    """The job in a process of its own, with its address."""
    arguments, variables = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), vendor)
        command = [sys.executable, "jobs/serve_router.py", "--config", str(config), *arguments]
        ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        environ = {**os.environ, **KEYS, **ray, **variables, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            url = next((line for line in process.stdout if line.startswith("http")), None)
            try:
                if url is None:
                    sys.exit(f"{side}: the endpoint did not start")
                _settle()
                yield f"{url.strip()}/chat/completions", psutil.Process(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)


def _settle() -> None:
    """Wait until Serve's own start is over: for a second in which the machine has little to do."""
    for _ in range(30):
        if psutil.cpu_percent(interval=1) < 15:
            return


def _config(folder: Path, vendor: ReplayServer) -> Path:
    """The demo's config, with accounts at the vendor's address and no replay of its own."""
    catalog = (ROOT / "jobs/configs/demo_catalog.toml").read_text()
    for wire in ("openai", "anthropic", "gemini"):
        url = vendor.base_url(wire)
        catalog = catalog.replace(f'wire = "{wire}"', f'wire = "{wire}"\nbase_url = "{url}"')
    (folder / "catalog.toml").write_text(catalog)
    config = (ROOT / "jobs/configs/serve.toml").read_text().partition("\n[replay]")[0]
    config = config.replace("jobs/configs/demo_catalog.toml", str(folder / "catalog.toml"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = config.replace("port = 8000", f"port = {port}")
    config = config.replace("runs/endpoint", str(folder / "feedback"))
    path = folder / "serve.toml"
    path.write_text(config)
    return path


def _family(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _cpu_s(root: psutil.Process) -> float:
    """Of the endpoint's processes, Ray's included."""
    return sum(sum(process.cpu_times()[:2]) for process in _family(root))


def _memory_mb(root: psutil.Process) -> float:
    return sum(process.memory_full_info().pss for process in _family(root)) / 1e6


if __name__ == "__main__":
    main()
