"""What a client is told when the vendors did not answer."""

from __future__ import annotations

from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    ProviderError,
    QuotaSpent,
    RateLimited,
    Refusal,
)
from moa.serving.calls import WAITED

COME_BACK_S = 5.0
"""Where nobody says when."""


def refusal_of(error: ProviderError) -> Refusal:
    """The status and the words for a failed call. The vendors' own words are passed on only where
    they say what is wrong with the request; adapters have taken out what they quote of it.
    """
    if isinstance(error, ContextExceeded):
        return Refusal(error.detail, code="context_length_exceeded", param="messages")
    if isinstance(error, InvalidRequest):
        return Refusal(error.detail, code=error.code or "invalid_request")
    if isinstance(error, RateLimited):
        return _later(error)
    if isinstance(error, AccountRefused):
        return Refusal(
            "the vendor refuses this endpoint's account: whoever runs it has to look after that",
            status=503,
            kind="api_error",
            code="account_refused",
            retry_after_s=60.0,
        )
    late = error.code == "timeout"
    return Refusal(
        "no model that can take this request has answered" + (" in time" if late else ""),
        status=504 if late else 502,
        kind="api_error",
        code="vendor_timeout" if late else "vendor_failed",
        retry_after_s=1.0,
    )


def _later(error: RateLimited) -> Refusal:
    wait_s = error.retry_after_s or COME_BACK_S
    if error.code == WAITED:
        words = f"the endpoint is busy: {error.detail}"
    elif isinstance(error, QuotaSpent):
        words = "a quota of this endpoint's account at the vendor is used up"
    else:
        words = "the vendor asks this endpoint for a pause"
    return Refusal(
        words,
        status=429,
        kind="rate_limit_error",
        code="busy" if error.code == WAITED else "rate_limit_exceeded",
        retry_after_s=wait_s,
    )
