"""What a job is told: one TOML file, read and validated once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the config file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryLogConfig(Section):
    """Where the backlog is, and how it names things."""

    path: str | list[str] = Field(
        description="File, folder or glob, or a list of them: local, s3://… or gs://…"
    )
    format: Literal["parquet", "openai_batch"] | None = Field(
        default=None, description="Of the files; by default known by their extension"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Our column name → the log's name, where they differ"
    )
    dedupe: bool = Field(
        default=False, description="Answer and pay equal requests under different ids once"
    )
