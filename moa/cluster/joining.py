"""A Ray of one's own, or the cluster that `RAY_ADDRESS` names."""

from __future__ import annotations

import logging

import ray
import structlog

from moa.cluster.address import LOCAL
from moa.errors import ConfigError

TRIES = 3
"""Of a start that a busy machine makes too slow: Ray 2.60 waits 30 s and no longer."""
_SLOW = "timed out during startup"

log = structlog.get_logger()


def join_ray(address: str, **options: object) -> None:
    """Connect this process to Ray. One of its own has no dashboard: who reaches one may run code.

    Args:
        address: of a cluster, or `local` for a Ray that ends with this process.
        options: of `ray.init`.

    Raises:
        ConfigError: no cluster answers there, or Ray does not start here.
    """
    if address == LOCAL:
        options["include_dashboard"] = False
    for left in reversed(range(TRIES)):
        try:
            ray.init(address=address, logging_level=logging.WARNING, **options)  # type: ignore[arg-type]
            return
        except ConnectionError as error:
            raise ConfigError(
                f"RAY_ADDRESS names {address!r}, where no cluster answers ({error}): correct it, "
                "or unset it for a Ray of the job's own"
            ) from None
        except Exception as error:  # Ray has no class for it
            if _SLOW not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise ConfigError(
                    f"Ray did not start in {TRIES} times 30 s: this machine has too much to do, "
                    "or too little memory; start again when it has less"
                ) from None
            log.warning("ray.slow", tries_left=left)


def cluster_cpus() -> int:
    """CPUs of the cluster as it is now."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0))


def cluster_gpus() -> float:
    """GPUs of the cluster as it is now."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0.0)


def cluster_nodes() -> int:
    """Machines of the cluster as it is now."""
    nodes: list[dict[str, bool]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] for node in nodes)
