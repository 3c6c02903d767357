"""What makes a backbone's numbers, which the artifact stores, and how an engine is run, which it
does not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from moa.toml_file import Section

QUERY = "{query}"
"""Where the query goes in a template."""
SHA256 = r"^[0-9a-f]{64}$"


class HashingSpec(Section):
    """`moa.router.hashing_backbone`."""

    kind: Literal["hashing"]
    buckets: int = Field(ge=1, description="Of the n-grams; ≥ 1")
    digest: str = Field(description="Of what the numbers mean, 16 hex digits")


class LanguageModelSpec(Section):
    """`moa.router.vllm_backbone`: a Hugging Face model, and what is asked of it.

    Two engines of one spec agree within the rounding of `dtype`, not in every bit: kernels differ
    between devices, and sums between batches.
    """

    kind: Literal["language_model"] = "language_model"
    name: str = Field(
        min_length=1,
        description="Of the model: its Hugging Face id, or the name of a folder beside the "
        "artifact's files",
    )
    revision: str | None = Field(
        default=None, description="Commit on the hub, for a model that comes from there"
    )
    pooling: Literal["last", "mean", "cls"] = Field(
        description="The embedding is the hidden state of the last token (causal models), the mean "
        "of all tokens, or the first token's (encoders trained that way)"
    )
    template: str = Field(
        default=QUERY,
        description="What the model reads, with the query at {query}, exactly once. What comes "
        "before it is computed once for all queries, where the model is causal",
    )
    max_tokens: int = Field(
        ge=16,
        le=1 << 20,
        description="Of a prompt with its template; of longer ones the middle is left out; "
        "16 to 1,048,576",
    )
    normalized: bool = Field(default=True, description="Embeddings are scaled to length 1")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        description="Of weights and activations"
    )
    quantization: Literal["fp8"] | None = Field(
        default=None, description="Of the weights, when they are loaded; needs a GPU"
    )
    width: int = Field(ge=1, description="Length of an embedding: the model's hidden size")
    weights_sha256: str = Field(
        pattern=SHA256, description="Of the model's safetensors files and config.json"
    )
    tokenizer_sha256: str = Field(pattern=SHA256, description="Of tokenizer.json")
    adapter_sha256: str | None = Field(
        default=None,
        pattern=SHA256,
        description="Of the LoRA adapter in the artifact's folder `adapter`, which is put on the "
        "model for every query; none where the weights are merged",
    )

    @field_validator("template")
    @classmethod
    def _one_query(cls, template: str) -> str:
        if template.count(QUERY) != 1:
            raise ValueError(
                f"should have {QUERY} exactly once, has it {template.count(QUERY)} times"
            )
        return template


class ModelSource(Section):
    """Where the files of a language model are looked for. The artifact has their hashes."""

    folder: str | None = Field(
        default=None,
        description="The model's folder: a path, s3://… or gs://…; by default the one of the "
        "model's name in the artifact's folder, then a local one of that name, then the Hugging "
        "Face cache",
    )
    cache: str = Field(
        default="~/.cache/moa-router/models",
        min_length=1,
        description="Local folder that models are copied to from buckets, once",
    )
    download: bool = Field(
        default=False, description="Fetch a model that is nowhere else from the Hugging Face hub"
    )


class EngineConfig(Section):
    """How vLLM runs a language model: speed and memory, no meaning."""

    tensor_parallel_size: int = Field(
        default=1, ge=1, le=64, description="GPUs that share the weights of one replica; 1 to 64"
    )
    gpu_memory_utilization: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of a GPU's memory that the engine takes; > 0, ≤ 1",
    )
    kv_cache_memory_bytes: int | None = Field(
        default=None,
        ge=1 << 20,
        description="Memory for keys and values, in bytes; ≥ 1,048,576; by default what "
        "gpu_memory_utilization leaves, and on a CPU 512 MiB",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Tokens that one step computes; ≥ 16; by default vLLM's choice",
    )
    enforce_eager: bool | None = Field(
        default=None,
        description="Do not compile the model: slower steps, a faster start; by default true on a "
        "CPU and false on a GPU",
    )
    enable_prefix_caching: bool = Field(
        default=True,
        description="Compute the template's beginning once, where model and pooling allow it",
    )
