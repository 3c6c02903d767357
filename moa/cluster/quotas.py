"""The owners of the accounts' quotas: a detached actor each, for all jobs and endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from moa.dispatch.quota import Ask, Grant, Owner, QuotaOwner

NAMESPACE = "moa"
PROTOCOL = 1
"""Of asks and grants: an owner outlives the jobs that use it, and perhaps their version."""


class RemoteOwner:
    """An owner in an actor, from the side of a holder."""

    def __init__(self, actor: ActorHandle[QuotaOwner]) -> None:
        self._actor = actor

    async def lease(self, ask: Ask) -> Grant:
        """See `Owner.lease`."""
        grant: Grant = await self._actor.lease.remote(ask)
        return grant

    def prove(self) -> None:
        """See `Owner.prove`."""
        self._actor.prove.remote()

    def refuse(self, detail: str) -> None:
        """See `Owner.refuse`."""
        self._actor.refuse.remote(detail)

    def pause(self, model: str, seconds: float) -> None:
        """See `Owner.pause`."""
        self._actor.pause.remote(model, seconds)


def owners_of(identities: Mapping[str, str]) -> dict[str, Owner]:
    """The owner of each account's quota, started where there is none.

    Args:
        identities: by account; equal ones are one account at the vendor, whatever its name here.
    """
    return {name: RemoteOwner(_actor(identity)) for name, identity in identities.items()}


def _actor(identity: str) -> ActorHandle[QuotaOwner]:
    options: dict[str, Any] = {
        "name": f"quota-{PROTOCOL}-{identity}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        # Started again it knows nothing, and learns it from the asks that come; it begins slowly.
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 10_000,
    }
    make: Any = ray.remote(**options)(QuotaOwner)
    owner: ActorHandle[QuotaOwner] = make.remote()
    return owner
