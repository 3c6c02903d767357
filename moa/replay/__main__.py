"""`python -m moa.replay`: recorded vendors on a port of localhost.

Prints one line of JSON with its port and process id once it listens, and serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import orjson
import uvloop

from moa.errors import ConfigError
from moa.replay.ledger import Ledger
from moa.replay.recordings import SHIPPED, Recordings
from moa.replay.script import Script, parse_script_json
from moa.replay.server import ReplayHandler, serve


def main() -> None:
    """Read the recordings, listen, serve."""
    parser = argparse.ArgumentParser(prog="python -m moa.replay", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--recordings", type=Path, default=SHIPPED, help="folder of recordings")
    parser.add_argument("--synthetic", action="store_true", help="invent what was not recorded")
    parser.add_argument("--script", type=Path, help="JSON: faults, latency, limits")
    parser.add_argument("--ledger", type=Path, help="gets a line of JSON per request")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does")
    arguments = parser.parse_args()
    try:
        script = Script()
        if arguments.script is not None:
            script = parse_script_json(_read(arguments.script))
        recordings = Recordings.load(arguments.recordings)
    except ConfigError as error:
        sys.exit(f"moa.replay: {error}")
    uvloop.run(_serve(arguments, recordings, script))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--script {path}: {error.strerror}") from None


async def _serve(arguments: argparse.Namespace, recordings: Recordings, script: Script) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if arguments.until_eof:
        await loop.connect_read_pipe(lambda: _Stdin(over), sys.stdin)
    file = arguments.ledger.open("ab", buffering=0) if arguments.ledger else None
    ledger = Ledger(recordings.query_id, file=file)
    handler = ReplayHandler(recordings, script, synthetic=arguments.synthetic, ledger=ledger)
    server, port = await serve(handler, ledger, arguments.port)
    ready = orjson.dumps({"port": port, "pid": os.getpid()}).decode()
    with contextlib.suppress(BrokenPipeError):  # whoever asked for it is gone: so is stdin
        sys.stdout.write(ready + "\n")
        sys.stdout.flush()
    await over.wait()
    handler.settle()
    server.close()


class _Stdin(asyncio.Protocol):
    """Ends the server when whoever started it is gone, however it went."""

    def __init__(self, over: asyncio.Event) -> None:
        self._over = over

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()


if __name__ == "__main__":
    main()
