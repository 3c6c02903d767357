"""By how much a run's expectations were off so far, and how fast its models answer."""

from __future__ import annotations

from collections.abc import Mapping

from moa.dispatch.settings import LineProgress
from moa.dispatch.used import Used
from moa.planning.capacities import Learnt

PRIOR_CALLS = 20.0
"""Calls that an expectation is worth before any has been answered."""

CALLS_TO_TRUST = 100.0
"""Answers after which what they have used says what the others will."""
UNKNOWN = 3.0
"""Before: answers were up to three times as long as expected where a kind of query was new."""
SPARE = 1.1


def learnt(
    used: Mapping[str, Used],
    lines: Mapping[str, LineProgress],
    then: Mapping[str, LineProgress],
    seconds: float,
) -> dict[str, Learnt]:
    """By model: few calls of one count for less than those of the whole pool. All by catalog id.

    Args:
        used: of finished pieces.
        lines: where models stand.
        then: where they stood when the last plan was made.
        seconds: since then.
    """
    pool = _sum(used)
    all_in = _ratio(pool.input_tokens, pool.expected_input_tokens, 1.0, pool.calls)
    all_out = output_ratio(used)
    return {
        name: Learnt(
            _ratio(one.input_tokens, one.expected_input_tokens, all_in, one.calls),
            _ratio(one.output_tokens, one.expected_output_tokens, all_out, one.calls),
            rate(lines.get(name), then.get(name), seconds),
        )
        for name in {*used, *lines}
        for one in [used.get(name, Used())]
    }


def output_ratio(used: Mapping[str, Used]) -> float:
    """Output tokens that all models have used, to what was expected of them."""
    pool = _sum(used)
    return _ratio(pool.output_tokens, pool.expected_output_tokens, 1.0, pool.calls)


def caution(used: Mapping[str, Used]) -> float:
    """What is reckoned to be spent on answers that have not come yet, to what is expected."""
    pool = _sum(used)
    if pool.calls < CALLS_TO_TRUST:
        return UNKNOWN
    worst = max(
        _ratio(pool.input_tokens, pool.expected_input_tokens, 1.0, pool.calls), output_ratio(used)
    )
    return max(1.0, worst * SPARE)


def rate(now: LineProgress | None, then: LineProgress | None, seconds: float) -> float | None:
    """Calls a second of a model that had something waiting then and now; `None` too when a replica
    has died since, and counts anew.
    """
    if now is None or then is None or not (now.waiting and then.waiting) or seconds <= 0:
        return None
    answered = now.answered - then.answered
    return None if answered < 0 else answered / seconds


def _sum(used: Mapping[str, Used]) -> Used:
    """Over all models."""
    pool = Used()
    for one in used.values():
        pool = pool.plus(one)
    return pool


def _ratio(used: float, expected: float, prior: float, calls: float) -> float:
    """Of what was used to what was expected, drawn towards `prior` where few calls tell."""
    if expected <= 0 or calls <= 0:
        return prior
    weight = PRIOR_CALLS * expected / calls
    return (used + weight * prior) / (expected + weight)
