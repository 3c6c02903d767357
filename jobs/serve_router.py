"""The online endpoint: OpenAI's API in front of the router."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import typer

from moa.cluster.address import LOCAL, ray_address
from moa.command_line import Config, Overrides, explaining, run_command
from moa.log import configure
from moa.serving.config import EndpointConfig, describe, load_endpoint_config
from moa.serving.haproxy import ray_environ
from moa.serving.process import serve_alone
from moa.serving.setup import check_endpoint

Check = Annotated[bool, typer.Option("--check", help="Check everything, start nothing")]
Alone = Annotated[
    bool, typer.Option("--one-process", help="Without Ray: one process, its limits its own")
]
Explain = Annotated[bool, explaining(describe)]


def main(
    config: Config,
    overrides: Overrides = [],  # noqa: B006
    check: Check = False,
    alone: Alone = False,
    explain: Explain = False,
) -> None:
    """Answer OpenAI's API by the model that is worth its price.

    On a cluster (RAY_ADDRESS) it deploys and returns; again, it is a rolling update. Without one it
    starts Ray here, and ends with this process.
    """
    endpoint_config = load_endpoint_config(config, overrides)
    configure(endpoint_config.log.style)
    setup = check_endpoint(endpoint_config, environ=os.environ)
    for warning in setup.prices.warnings:
        print(f"warning: {warning}")
    if check:
        print(f"all is there: {len(setup.models)} models, router {setup.router_version}")
    elif alone:
        asyncio.run(
            serve_alone(setup, os.environ, on_start=lambda url: print(f"{url}/v1", flush=True))
        )
    else:
        _on_ray(setup.config)


def _on_ray(config: EndpointConfig) -> None:
    """Deploy; without a cluster, and until told to end, on a Ray of one's own."""
    if (address := ray_address()) != LOCAL:
        _deploy(config, address)
        return
    with TemporaryDirectory(prefix="moa-") as folder:
        if config.serve.haproxy:  # read when Serve is imported
            os.environ.update(ray_environ(Path(folder), config.serve.drain_s))
        _deploy(config, LOCAL)
        _until_told()
        _end(config)


def _deploy(config: EndpointConfig, address: str) -> None:
    from moa.cluster.joining import join_ray
    from moa.serving.deployment import start

    join_ray(address, log_to_driver=address != LOCAL)
    print(f"{start(config)}/v1", flush=True)


def _until_told() -> None:
    """Wait for Ctrl-C or SIGTERM; told again, this process ends at once."""
    told = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, lambda *_: told.set())  # after Ray, which has handlers, too
    told.wait()
    for number in numbers:
        signal.signal(number, signal.default_int_handler)


def _end(config: EndpointConfig) -> None:
    import ray

    from moa.serving.deployment import stop

    stop(config)
    ray.shutdown()


if __name__ == "__main__":
    run_command(main)
