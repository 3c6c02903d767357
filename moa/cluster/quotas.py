"""The owners of the accounts' quotas: a detached actor each, for all jobs and endpoints."""

from __future__ import annotations

from collections.abc import Mapping

from ray.actor import ActorHandle

from moa.cluster.shared import shared_actor
from moa.dispatch.quota import Ask, Grant, Owner, QuotaOwner

PROTOCOL = 2
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

    def hand_over(self, process: str) -> None:
        """See `Owner.hand_over`."""
        self._actor.hand_over.remote(process)

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
    return shared_actor(QuotaOwner, f"quota-{PROTOCOL}-{identity}", at_once=10_000)
