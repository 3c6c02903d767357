"""Actors that all processes of a cluster share, each found by its name."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle

NAMESPACE = "moa"


def shared_actor(kind: type, name: str, *args: object, at_once: int) -> ActorHandle[Any]:
    """The actor of that name, started where there is none; it outlives whoever started it.

    Args:
        kind: its class.
        name: with all by which one may not be taken for another.
        args: of its class.
        at_once: calls that it takes.
    """
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        # Started again it knows nothing; what it has to know it learns from those who ask.
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": at_once,
    }
    make: Any = ray.remote(**options)(kind)
    actor: ActorHandle[Any] = make.remote(*args)
    return actor
