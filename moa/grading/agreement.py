"""How far two judges agree, with intervals."""

from __future__ import annotations

import math
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
    kappa: Interval
    """Agreement beyond chance; 0 where both always say one and the same thing, which is no
    evidence of anything."""


def agreement(said: Sequence[tuple[Hashable, Hashable]]) -> Agreement:
    """Compare two judges.

    Args:
        said: of each thing what the one and the other judge says; at least one.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960. 95 % intervals by bootstrap;
    where they never differ, from the rule of three.
    """
    classes = sorted({one for pair in said for one in pair}, key=str)
    columns: dict[Hashable, Floats] = {"equal": np.array([one == other for one, other in said])}
    for which in classes:
        for judge in (0, 1):
            columns[judge, which] = np.array([pair[judge] == which for pair in said])

    def kappa(means: Means) -> Floats:
        chance = sum(means[0, which] * means[1, which] for which in classes)
        return np.asarray((means["equal"] - chance) / (1 - chance), np.float64)

    drawn = Resamples(columns, seed=SEED)
    accuracy = drawn.interval(lambda means: means["equal"])
    beyond = drawn.interval(kappa)
    if not math.isfinite(beyond.value):
        beyond = Interval(0.0, 0.0, 0.0)
    elif accuracy.value == 1:
        apart = min(1.0, _RULE_OF_THREE / len(said))
        beyond = Interval(1.0, 1.0 - apart * _per_disagreement(columns, classes), 1.0)
        accuracy = Interval(1.0, 1.0 - apart, 1.0)
    return Agreement(len(said), accuracy, beyond)


def _per_disagreement(columns: dict[Hashable, Floats], classes: Sequence[Hashable]) -> float:
    """What kappa loses for each unit of accuracy."""
    chance = sum(columns[0, one].mean() * columns[1, one].mean() for one in classes)
    return float(1 / (1 - chance))
