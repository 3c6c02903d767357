"""What may be bought for each query, as the planner takes it, and its choices as decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Lane
from moa.config import PolicyConfig
from moa.decisions.deciding import LIVE, Chances, Deciding, Expected
from moa.plan_config import PlanConfig
from moa.planning.capacities import Learnt
from moa.planning.capacity import Backlog, Choice, Objective
from moa.planning.exploration import explored
from moa.planning.policy import (
    NOBODY,
    NOBODY_CAN,
    NOVEL,
    ONLY_ONE_CAN,
    PLANNED,
    Decisions,
    Floats,
    Ints,
    a_grade_usd,
)

SPILL = 0.02
"""Share of a batch's queries that is reckoned to be bought live in the end, unanswered."""
NOT_SOLD = np.inf
N = TypeVar("N", float, Floats)


class Preferences(NamedTuple):
    """Whom a plan would ask about the queries that are explored."""

    rows: Ints
    """These queries, numbers in `Expected`."""
    models: Ints


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
    expected: Expected,
    deciding: Deciding,
    learnt: Mapping[str, Learnt] | None = None,
    drawn: Ints | None = None,
) -> Backlog:
    """Each query's options: the models that can take it, in the lanes that it may be bought in.

    A query that is too novel to judge has those of the default model only; one that is explored
    those of the drawn model: so a plan pays for it, and keeps its limits with it.

    Args:
        expected: of the queries.
        deciding: the run's.
        learnt: catalog id → by how much the expectations are off.
        drawn: the model of each query that is explored, `NOBODY` of the others; `None`: none is.
    """
    learnt = learnt or {}
    known = [learnt.get(name, Learnt()) for name in deciding.pool]
    tokens_in = expected.input_tokens * np.array([one.input_tokens for one in known])
    tokens_out = expected.output_tokens * np.array([one.output_tokens for one in known])
    cost = _costs(expected.candidates.lanes, deciding, tokens_in, tokens_out)
    can = expected.candidates.can
    novel = _novel(expected, deciding)
    models = np.arange(can.shape[1])
    may = can & ((models == deciding.pool.index(deciding.default_model)) | ~novel[:, None])
    if drawn is not None:
        may = np.where((drawn != NOBODY)[:, None], can & (models == drawn[:, None]), may)
    return Backlog(
        np.asarray(expected.grade, np.float32),
        np.where(may[:, :, None] & expected.candidates.buyable, cost, NOT_SOLD).astype(np.float32),
        tokens_in.astype(np.float32),
        tokens_out.astype(np.float32),
    )


def decisions_of(
    choice: Choice, expected: Expected, deciding: Deciding, preferences: Preferences | None = None
) -> tuple[Decisions, list[Lane | None], Chances]:
    """A plan's choices as decisions, with the lane of each. Fallbacks are in the order in which the
    policy would take them, each query for itself.

    Args:
        choice: `model * lanes + lane` of each query, -1 where it has no option.
        expected: of the queries.
        deciding: the run's.
        preferences: of the queries that are explored; `None` where nothing is.
    """
    lanes = expected.candidates.lanes
    chosen = models_of(choice, len(lanes))
    alone = deciding.by_policy(expected)
    kept = np.isin(alone.rule, (NOBODY_CAN, ONLY_ONE_CAN, NOVEL)) | (chosen == NOBODY)
    planned = replace(alone, rule=np.where(kept, alone.rule, PLANNED))
    preferred, drawn = chosen.copy(), np.full(len(chosen), NOBODY)
    if preferences is not None:
        is_drawn = np.flatnonzero(chosen[preferences.rows] != NOBODY)
        rows = preferences.rows[is_drawn]
        drawn[rows], preferred[rows] = chosen[rows], preferences.models[is_drawn]
    decisions = explored(planned, drawn, preferred)
    bought = [None if one < 0 else lanes[one % len(lanes)] for one in choice.tolist()]
    return decisions, bought, deciding.chances(expected, decisions, preferred)


def models_of(choice: Choice, lanes: int) -> Ints:
    """The model of each option, `NOBODY` of none."""
    return np.where(choice < 0, NOBODY, choice // lanes).astype(np.intp)


def _novel(expected: Expected, deciding: Deciding) -> NDArray[np.bool_]:
    """Whether a query goes to the default model, which can take it."""
    can = expected.candidates.can
    default = deciding.pool.index(deciding.default_model)
    too_novel = np.asarray(expected.novelty) > deciding.policy.max_novelty
    return np.asarray(too_novel & can[:, default])


def with_spill(batch_usd: N, live_usd: N) -> N:
    """What queries in batches are expected to cost, with those that are bought live in the end."""
    return (1 - SPILL) * batch_usd + SPILL * live_usd


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
            found = with_spill(found, live[:, sold])
        costs[:, sold, column] = found
    return costs
