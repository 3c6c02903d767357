"""All that `jobs/grade_outcomes.py` is told."""

from __future__ import annotations

from pydantic import Field, model_validator

from moa.toml_file import Section

Option = str | int | float | bool | list[str]


class GraderConfig(Section):
    """What is graded how."""

    grader: str = Field(
        description="Name of a grader, see moa/grading/README.md, or MODULE:FUNCTION of your own: "
        "(completion, reference) → a number in [0, 1], or None"
    )
    tags: list[str] = Field(
        default=[], description="Queries with one of these tags; none: all that are left"
    )
    options: dict[str, Option] = Field(default={}, description="Of the grader")


class GradeOutcomesConfig(Section):
    """A run and how its completions are graded."""

    run: str = Field(description="The run's folder, finished or not: a path, s3://… or gs://…")
    table: str = Field(description="Folder of the outcome table: a path, s3://… or gs://…")
    graders: list[GraderConfig] = Field(
        default=[], description="The first one whose tags a query has grades its completion"
    )
    judgements: list[str] = Field(
        default=[],
        description="Pairs, ratings and thumbs, Parquet or JSONL, see moa/grading/README.md: they "
        "grade what no grader does; a path, s3://… or gs://…",
    )
    enough_judgements: int = Field(
        default=20,
        ge=1,
        description="Pairs that a source needs before its models are compared; ≥ 1",
    )
    held_out_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Of the groups of near duplicates, kept from training for the gate; in [0, 1)",
    )
    share: float = Field(
        default=1.0, gt=0, le=1, description="Of the run's queries that are graded, by their hash"
    )
    refusal_grade: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of an answer that the model's vendor has filtered; without: it has none",
    )
    recorded: str | None = Field(
        default=None,
        description="GRADED_OUTCOMES to compare with, by the queries' own ids: a Parquet file",
    )
    workers: int | None = Field(
        default=None, ge=1, description="Processes that grade; by default one for each CPU"
    )
    usd_per_hour: float = Field(
        default=0.0, ge=0, description="What one CPU costs; for the bill of the grading"
    )

    @model_validator(mode="after")
    def _somebody_grades(self) -> GradeOutcomesConfig:
        if not self.graders and not self.judgements:
            raise ValueError("nobody grades: give [[graders]], or judgements")
        return self
