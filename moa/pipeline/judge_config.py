"""All that `jobs/judge_outcomes.py` is told."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from moa.config import PricesConfig, ReplayConfig
from moa.dispatch_config import DispatchConfig
from moa.toml_file import Section


class TrustConfig(Section):
    """How far the judge must agree with the labels before its judgements may be used."""

    min_labels: int = Field(
        default=100, ge=10, description="Labelled answers (or pairs) that it must have judged; ≥ 10"
    )
    min_accuracy: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Of the lower end of the 95 % interval of the share on which both say the "
        "same: right (a grade of 0.5 or more) or not, of pairs the better one or a tie; 0 to 1",
    )
    min_kappa: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Of the lower end of that of Cohen's kappa, agreement beyond chance; -1 to 1",
    )


class JudgeOutcomesConfig(Section):
    """A finished run, and the model that judges its answers."""

    run: str = Field(description="The run's folder, finished: a path, s3://… or gs://…")
    against: str | None = Field(
        default=None,
        description="Folder of another finished run of the same queries: its answers and the run's "
        "are compared, each pair in both orders; by default each answer is graded by itself",
    )
    tags: list[str] = Field(
        default=[], description="Queries with one of these tags are judged; none: all"
    )
    labels: str = Field(
        description="Judgements by people, Parquet or JSONL, see moa/grading/README.md: what the "
        "judge is measured by, before anything else is bought"
    )
    output: str = Field(
        description="Parquet file of the judgements, for `judgements` of jobs/grade_outcomes.py; "
        "written only if the judge is trusted: a path, s3://… or gs://…"
    )
    judge: str = Field(description="Catalog id; no router has to know it")
    rubric: str = Field(min_length=1, description="What a good answer is, in words for the judge")
    show_reference: bool = Field(
        default=True, description="Show the judge the query's reference, where there is one"
    )
    trust: TrustConfig = TrustConfig()
    catalog: str = Field(description="TOML file of the accounts and models that there are")
    folder: str = Field(
        min_length=1, description="Folder of the judge's own runs: a path, s3://… or gs://…"
    )
    usd_per_hour: Decimal = Field(
        default=Decimal(0), strict=False, ge=0, description="What the machine costs, for the bill"
    )
    prices: PricesConfig = PricesConfig()
    dispatch: DispatchConfig = DispatchConfig()
    replay: ReplayConfig | None = Field(
        default=None, description="When given, nothing is called but a server on localhost"
    )
