"""What the gate has said of a router, as `verdict.json`: what a promotion rests on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field, ValidationError

from moa.errors import ConfigError
from moa.toml_file import Section

VERDICT = "verdict.json"


class CheckVerdict(Section):
    """One thing that was asked."""

    what: str
    wanted: str
    measured: str
    passed: bool


class PoolVerdict(Section):
    """One pool; on one's own traffic, its name says so."""

    passed: bool
    verdict: str = Field(description="In a sentence")
    checks: list[CheckVerdict]


class Verdict(Section):
    """See the module."""

    passed: bool
    router: str = Field(description="Version of the candidate")
    current: str | None = Field(description="Version of the router in use; null without one")
    data: str = Field(description="Which queries, in words")
    data_sha256: str = Field(description="Of their ids and grades")
    made_at: AwareDatetime
    taught: int = Field(description="Of the queries, those that the candidate was fitted on")
    pools: dict[str, PoolVerdict]

    def missed(self) -> Iterator[str]:
        """What was asked and not reached, a phrase each."""
        if self.taught:
            yield f"it was fitted on {self.taught:,} of the queries that judge it"
        for name, pool in self.pools.items():
            for check in pool.checks:
                if not check.passed:
                    yield f"{name}: {check.what} {check.measured}, wanted {check.wanted}"

    def json_bytes(self) -> bytes:
        """As the file holds it."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def read_verdict(text: bytes, *, where: str) -> Verdict:
    """A verdict from its bytes.

    Raises:
        ConfigError: it is none.
    """
    try:
        return Verdict.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"verdict: {where} is none of this version ({problems}): evaluate the router again "
            "(jobs/evaluate_router.py)"
        ) from None


def objections(
    verdict: Verdict, *, candidate: str, current: str | None, now: datetime, max_age: timedelta
) -> list[str]:
    """Why a verdict does not permit that a router goes live; a sentence each, none if it does.

    Args:
        verdict: of the gate.
        candidate: version of what shall go live.
        current: version of what is live; `None` without one.
        now: aware.
        max_age: of a verdict.
    """
    found = []
    again = "evaluate it (jobs/evaluate_router.py)"
    if verdict.router != candidate:
        found.append(f"the verdict is of router {verdict.router}, not of {candidate}: {again}")
    if verdict.current != current:
        than, now_is = verdict.current or "no router", current or "no router"
        found.append(f"it was compared with {than}, and {now_is} is in use by now: {again} again")
    if now - verdict.made_at > max_age:
        days = (now - verdict.made_at) / timedelta(days=1)
        found.append(
            f"the verdict is {days:.1f} days old, at most {max_age / timedelta(days=1):g} are "
            f"allowed (max_age_days): {again} again"
        )
    if not any(pool.checks for pool in verdict.pools.values()):
        found.append("the gate was asked nothing: give it thresholds (pools.NAME.traffic)")
    missed = list(verdict.missed())
    if missed or not verdict.passed:
        found += missed or ["the gate was not passed"]
    return found
