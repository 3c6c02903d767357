"""The online endpoint: OpenAI's API in front of the router."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Annotated

import typer

from moa.command_line import Config, Overrides, explaining, run_command
from moa.log import configure
from moa.serving.config import EndpointConfig, describe, load_endpoint_config
from moa.serving.process import serve_alone
from moa.serving.setup import check_endpoint, ray_environ

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
    where = f"http://{endpoint_config.http.host}:{endpoint_config.http.port}/v1"
    if check:
        print(f"all is there: {len(setup.models)} models, router {setup.router_version}")
    elif alone:
        asyncio.run(
            serve_alone(setup, os.environ, on_start=lambda url: print(f"{url}/v1", flush=True))
        )
    else:
        _on_ray(endpoint_config, where)


def _on_ray(config: EndpointConfig, where: str) -> None:
    """Deploy; without a cluster, and until told to end, on a Ray of one's own."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        for name, value in ray_environ(config).items():
            os.environ.setdefault(name, value)  # read when Serve is imported

    import ray
    from ray import serve

    from moa.serving.deployment import start

    ray.init(
        address=address or "local", logging_level=logging.WARNING, log_to_driver=address is None
    )
    start(config)
    print(where, flush=True)
    if address is not None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.pause()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    run_command(main)
