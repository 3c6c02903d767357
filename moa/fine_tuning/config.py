"""What `jobs/fine_tune_backbone.py` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from moa.config import ModelSource
from moa.router.backbone_spec import QUERY
from moa.toml_file import Section

SPLIT = "train"


class BaseConfig(Section):
    """The model to begin with, and how it is read: as the router will read the result."""

    name: str = Field(min_length=1, description="A model's folder, or its Hugging Face id")
    revision: str | None = Field(default=None, description="Commit on the hub")
    source: ModelSource = Field(
        default_factory=ModelSource, description="Where its files are looked for"
    )
    pooling: Literal["last", "mean", "cls"] = Field(
        description="The embedding is the hidden state of the last token (causal models), the mean "
        "of all tokens, or the first token's"
    )
    template: str = Field(default=QUERY, description="What the model reads, with {query} once")
    max_tokens: int = Field(
        ge=16, le=1 << 20, description="Of a prompt with its template; 16 to 1,048,576"
    )
    normalized: bool = Field(default=True, description="Embeddings are scaled to length 1")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        description="Of the weights that are written and served"
    )

    @field_validator("template")
    @classmethod
    def _one_query(cls, template: str) -> str:
        if template.count(QUERY) != 1:
            raise ValueError(f"should have {QUERY} exactly once, has it {template.count(QUERY)}x")
        return template


class LoraConfig(Section):
    """Low-rank changes of some linear layers, merged into them at the end."""

    rank: int = Field(default=16, ge=1, le=1024, description="Of the changes; 1 to 1,024")
    alpha: float = Field(default=32, gt=0, description="The changes are scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="In front of them; ≥ 0, < 1")
    targets: list[str] = Field(
        default_factory=list,
        description="Ends of names of linear layers; by default all but the pooler's",
    )


class DataConfig(Section):
    """Which queries are learned from, how often, and which are held out."""

    least_grades: int = Field(
        default=200, ge=1, description="Models with fewer on the training queries are left out"
    )
    most_per_source: int | None = Field(
        default=None,
        ge=1,
        description="Queries of one source that are used at all, chosen by hash; by default all",
    )
    source_exponent: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Sources are drawn in proportion to their queries to this power: 1 as they "
        "are, 0 all alike",
    )
    folds: int = Field(default=10, ge=2, le=100, description="By near-duplicate group; 2 to 100")
    held_out_fold: int = Field(
        default=0, ge=0, description="This one is not learned from, and says when to stop"
    )

    @model_validator(mode="after")
    def _fold_exists(self) -> DataConfig:
        if self.held_out_fold >= self.folds:
            raise ValueError(f"held_out_fold should be below folds, which is {self.folds}")
        return self


class OptimizerConfig(Section):
    """AdamW with a warm-up and a cosine decay."""

    steps: int = Field(ge=1, description="At most; ≥ 1")
    batch_queries: int = Field(default=32, ge=1, description="A step, over all workers; ≥ 1")
    micro_batch_tokens: int = Field(
        default=8192,
        ge=16,
        description="That one worker computes at once, padding included; bounds its memory; ≥ 16",
    )
    learning_rate: float = Field(gt=0, le=1, description="Of the model's weights, at most")
    head_learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Of the heads' weights")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps")
    weight_decay: float = Field(default=0.01, ge=0, description="Of all but biases")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a step's gradient")
    precision: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="Of activations: bfloat16 where the device computes in it, float32 elsewhere. "
        "What is learned is float32 in any case",
    )
    output_tokens_weight: float = Field(
        default=0.0,
        ge=0,
        description="Of the loss of predicted log output tokens beside that of grades; 0: none",
    )
    evaluate_every: int = Field(
        default=50, ge=1, description="Steps from one evaluation and checkpoint to the next"
    )
    patience: int = Field(
        default=4, ge=1, description="Evaluations without a better one, after which it stops"
    )


class ClusterConfig(Section):
    """How the work is spread. No part of what a run is: it may differ when a run goes on."""

    workers: int = Field(default=1, ge=1, le=1024, description="Processes; 1 to 1,024")
    cpus_per_worker: int = Field(default=1, ge=1, description="Threads of each; ≥ 1")
    gpus_per_worker: Literal[0, 1] = Field(default=0, description="0 or 1")
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="Each worker holds the whole model (ddp), or a share of it (fsdp): for a model "
        "that does not fit one GPU",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice rather than keep them"
    )
    max_failures: int = Field(
        default=3, ge=0, description="Lost workers after which the start gives up"
    )


class FineTuneConfig(Section):
    """All that `jobs/fine_tune_backbone.py` is told."""

    recordings: str = Field(description="Folder with queries.parquet and graded_outcomes.parquet")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Of this run in storage: letters, digits, '.', '_' and '-'",
    )
    storage: str = Field(
        min_length=1,
        description="Folder of checkpoints: a path that all workers see, s3://… or gs://…",
    )
    output: str = Field(
        min_length=1, description="Folder of the model that comes out: a path, s3://… or gs://…"
    )
    tensorboard: str | None = Field(
        default=None,
        description="Local folder of its event files, on the first worker's machine; by default in "
        "the run's storage where that is a local disk, and none where it is a bucket",
    )
    seed: int = Field(default=0, ge=0, lt=1 << 31, description="Of all that is drawn")
    base: BaseConfig
    lora: LoraConfig | None = Field(
        default=None, description="Without this section all weights are learned: for small models"
    )
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @property
    def run_url(self) -> str:
        """Where the run keeps its checkpoints."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @model_validator(mode="after")
    def _equal_shares(self) -> FineTuneConfig:
        if self.optimizer.batch_queries % self.cluster.workers:
            raise ValueError(
                f"optimizer.batch_queries = {self.optimizer.batch_queries} should be a multiple of "
                f"cluster.workers = {self.cluster.workers}"
            )
        if self.base.max_tokens > self.optimizer.micro_batch_tokens:
            raise ValueError(
                f"optimizer.micro_batch_tokens = {self.optimizer.micro_batch_tokens} should be at "
                f"least base.max_tokens = {self.base.max_tokens}: one query must fit"
            )
        return self
