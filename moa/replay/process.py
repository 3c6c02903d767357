"""The replay server in a process of its own, from the side of whoever starts it."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from moa.catalog import Wire
from moa.errors import ConfigError
from moa.replay.script import parse_script
from moa.replay.server import provider_path

_TIMEOUT_S = 60.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ReplayServer:
    """A server that listens."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        """`http://127.0.0.1:PORT`."""
        self.pid = pid

    def base_url(self, wire: Wire) -> str:
        """Where one vendor is, as `open_provider` and the vendor's SDK take it."""
        return f"{self.url}{provider_path(wire)}"

    def set_script(self, script: Mapping[str, object]) -> None:
        """Play another script from now on; see `moa.replay.script`.

        Raises:
            ConfigError: it is none.
        """
        parse_script(script)
        self._ask("POST", "script", orjson.dumps(script))

    def ledger(self) -> list[dict[str, Any]]:
        """Every request so far, as `moa.replay.ledger.Entry`, in order of arrival."""
        return [orjson.loads(line) for line in self._ask("GET", "ledger").splitlines()]

    def summary(self, window_s: float = 60.0) -> dict[str, Any]:
        """The ledger at a glance, as `moa.replay.ledger.Summary`."""
        summary: dict[str, Any] = orjson.loads(self._ask("GET", f"summary?window_s={window_s}"))
        return summary

    def batches(self) -> list[dict[str, Any]]:
        """Every batch so far, as `moa.replay.batches.BatchEntry`, in order of submission."""
        return [orjson.loads(line) for line in self._ask("GET", "batches").splitlines()]

    def batches_summary(self) -> dict[str, Any]:
        """All batches at a glance, as `moa.replay.batches.BatchSummary`."""
        summary: dict[str, Any] = orjson.loads(self._ask("GET", "batches_summary"))
        return summary

    def reset(self) -> None:
        """Forget all requests and batches, and play no script."""
        self._ask("POST", "reset")

    def _ask(self, method: str, what: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/control/{what}", body, method=method)
        with _NO_PROXY.open(request, timeout=_TIMEOUT_S) as answer:
            return bytes(answer.read())


@contextmanager
def replay_server(
    *,
    script: Mapping[str, object] | None = None,
    recordings: Path | str | None = None,
    synthetic: bool = False,
) -> Iterator[ReplayServer]:
    """Start a server on a free port; it ends with the block, and with this process at the latest.

    Args:
        script: what goes wrong and how long things take; see `moa.replay.script`.
        recordings: a folder; by default the shipped one.
        synthetic: answer prompts that were never recorded with made-up text.

    Raises:
        ConfigError: the script or the recordings cannot be used.
    """
    command = [sys.executable, "-m", "moa.replay", "--until-eof"]
    if recordings is not None:
        command += ["--recordings", str(recordings)]
    if synthetic:
        command.append("--synthetic")
    # A session of its own: Ctrl-C in a terminal is for the job, which then drains.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            raise ConfigError(f"the replay server did not start: {' '.join(command)}")
        document = orjson.loads(ready)
        server = ReplayServer(f"http://127.0.0.1:{document['port']}", document["pid"])
        try:
            if script:
                server.set_script(script)
            yield server
        finally:
            process.terminate()
