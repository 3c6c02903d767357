"""What a policy decides at every willingness to pay, and what an oracle would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.judged import Bools, Floats, Ints, Judged, at, bold, willingnesses
from moa.planning.policy import NOVEL

SWEEP_POINTS = 150


@dataclass(frozen=True, slots=True)
class Sweep:
    """T policies that differ in willingness to pay only, and what each decides on n queries."""

    willingness_to_pay: tuple[Decimal, ...]
    """Ascending; the first is 0, the last is quality alone."""
    routed: Ints
    """Places in the pool, shape (T, n)."""
    oracle: Ints
    """The choice of one who knows grades and costs beforehand, same shape."""
    configured: Ints
    """By the policy as it is configured, shape (n,)."""
    abstained: Bools
    """Where that policy found a query too novel to judge, shape (n,)."""

    def only(self, mask: Bools) -> Sweep:
        """Some of the queries, as a mask of shape (n,)."""
        return Sweep(
            self.willingness_to_pay,
            self.routed[:, mask],
            self.oracle[:, mask],
            self.configured[mask],
            self.abstained[mask],
        )


def sweep(judged: Judged, policy: PolicyConfig, *, points: int = SWEEP_POINTS) -> Sweep:
    """Decide at every willingness to pay.

    Args:
        judged: the queries.
        policy: as it is configured; all of it but the price of quality and `max_novelty` holds
            throughout. No query of the frontier is too novel: where some go to the best constant
            at every price, a frontier has no cheap end that others' could be compared with.
        points: prices of quality between 0 and quality alone.
    """
    prices = willingnesses(points)
    configured = judged.decide(policy)
    return Sweep(
        willingness_to_pay=tuple(prices),
        routed=np.stack([judged.decide(at(bold(policy), price)).chosen for price in prices]),
        oracle=oracle(judged, prices),
        configured=configured.chosen,
        abstained=np.asarray(configured.rule == NOVEL),
    )


def oracle(judged: Judged, prices: Sequence[Decimal]) -> Ints:
    """The best value of each query by its real grades and costs, shape (T, n)."""
    return np.stack([value(judged, price).argmax(axis=1) for price in prices])


def value(judged: Judged, willingness_to_pay: Decimal) -> Floats:
    """What each answer is worth less what it costs, in USD, shape (n, m)."""
    return np.asarray(float(willingness_to_pay) * judged.grade - judged.cost_usd)
