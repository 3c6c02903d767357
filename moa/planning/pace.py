"""How fast one model answers: by its account's limits, and by what a call takes."""

from __future__ import annotations

from moa.catalog import Model

FIRST_TOKEN_S = 2.0
"""Until a model begins to answer; a guess that stands until something is known."""
TOKENS_PER_S = 50.0
"""That it then writes; likewise."""
MINUTE_S = 60.0
DAY_S = 86_400.0


def answer_s(output_tokens: float) -> float:
    """How long an answer of so many tokens takes, before anything is known of its model."""
    return FIRST_TOKEN_S + output_tokens / TOKENS_PER_S


def live_s(
    model: Model, *, calls: float, input_tokens: float, output_tokens: float, in_flight: int
) -> float:
    """How long a model takes for so many calls with so many tokens in all, in seconds.

    Args:
        model: with the limits of its account.
        calls: to be made.
        input_tokens: of all of them.
        output_tokens: of all of them.
        in_flight: calls at once, of all replicas.
    """
    if not calls:
        return 0.0
    limits, tokens = model.limits, input_tokens + output_tokens
    at_once = min(in_flight, limits.max_in_flight or in_flight, calls)
    one_s = answer_s(output_tokens / calls)
    flows = (
        (calls, limits.rpm, MINUTE_S),
        (input_tokens, limits.input_tpm, MINUTE_S),
        (output_tokens, limits.output_tpm, MINUTE_S),
        (tokens, limits.tpm, MINUTE_S),
        (calls, limits.rpd, DAY_S),
    )
    slowest_s = max((amount / limit * per_s for amount, limit, per_s in flows if limit), default=0)
    return max(slowest_s, calls * one_s / at_once) + one_s
