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
