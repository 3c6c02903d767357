"""What users say of completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moa.serving.chat_wire import invalid


class Feedback(BaseModel):
    """The body of `POST /v1/feedback`: a grade or a thumb."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    completion_id: str = Field(min_length=1, max_length=512)
    grade: float | None = Field(default=None, ge=0, le=1)
    thumb: Literal["up", "down"] | None = None
    grader: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_./:@ -]{1,64}$")

    @model_validator(mode="after")
    def _one(self) -> Feedback:
        if (self.grade is None) == (self.thumb is None):
            raise ValueError("give a grade (0 to 1) or a thumb (up, down), one of them")
        return self

    @property
    def value(self) -> float:
        """As a grade."""
        if self.grade is not None:
            return self.grade
        return 1.0 if self.thumb == "up" else 0.0


def read_feedback(document: dict[str, Any]) -> Feedback:
    """A body as feedback.

    Raises:
        Refusal: 400: it is none.
    """
    try:
        return Feedback.model_validate(document)
    except ValidationError as error:
        raise invalid(error) from None
