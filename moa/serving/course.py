"""How an answer that somebody waits for fares: the calls that were made for it, and what came."""

from __future__ import annotations

from dataclasses import dataclass, field

from moa.catalog import Model
from moa.providers.provider import Completion, CompletionDelta

LEFT = "client_left"
"""Error of a call that was cut because nobody waited for it any more."""


@dataclass(slots=True)
class SentCall:
    """One call of a vendor. Times are by the caller's clock."""

    model: Model
    sent_at: float
    first_piece_at: float | None = None
    ended_at: float | None = None
    completion: Completion | None = None
    error: str = ""
    """Class of what it ended with, never words."""

    def came(self, at: float, delta: CompletionDelta) -> None:
        """A piece."""
        if self.first_piece_at is None:
            self.first_piece_at = at
        if delta.completion is not None:
            self.ended_at, self.completion = at, delta.completion

    def failed(self, at: float, error: str) -> None:
        """It has ended without an answer."""
        self.ended_at, self.error = at, error


@dataclass(slots=True)
class Course:
    """How an order fares; kept up to date while its pieces come."""

    model: Model | None = None
    """That is asked, or has answered."""
    sent: list[SentCall] = field(default_factory=list)
    """Failed ones included."""
    failures: list[str] = field(default_factory=list)
    """Of models that were given up: `MODEL CLASS code`, never words."""
    output_chars: int = 0
    """Of text that has come, of the model that is asked."""
    waited_s: float = 0.0
    """For its turns."""
    open: bool = False
    """Whether a call is out, or was when the client left."""
    lost: list[tuple[str, int]] = field(default_factory=list)
    """Models of failed calls that may be billed, each with the output tokens that had come."""

    @property
    def calls(self) -> int:
        """That were made, failed ones included."""
        return len(self.sent)

    @property
    def completion(self) -> Completion | None:
        """Of the last call, whether anybody has read it or not."""
        return self.sent[-1].completion if self.sent else None

    def send(self, model: Model, at: float) -> SentCall:
        """A call goes out."""
        self.model, self.output_chars, self.open = model, 0, True
        self.sent.append(SentCall(model, at))
        return self.sent[-1]
