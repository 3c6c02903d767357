"""What the evaluation is told: one TOML file."""

from __future__ import annotations

from datetime import date

from pydantic import Field, field_validator, model_validator

from moa.config import EngineConfig, ModelSource, PolicyConfig
from moa.evaluation.gate import GateConfig
from moa.evaluation.off_policy import MOST_WEIGHT
from moa.evaluation.traffic_gate import TrafficGate
from moa.toml_file import Section, day, each_once, local


class PoolConfig(Section):
    """Models that are chosen among, on the queries that all of them have answered."""

    models: list[str] = Field(min_length=2, description="Catalog ids, each once; at least 2")
    best_constant: str | None = Field(
        default=None,
        description="The single model to beat, one of models; by default the one that did best on "
        "the router's training data",
    )
    gate: GateConfig = GateConfig()
    traffic: TrafficGate | None = Field(
        default=None,
        description="What is asked on logged traffic, where mostly one model has answered a query; "
        "by default this is not looked at",
    )

    _each_once = field_validator("models")(each_once)

    @model_validator(mode="after")
    def _make_sense(self) -> PoolConfig:
        name = self.best_constant
        if name is not None and name not in self.models:
            raise ValueError(f"best_constant {name} is none of models: name one of them")
        return self


class EvaluateRouterConfig(Section):
    """All that `jobs/evaluate_router.py` is told."""

    artifact: str = Field(description="Folder of the router: a path or s3://…")
    current: str | None = Field(
        default=None,
        description="The router in use: folder of an artifact, or of promotions; by default there "
        "is none to compare with",
    )
    recordings: str = Field(
        description="Folder with queries.parquet and graded_outcomes.parquet, as for training: "
        "recordings, or an outcome table"
    )
    split: str = Field(
        default="demo",
        description="Of the queries; one that the router was not fitted on: held_out of an outcome "
        "table",
    )
    catalog: str = Field(description="TOML file of the models and their prices")
    prices_as_of: date | None = Field(
        default=None, description="Day whose list prices count, as YYYY-MM-DD; by default today"
    )
    output: str = Field(description="Folder that evaluation.json, .html and verdict.json go to")
    title: str = Field(default="Is routing worth it?", description="Of the page")
    policy: PolicyConfig
    pools: dict[str, PoolConfig] = Field(min_length=1, description="By a name of your own")
    regret_at: list[float] = Field(
        default=[0.001, 0.01, 0.05, 0.2],
        description="Willingness to pay at which the loss against an oracle is told, in USD per "
        "unit of grade; each > 0",
    )
    sweep_points: int = Field(
        default=150, ge=10, le=2000, description="Points of the frontier; 10 to 2,000"
    )
    replicates: int = Field(
        default=1000, ge=100, le=100_000, description="Sets of the bootstrap; 100 to 100,000"
    )
    seed: int = Field(default=0, ge=0, description="Of the bootstrap; ≥ 0")
    train_config: str | None = Field(
        default=None,
        description="TOML file of the job that trained the router: it is trained anew without each "
        "source, and measured on that source; by default this is not looked at",
    )
    most_weight: float = Field(
        default=MOST_WEIGHT,
        ge=1,
        description="Queries of logged traffic that one answer may stand for, as rare as it was; "
        "a lower one steadies the estimates, and leans them on mean grades; ≥ 1",
    )
    perturb: bool = Field(default=True, description="Measure the flip rate")
    model: ModelSource = ModelSource()
    engine: EngineConfig = EngineConfig()

    _day = field_validator("prices_as_of", mode="before")(day)
    _local = field_validator("output")(local)

    @field_validator("regret_at")
    @classmethod
    def _above_nothing(cls, prices: list[float]) -> list[float]:
        if any(one <= 0 for one in prices):
            raise ValueError("should be greater than 0, each")
        return prices
