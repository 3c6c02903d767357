"""What Gemini's errors mean."""

from __future__ import annotations

import re
from typing import Any

from moa.errors import AccountRefused, KeyRefused, ProviderError, QuotaSpent, RateLimited
from moa.providers import faults
from moa.providers.faults import Fault

_REASONS: dict[str, type[ProviderError]] = {
    "API_KEY_INVALID": KeyRefused,  # comes as 400
    "BILLING_DISABLED": AccountRefused,
    "CONSUMER_SUSPENDED": AccountRefused,
    "FAILED_PRECONDITION": AccountRefused,  # billing is off, or the region is not served
}
"""An `ErrorInfo`'s reason or the error's own status, where it says more than the HTTP status."""


def fault_of(status: int, body: bytes, retry_after_s: float | None) -> Fault:
    """What an error says; inside a stream (`status` 200) its code stands for the status."""
    error = faults.error_document(body)
    details = _objects(error.get("details"))
    if status == 200:
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    name = str(error.get("status") or "")
    reason = next((str(d["reason"]) for d in details if "reason" in d), "")
    kind = _REASONS.get(reason) or _REASONS.get(name) or faults.kind_of(status)
    for detail in details:
        delay = str(detail.get("retryDelay") or "")
        if re.fullmatch(r"\d+(\.\d+)?s", delay):
            retry_after_s = float(delay[:-1])
    if issubclass(kind, RateLimited) and _is_daily(details):
        kind = QuotaSpent
    return Fault(
        kind,
        status,
        str(error.get("message") or ""),
        reason or name,
        retry_after_s,
        no_capacity=name == "UNAVAILABLE",
    )


def _is_daily(details: list[dict[str, Any]]) -> bool:
    """Whether one of the quotas that were broken is a day's: by its id, or by an `ErrorInfo`."""
    violations = [v for detail in details for v in _objects(detail.get("violations"))]
    quotas = [violation.get("quotaId") for violation in violations]
    quotas += [_object(detail.get("metadata")).get("quota_limit") for detail in details]
    return any("PerDay" in str(quota) for quota in quotas)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; whatever else stands in an error is no detail of it."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
