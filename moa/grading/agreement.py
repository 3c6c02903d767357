"""How far two judges agree, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from moa.intervals import Floats, Interval, Means, Resamples

SEED = 0
_RULE_OF_THREE = 3.0
"""Where none of n has failed, the share that fails is below 3/n with 95 % confidence."""


class Agreement(NamedTuple):
    """Of two judges, on the same things."""

    judged: int
    """How many things."""
    accuracy: Interval
    """Share on which they say the same."""
    kappa: Interval | None
    """Agreement beyond chance; `None` where both always say one and the same thing: nothing can be
    told of what they would say of another one."""


def agreement(
    said: Sequence[tuple[Hashable, Hashable]], groups: Sequence[Hashable] | None = None
) -> Agreement:
    """Compare two judges.

    Args:
        said: of each thing what the one and the other judge says; at least one.
        groups: whose things are alike, as answers to one query are, and are drawn together; by
            default each is drawn by itself.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960. 95 % intervals by bootstrap;
    where they never differ, from the rule of three, which takes things as independent.
    """
    classes = sorted({one for pair in said for one in pair}, key=str)
    columns: dict[Hashable, Floats] = {"equal": np.array([one == other for one, other in said])}
    for which in classes:
        for judge in (0, 1):
            columns[judge, which] = np.array([pair[judge] == which for pair in said])
    columns["things"] = np.ones(len(said))

    def accuracy(means: Means) -> Floats:
        return means["equal"] / means["things"]

    def by_chance(means: Means) -> Floats:
        both = sum(means[0, which] * means[1, which] for which in classes)
        return np.asarray(both / means["things"] ** 2, np.float64)

    def kappa(means: Means) -> Floats:
        return (accuracy(means) - by_chance(means)) / (1 - by_chance(means))

    drawn = Resamples(_summed(columns, groups), seed=SEED)
    alike, beyond = drawn.interval(accuracy), drawn.interval(kappa)
    if len(classes) == 1:
        return Agreement(len(said), _never_apart(len(said)), None)
    if alike.value == 1:
        chance = drawn.interval(by_chance).value
        alike = _never_apart(len(said))
        beyond = Interval(1.0, 1 - (1 - alike.low) / (1 - chance), 1.0)
    return Agreement(len(said), alike, beyond)


def _summed(
    columns: dict[Hashable, Floats], groups: Sequence[Hashable] | None
) -> dict[Hashable, Floats]:
    """A row a group."""
    if groups is None:
        return columns
    number = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([number[group] for group in groups])
    return {
        name: np.asarray(np.bincount(rows, weights=column), np.float64)
        for name, column in columns.items()
    }


def _never_apart(things: int) -> Interval:
    return Interval(1.0, 1 - min(1.0, _RULE_OF_THREE / things), 1.0)
