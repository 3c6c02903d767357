"""What all ingress replicas of a cluster share: an actor each, found by its name."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import structlog
import xxhash
from ray.actor import ActorHandle
from ray.exceptions import RayError

from moa.cluster.shared import shared_actor
from moa.config import ReplayConfig
from moa.errors import Refusal
from moa.replay.process import replay_server
from moa.serving.config import EndpointConfig
from moa.serving.conversations import Begun, LatestConversations
from moa.serving.spent import KeptLimits
from moa.serving.tenant_limits import Need, Returned, Verdict
from moa.serving.tenants import Tenant

PROTOCOL = 3
"""Of these actors: they outlive the replicas, and perhaps their version."""
OWNER_S = 10.0
"""That the owner of the tenants' limits may take."""

log = structlog.get_logger()


class SharedState(KeptLimits):
    """The owner of the tenants' limits, and of the secret that signs completion ids."""

    def __init__(self, folder: str | None) -> None:
        super().__init__(folder)
        self._secret = secrets.token_bytes(32)

    async def secret(self) -> bytes:
        """Drawn once."""
        return self._secret


class RemoteLimits:
    """See `moa.serving.tenant_limits.LimitOwner`."""

    def __init__(self, actor: ActorHandle[SharedState]) -> None:
        self._actor = actor

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        """See `LimitOwner.lease`."""
        try:
            async with asyncio.timeout(OWNER_S):
                verdict: Verdict = await self._actor.lease.remote(tenant, needed, returned)
        except (RayError, TimeoutError) as error:
            log.error("limits.no_answer", error=type(error).__name__)
            raise Refusal(
                "the owner of this key's limits does not answer",
                status=503,
                kind="api_error",
                code="limits_out",
                retry_after_s=5.0,
            ) from None
        return verdict


class RemoteConversations:
    """See `moa.serving.conversations.ConversationOwner`."""

    def __init__(self, actor: ActorHandle[LatestConversations]) -> None:
        self._actor = actor

    async def find(self, keys: Sequence[int]) -> dict[int, Begun]:
        """See `ConversationOwner.find`."""
        found: dict[int, Begun] = await self._actor.find.remote(keys)
        return found

    async def note(self, begun: Mapping[int, Begun]) -> None:
        """See `ConversationOwner.note`."""
        await self._actor.note.remote(begun)


class ReplayedVendors:
    """The replay server in an actor: of a demonstration, for all its replicas."""

    def __init__(self, replay: ReplayConfig) -> None:
        self._stack = ExitStack()
        self._server = self._stack.enter_context(
            replay_server(
                script=replay.script, recordings=replay.recordings, synthetic=replay.synthetic
            )
        )

    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    def base_url(self, wire: Any) -> str:  # noqa: ANN401 - a Wire
        """See `ReplayServer.base_url`."""
        return self._server.base_url(wire)

    def ledger(self) -> list[dict[str, Any]]:
        """See `ReplayServer.ledger`."""
        return self._server.ledger()


def shared(kind: type, name: str, *args: object) -> ActorHandle[Any]:
    """An actor that all replicas find by its name, started where there is none.

    Args:
        kind: its class.
        name: of it.
        args: of its class; with others it is another actor, or an update that changes them would be
            without effect. The one before ends with the cluster.
    """
    digest = xxhash.xxh3_64_hexdigest(repr(args).encode())
    return shared_actor(kind, f"{name}-{PROTOCOL}-{digest}", *args, at_once=1000)


def shared_state(config: EndpointConfig) -> ActorHandle[SharedState]:
    """See `SharedState`."""
    return shared(SharedState, "endpoint", config.access.spent_folder)


def shared_conversations(config: EndpointConfig) -> RemoteConversations | None:
    """What all replicas know of conversations; `None` where one replica is all, or none sticks."""
    if config.stickiness.mode == "off" or config.serve.max_replicas == 1:
        return None
    most = config.stickiness.conversations
    return RemoteConversations(shared(LatestConversations, "conversations", most))


def replayed_vendors(replay: ReplayConfig) -> ActorHandle[ReplayedVendors]:
    """See `ReplayedVendors`."""
    return shared(ReplayedVendors, "replayed-vendors", replay)
