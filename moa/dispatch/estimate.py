"""What calls will need, learnt from what they have used: a router's estimate is off by a factor."""

from __future__ import annotations

from moa.dispatch.outcome import Choice
from moa.dispatch.quota import Amount
from moa.providers.provider import Usage

FORGET = 0.99
"""Weight of what was learnt before one more answer: about the last hundred count."""
TRUST = 10.0
"""Answers that the estimate is worth before anything was learnt."""
FURTHEST = 20.0


class TokenEstimate:
    """Of one model: expected tokens, times the ratio of used to expected ones so far."""

    def __init__(self) -> None:
        self._input = _Ratio()
        self._output = _Ratio()

    def amount(self, choice: Choice) -> Amount:
        """What a call of this size is likely to use."""
        return Amount(
            1.0,
            choice.input_tokens * self._input.value,
            choice.output_tokens * self._output.value,
        )

    def learn(self, choice: Choice, usage: Usage) -> None:
        """A call has been answered."""
        self._input.learn(choice.input_tokens, usage.input_tokens)
        self._output.learn(choice.output_tokens, usage.output_tokens)


class _Ratio:
    """Of sums, not the mean of ratios: what matters is that the sum comes out right."""

    def __init__(self) -> None:
        self.value = 1.0
        self._expected = 0.0
        self._used = 0.0

    def learn(self, expected: float, used: float) -> None:
        if not self._expected:
            self._expected = self._used = TRUST * expected
        self._expected = FORGET * self._expected + expected
        self._used = FORGET * self._used + used
        if self._expected > 0:
            ratio = self._used / self._expected
            self.value = min(max(ratio, 1 / FURTHEST), FURTHEST)
