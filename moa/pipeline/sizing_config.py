"""What `jobs/size_run.py` is told."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field, model_validator

from moa.catalog import Lane, LimitsEntry
from moa.toml_file import Section

SHARES_OFF = 1e-6
"""What the shares of a mix may sum to beside 1."""
MOST_QUERIES = 10**12
MOST_TOKENS = 1e9
MOST_HOURS = 1e6
"""More of any of these is a slip, and sums would overflow."""


class ShareEntry(Section):
    """What one model is given in one lane."""

    model: str = Field(description="Catalog id, one of the job's pool")
    lane: Lane = Field(default="live", description="live, flex or batch")
    share: float = Field(gt=0, le=1, description="Of all queries; > 0, ≤ 1")
    input_tokens: float | None = Field(
        default=None,
        ge=0,
        le=MOST_TOKENS,
        description="Mean of a query; by default as for all; 0 to 1e9",
    )
    output_tokens: float | None = Field(
        default=None,
        ge=0,
        le=MOST_TOKENS,
        description="Mean of an answer, reasoning too; likewise",
    )


class GpuConfig(Section):
    """How fast one replica of a router on a language model reads: measured, or by arithmetic."""

    tokens_per_s: float | None = Field(
        default=None,
        ge=0.001,
        description="Tokens that one replica reads in a second, as you have measured it; ≥ 0.001; "
        "by default utilisation * peak_flops / (2 * parameters)",
    )
    parameters: float = Field(ge=1, le=1e15, description="Of the model; 1 to 1e15")
    peak_flops: float = Field(
        ge=1e6,
        le=1e21,
        description="Of the GPU by its data sheet, dense, in the weights' format, a second; "
        "1e6 to 1e21",
    )
    utilisation: float = Field(
        ge=0.001,
        le=1,
        description="Share of the peak that is reached: an assumption; 0.001 to 1",
    )
    source: str = Field(min_length=1, description="Where these figures are from, and of which day")

    @property
    def reads_per_s(self) -> float:
        """Tokens: a forward pass takes 2 operations a parameter and token."""
        return self.tokens_per_s or self.utilisation * self.peak_flops / (2 * self.parameters)


class SpeedConfig(Section):
    """What one core does: measured on 2 shared x86_64 cores on 2026-11-25 and 26, all by
    `tests/bench`; see deploy/SIZING.md.
    """

    start_s: float = Field(
        default=10,
        ge=0,
        le=1e6,
        description="Until the first row is read: Ray, the router's weights; 0 to 1e6",
    )
    scored_per_s: float = Field(
        default=17_900,
        ge=0.001,
        description="Queries that an embedded router scores on a core; ≥ 0.001",
    )
    read_per_s: float = Field(
        default=16_600,
        ge=0.001,
        description="Queries that are scanned, read and decided on by a core; ≥ 0.001",
    )
    planned_per_s: float = Field(
        default=680_000, ge=0.001, description="Queries that the driver plans; ≥ 0.001"
    )
    calls_per_s: float = Field(
        default=5_500, ge=0.001, description="Calls that one dispatch replica has CPU for; ≥ 0.001"
    )
    reported_per_s: float = Field(
        default=5_000, ge=0.001, description="Outcomes that the driver reports on; ≥ 0.001"
    )


class SizeRunConfig(Section):
    """All that `jobs/size_run.py` is told."""

    job: str = Field(
        description="Config of the job that is sized, as jobs/route_batch.py takes it: pool, "
        "catalog, prices, plan, budget, machines"
    )
    job_overrides: list[str] = Field(
        default_factory=list, description="section.key=value of the job, as for its --set"
    )
    queries: list[int] = Field(
        default_factory=list,
        description="How many queries; several are shown beside each other; each 1 to 1e12; by "
        "default as many as `run` or the query log has",
    )
    within_hours: float | None = Field(
        default=None,
        gt=0,
        le=MOST_HOURS,
        description="From the start to the report; > 0, ≤ 1e6; by default the job's plan.finish_by",
    )
    machines: Literal["enough", "configured"] = Field(
        default="enough",
        description="enough: as few replicas as the deadline allows, or as the vendors' limits "
        "need; configured: those of the job",
    )
    mix: list[ShareEntry] = Field(
        default_factory=list,
        description="Who is given what. Either this, run or sample_rows",
    )
    input_tokens: float = Field(
        default=500, ge=0, le=MOST_TOKENS, description="Mean of a query, for a mix; 0 to 1e9"
    )
    output_tokens: float = Field(
        default=350,
        ge=0,
        le=MOST_TOKENS,
        description="Mean of an answer, for a mix, reasoning too; 0 to 1e9",
    )
    run: str | None = Field(
        default=None,
        description="Folder of a run with that mix: finished, decided or planned by --plan-only",
    )
    sample_rows: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Queries of the job's own log that are scored by its router, and planned or "
        "decided on as the job would; 1 to 1,000,000",
    )
    limits: dict[str, LimitsEntry] = Field(
        default_factory=dict, description="Catalog id → limits in place of the catalog's"
    )
    gpu: GpuConfig | None = Field(
        default=None, description="When given, the router is a language model"
    )
    usd_per_cpu_hour: Decimal = Field(
        default=Decimal("0.05"),
        strict=False,
        ge=0,
        description="Of a core that is no router's, in USD; ≥ 0",
    )
    task_cpus: float = Field(
        default=1, gt=0, description="Cores for reading and deciding, where `configured`; > 0"
    )
    partition_rows: int = Field(
        default=1_048_576, ge=1, description="Rows of a row group of the query log; ≥ 1"
    )
    speeds: SpeedConfig = SpeedConfig()

    @model_validator(mode="after")
    def _one_mix(self) -> SizeRunConfig:
        given = [name for name in ("mix", "run", "sample_rows") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'none'} given of mix, run and sample_rows, which say "
                "who is given what: give exactly one"
            )
        if self.mix and not self.queries:
            raise ValueError("queries: a mix has no number of its own: give one, as [10_000_000]")
        wrong = [number for number in self.queries if not 1 <= number <= MOST_QUERIES]
        if wrong:
            raise ValueError(f"queries has {wrong[0]:,}: give numbers from 1 to {MOST_QUERIES:,}")
        return self

    @model_validator(mode="after")
    def _whole_mix(self) -> SizeRunConfig:
        whole = sum(one.share for one in self.mix)
        if self.mix and abs(whole - 1) > SHARES_OFF:
            raise ValueError(f"the shares of mix sum to {whole:g}: make it 1")
        options = [(one.model, one.lane) for one in self.mix]
        twice = sorted({one for one in options if options.count(one) > 1})
        if twice:
            raise ValueError(f"mix has {' in '.join(twice[0])} twice: add the shares up")
        return self
