"""How calls are made: `[dispatch]` of the nightly job's config."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from moa.toml_file import Section


class DispatchConfig(Section):
    """How calls are made."""

    replicas: int = Field(
        default=1, ge=1, description="Processes that make calls; they share limits and budget; ≥ 1"
    )
    num_cpus: float = Field(default=1, ge=0, description="CPUs that one replica reserves; ≥ 0")
    max_in_flight: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Calls under way per provider and replica; 1 to 10,000",
    )
    total_timeout_s: float = Field(
        default=600,
        gt=0,
        le=3600,
        description="Of one call with its answer, in seconds; > 0, ≤ 3600",
    )
    max_attempts: int = Field(
        default=6,
        ge=1,
        le=100,
        description="Calls for one query on one model that fail, without those that the vendor "
        "wanted later; 1 to 100",
    )
    give_up_after_s: float = Field(
        default=1800,
        gt=0,
        description="From a query's first call to its last try on the same model, in seconds; each "
        "model that is left then is asked once; > 0",
    )
    fallback: bool = Field(
        default=True, description="Ask the next best model when the chosen one does not answer"
    )
    waiting_usd_per_hour: Decimal = Field(
        default=Decimal("0.05"),
        strict=False,
        ge=0,
        description="What it is worth to have one answer an hour earlier, in USD: while a model is "
        "out its queries wait until that has cost as much as their next best model would, by "
        "expected grade and price, and then go there; ≥ 0",
    )
    unknown_calls: Literal["ask_again", "hold"] = Field(
        default="ask_again",
        description="What becomes of a query whose call was out when its process died, and may "
        "have been paid: ask_again, or hold it as a dead letter for a redrive",
    )
    max_usd_per_query: Decimal | None = Field(
        default=None,
        strict=False,
        gt=0,
        description="No call is begun whose expected cost would bring one query over this, calls "
        "without an answer that may be billed included, in USD; its other models are tried, then "
        "it becomes a dead letter; > 0; by default there is no limit",
    )
    budget_usd: Decimal | None = Field(
        default=None,
        strict=False,
        gt=0,
        description="No call is begun whose expected cost would go over this, in USD; a query's "
        "other models are tried, then it is a dead letter; a plan pays the router's machines from "
        "it, too; > 0; by default there is no limit",
    )
