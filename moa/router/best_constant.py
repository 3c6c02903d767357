"""The one model that, used for every query, does best: what a router has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ENOUGH = 100
"""Common queries: fewer are chance."""


class BestConstant(NamedTuple):
    """See the module."""

    model: str
    """Catalog id."""
    why: str
    """Where that comes from, as a phrase."""


def best_constant(
    grade: NDArray[np.float64], pool: Sequence[str], estimated: Mapping[str, float] | None = None
) -> BestConstant:
    """The model of a pool that did best on the training queries.

    Args:
        grade: NaN where missing, shape (n, len(pool)).
        pool: catalog ids.
        estimated: catalog id → what its mean grade would be, had it answered every query.

    Not every model has answered every query, and one that was asked easy ones only would look
    too good. So each is compared with the one that answered most, on what both have answered, if
    that is a tenth of its queries or `ENOUGH` of them.
    Ties go to the smaller id.
    """
    known = ~np.isnan(grade)
    reference = min(range(len(pool)), key=lambda n: (-known[:, n].sum(), pool[n]))
    enough = max(1, min(ENOUGH, int(known[:, reference].sum()) // 10))
    told = {name: one for name, one in (estimated or {}).items() if name in pool}
    if len(told) > 1 and ((known & known[:, [reference]]).sum(axis=0) < enough).any():
        return _by_estimate(told)
    lead = [
        float((grade[both, n] - grade[both, reference]).mean())
        if (both := known[:, n] & known[:, reference]).sum() >= enough
        else -np.inf
        for n in range(len(pool))
    ]
    best = min(range(len(pool)), key=lambda n: (-lead[n], pool[n]))
    common = {pool[n]: int((known[:, n] & known[:, best]).sum()) for n in range(len(pool))}
    if len(pool) == 1:
        why = f"the only model; graded on {common[pool[best]]:,} training queries"
    elif best != reference:
        why = (
            f"its mean grade is {lead[best]:.3f} above that of {pool[reference]} on "
            f"{common[pool[reference]]:,} training queries that both have answered, more than "
            "any other model's"
        )
    else:
        rivals = [model for model in sorted(pool) if model != pool[best]]
        each = ", ".join(f"{model} on {common[model]:,}" for model in rivals)
        why = (
            "no other model has a higher mean grade than it on the training queries that both "
            f"have answered: {each}"
        )
    return BestConstant(pool[best], why)


def all_comparable(grade: NDArray[np.float64]) -> bool:
    """Whether any two models have answered enough queries in common; NaN where missing, shape
    (n, m)."""
    known = (~np.isnan(grade)).astype(np.float64)
    common = known.T @ known
    answered = common.diagonal()
    enough = np.clip(np.maximum.outer(answered, answered) // 10, 1, ENOUGH)
    return bool((common >= enough).all())


def _by_estimate(estimated: Mapping[str, float]) -> BestConstant:
    best = min(estimated, key=lambda name: (-estimated[name], name))
    others = ", ".join(
        f"{name} {grade:.3f}" for name, grade in sorted(estimated.items()) if name != best
    )
    return BestConstant(
        best,
        f"its mean grade is estimated at {estimated[best]:.3f}, had it answered all training "
        f"queries, and that of {others}; too few were answered by both of two models to compare "
        "them on these",
    )
