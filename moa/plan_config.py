"""What a run is told about planning its whole backlog: `[plan]` of the nightly job's config."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import Field, field_validator, model_validator

from moa.catalog import Lane
from moa.toml_file import Section


class ShareConfig(Section):
    """How much of a backlog one model may, or must, be given."""

    min: float = Field(default=0, ge=0, le=1, description="Least share of the queries; 0 to 1")
    max: float = Field(default=1, ge=0, le=1, description="Greatest share of the queries; 0 to 1")

    @model_validator(mode="after")
    def _in_order(self) -> ShareConfig:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is more than max {self.max:g}: lower it")
        return self


class PlanConfig(Section):
    """All queries are scored before the first is sent, and assigned together."""

    finish_by: datetime | str | None = Field(
        default=None,
        description="When the last answer shall be there: a moment as 2026-11-25T06:00:00Z, or an "
        "hour as '06:00Z' or '06:00+01:00', the next one after the run's first start; by default "
        "whenever",
    )
    lanes: list[Lane] = Field(
        default=["live"],
        description="How answers may be bought: live, flex, batch; of a model, those of its "
        "`lanes` in the catalog. Both cheaper ones are bought only where they end before finish_by",
    )
    maximise: Literal["worth", "grade"] = Field(
        default="worth",
        description="worth: what the answers are worth by the policy, less their cost; grade: the "
        "expected grade, whatever dispatch.budget_usd allows",
    )
    target_grade: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Mean expected grade that is met at least cost, in place of `maximise`; > 0, "
        "≤ 1",
    )
    shares: dict[str, ShareConfig] = Field(
        default_factory=dict, description="Catalog id → least and greatest share of the queries"
    )
    approve_usd: Decimal | None = Field(
        default=None,
        strict=False,
        ge=0,
        description="A plan that is expected to cost more is not begun without --approve-up-to, "
        "and no more is spent on calls; ≥ 0; by default any is",
    )
    batch_hours: float = Field(
        default=24,
        gt=0,
        le=96,
        description="A batch is counted on to end within so many hours; > 0, ≤ 96. Vendors promise "
        "24, and most end within few: what has not ended when it gets late is bought live",
    )
    flex_minutes: float = Field(
        default=15,
        gt=0,
        le=240,
        description="A flex call may take so many minutes; > 0, ≤ 240",
    )
    replan_every_s: float = Field(
        default=300,
        gt=0,
        description="How often what is left is planned again by what was really used, in seconds; "
        "> 0",
    )

    @field_validator("finish_by")
    @classmethod
    def _with_offset(cls, moment: datetime | str | None) -> datetime | str | None:
        if isinstance(moment, datetime) and moment.tzinfo is None:
            raise ValueError("has no offset from UTC: write 2026-11-25T06:00:00Z or …+01:00")
        if isinstance(moment, str):
            _moment(moment)
        return moment

    @field_validator("lanes")
    @classmethod
    def _lanes_once(cls, lanes: list[Lane]) -> list[Lane]:
        if not lanes or len(set(lanes)) < len(lanes):
            raise ValueError("should name one lane or more, each once")
        return lanes

    @model_validator(mode="after")
    def _can_be_met(self) -> PlanConfig:
        least = sum(share.min for share in self.shares.values())
        if least > 1 + 1e-9:
            raise ValueError(
                f"the least shares sum to {least:g}, more than all queries: lower them"
            )
        return self

    def deadline(self, begun_at: datetime) -> datetime | None:
        """When the run shall have ended, in UTC; `begun_at` is when it first started."""
        if self.finish_by is None:
            return None
        found = _moment(self.finish_by) if isinstance(self.finish_by, str) else self.finish_by
        if isinstance(found, time):
            first = datetime.combine(begun_at.astimezone(found.tzinfo).date(), found)
            found = first if first > begun_at else first + timedelta(days=1)
        return found.astimezone(UTC)


def _moment(text: str) -> datetime | time:
    """What `2026-11-25T06:00:00Z`, `06:00Z` or `06:00+01:00` is.

    Raises:
        ValueError: it is none of these, or has no offset.
    """
    for kind in (time, datetime):
        with suppress(ValueError):
            found = kind.fromisoformat(text)
            if found.tzinfo is not None:
                return found
    raise ValueError(
        "should be a moment as 2026-11-25T06:00:00Z, or an hour as '06:00Z' or '06:00+01:00'"
    )
