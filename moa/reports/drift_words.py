"""What a night's drift asks for, in a sentence, with the reasons after it."""

from __future__ import annotations

from collections.abc import Sequence

from moa.reports.drift import OFF, UNUSUAL, USUAL, Drift, TagDrift
from moa.reports.wording import answers, share

MOST_NAMED = 6
ACTIONS = {"nothing": "", "retrain": "retrain", "fall_back": "retrain; fall back until then"}
"""As they stand in a table."""


def drift_sentences(found: Drift | None) -> list[str]:
    """The verdict first, then why."""
    if found is None:
        return []
    to_retrain, to_fall_back = found.needing("retrain"), found.needing("fall_back")
    if not to_retrain and not to_fall_back:
        return _of_the_whole(found)
    every = [*to_fall_back, *to_retrain]
    told = f"Retrain with graded answers to queries tagged {_named(every)}"
    if to_fall_back:
        whom = found.best_constant or "the best single model"
        which = _named(to_fall_back) if to_retrain else "these"
        told += f", and until then let {whom} answer {which} (allowed_models)"
    reasons = [_why(one) for one in found.tags if one.action != "nothing"]
    return [f"{told}.", *reasons[:MOST_NAMED]]


def _of_the_whole(found: Drift) -> list[str]:
    whole = found.whole
    if whole.action == "nothing":
        return [
            f"No need to retrain: {_unusual(whole)}, where {share(USUAL)} are usual"
            f"{_as_expected(whole)}."
        ]
    whom = found.best_constant or "the best single model"
    fall_back = f", and until then let {whom} answer all (pool)"
    end = fall_back if whole.action == "fall_back" else ""
    return [f"Retrain with graded answers to queries of this log{end}.", _why(whole)]


def _as_expected(whole: TagDrift) -> str:
    if whole.grade_gap is None:
        return ", and too few answers are graded to say whether they are as good as expected"
    return f", and measured grades are {_gap(whole)}"


def _why(one: TagDrift) -> str:
    """One tag's reasons."""
    whose = f"Of {one.tag}" if one.tag is not None else "Of all queries"
    graded = "" if one.grade_gap is None else f"; measured grades are {_gap(one)}"
    return f"{whose}, {_unusual(one)}{graded}."


def _unusual(one: TagDrift) -> str:
    return (
        f"{share(one.unusual.value)} ({share(one.unusual.low)} to {share(one.unusual.high)}) are "
        f"more novel than {UNUSUAL:g}"
    )


def _gap(one: TagDrift) -> str:
    assert one.grade_gap is not None
    gap = one.grade_gap
    word = "lower" if gap.value < 0 else "higher"
    low, high = answers(100 * gap.low), answers(100 * gap.high)
    return (
        f"{abs(gap.value) * 100:.1f} points {word} than expected ({low} to {high}; {OFF * 100:g} "
        "would count)"
    )


def _named(tags: Sequence[str]) -> str:
    named = ", ".join(tags[:MOST_NAMED])
    more = len(tags) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
