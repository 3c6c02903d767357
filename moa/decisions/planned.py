"""What may be bought for each query, as the planner takes it, and its choices as decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Lane
from moa.config import PolicyConfig
from moa.decisions.deciding import LIVE, Deciding, Expected
from moa.plan_config import PlanConfig
from moa.planning.capacities import Learnt
from moa.planning.capacity import Backlog, Choice, Objective
from moa.planning.policy import (
    NOBODY,
    NOBODY_CAN,
    NOVEL,
    ONLY_ONE_CAN,
    PLANNED,
    Decisions,
    Floats,
    a_grade_usd,
)

SPILL = 0.02
"""Share of a batch's queries that is reckoned to be bought live in the end, unanswered."""
NOT_SOLD = np.inf


def objective(policy: PolicyConfig, plan: PlanConfig) -> Objective:
    """What an answer is worth to the plan."""
    if plan.target_grade is not None:
        return Objective(0.0, target_grade=plan.target_grade)
    if plan.maximise == "grade":
        return Objective(1.0, usd_weight=0.0)
    if policy.willingness_to_pay is None:
        return Objective(0.0, floor=policy.quality_floor)
    return Objective(a_grade_usd(policy))


def options(
    expected: Expected, deciding: Deciding, learnt: Mapping[str, Learnt] | None = None
) -> Backlog:
    """Each query's options: the models that can take it, in the lanes that it may be bought in.

    A query that is too novel to judge has those of the default model only.

    Args:
        expected: of the queries.
        deciding: the run's.
        learnt: catalog id → by how much the expectations are off.
    """
    learnt = learnt or {}
    known = [learnt.get(name, Learnt()) for name in deciding.pool]
    tokens_in = expected.input_tokens * np.array([one.input_tokens for one in known])
    tokens_out = expected.output_tokens * np.array([one.output_tokens for one in known])
    cost = _costs(expected.candidates.lanes, deciding, tokens_in, tokens_out)
    can = expected.candidates.can
    novel = _novel(expected, deciding)
    default = np.arange(can.shape[1]) == deciding.pool.index(deciding.default_model)
    may = (can & (default | ~novel[:, None]))[:, :, None] & expected.candidates.buyable
    return Backlog(
        np.asarray(expected.grade, np.float32),
        np.where(may, cost, NOT_SOLD).astype(np.float32),
        tokens_in.astype(np.float32),
        tokens_out.astype(np.float32),
    )


def decisions_of(
    choice: Choice, expected: Expected, deciding: Deciding
) -> tuple[Decisions, list[Lane | None]]:
    """A plan's choices as decisions, with the lane of each. Fallbacks are in the order in which the
    policy would take them, each query for itself.

    Args:
        choice: `model * lanes + lane` of each query, -1 where it has no option.
        expected: of the queries.
        deciding: the run's.
    """
    lanes = expected.candidates.lanes
    chosen = np.where(choice < 0, NOBODY, choice // len(lanes)).astype(np.intp)
    alone = deciding.by_policy(expected)
    ranked = np.column_stack([alone.chosen, alone.fallbacks])
    others = np.argsort(ranked == chosen[:, None], axis=1, kind="stable")[:, : ranked.shape[1] - 1]
    kept = np.isin(alone.rule, (NOBODY_CAN, ONLY_ONE_CAN, NOVEL)) | (chosen == NOBODY)
    decisions = Decisions(
        chosen=chosen,
        fallbacks=np.where((chosen == NOBODY)[:, None], NOBODY, _at(ranked, others)),
        rule=np.where(kept, alone.rule, PLANNED),
    )
    bought = [None if one < 0 else lanes[one % len(lanes)] for one in choice.tolist()]
    return decisions, bought


def _at(values: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.take_along_axis(values, columns, axis=1)


def _novel(expected: Expected, deciding: Deciding) -> NDArray[np.bool_]:
    """Whether a query goes to the default model, which can take it."""
    can = expected.candidates.can
    default = deciding.pool.index(deciding.default_model)
    too_novel = np.asarray(expected.novelty) > deciding.policy.max_novelty
    return np.asarray(too_novel & can[:, default])


def _costs(
    lanes: Sequence[Lane], deciding: Deciding, tokens_in: Floats, tokens_out: Floats
) -> Floats:
    """Expected, shape (n, m, L); of lanes that a model is not sold in, no number."""
    live = deciding.prices.expected_cost_usd(deciding.pool, LIVE, tokens_in, tokens_out)
    costs = np.full((*live.shape, len(lanes)), NOT_SOLD)
    for column, lane in enumerate(lanes):
        sold = [number for number, model in enumerate(deciding.models) if lane in model.lanes]
        names = [deciding.pool[number] for number in sold]
        found = deciding.prices.expected_cost_usd(
            names, lane, tokens_in[:, sold], tokens_out[:, sold]
        )
        if lane == "batch":
            found = (1 - SPILL) * found + SPILL * live[:, sold]
        costs[:, sold, column] = found
    return costs
