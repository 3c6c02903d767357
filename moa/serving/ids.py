"""Ids of completions: what was asked of whom, signed, so that feedback needs no store."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass

SEVERAL = ","
"""Between models, where several have answered one request."""
_QUERY_BYTES = 12
_MAC_BYTES = 12


@dataclass(frozen=True, slots=True)
class CompletionId:
    """What an id holds."""

    query_id: str
    model: str
    """Catalog id of the model that answered, or began to; of several answers there may be more."""


class Ids:
    """Makes and reads ids.

    Args:
        secret: equal in all processes of an endpoint.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @staticmethod
    def new_query() -> str:
        """A query's id that nobody has had."""
        return secrets.token_hex(_QUERY_BYTES)

    def sign(self, completion: CompletionId, tenant: str) -> str:
        """The text of an id, without prefix."""
        payload = bytes.fromhex(completion.query_id) + completion.model.encode()
        return _text(self._mac(payload, tenant) + payload)

    def read(self, text: str, tenant: str) -> CompletionId | None:
        """What an id says; `None` for one that was not made here for this tenant."""
        coded = text.removeprefix("chatcmpl-").removeprefix("resp_")
        try:
            raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
        except (binascii.Error, ValueError):
            return None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if len(payload) <= _QUERY_BYTES or not hmac.compare_digest(mac, self._mac(payload, tenant)):
            return None
        model = payload[_QUERY_BYTES:].decode("utf-8", "replace")
        return CompletionId(payload[:_QUERY_BYTES].hex(), model)

    def _mac(self, payload: bytes, tenant: str) -> bytes:
        signed = tenant.encode() + b"\0" + payload
        return hmac.digest(self._secret, signed, hashlib.sha256)[:_MAC_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
