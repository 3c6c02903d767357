"""Which model a query goes to, given what can be expected of each. Pure: arrays in, arrays out.

A batch is n queries and m models, in pool order. Grades are expected grades in [0, 1], costs are
expected costs in USD. Every choice depends on its own query alone, so that a rerun decides alike
however the backlog is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Lane, Model
from moa.config import PolicyConfig
from moa.errors import ConfigError

BEST_VALUE = "best_value"
"""The greatest `willingness_to_pay * grade - cost`."""
CHEAPEST_ABOVE_FLOOR = "cheapest_above_floor"
"""The cheapest of those whose expected grade reaches the floor."""
BEST_BELOW_FLOOR = "best_below_floor"
"""None reaches the floor: the greatest expected grade."""
ONLY_ONE_CAN = "only_one_can"
"""There was no choice."""
NOVEL = "novel"
"""Too unlike the training data to judge: the default model."""
NOBODY_CAN = "nobody_can"
"""No model can take the query; `reason_nobody` says why."""
PLANNED = "planned"
"""What is best for the whole backlog, under its budget, its limits and its deadline."""
EXPLORED = "explored"
"""Drawn at random, see `moa.planning.exploration`."""
REDRIVE = "redrive"
"""A dead letter, sent again to the model that the redrive names."""
FALLBACK = "fallback"
"""Of a logged grade: another model answered than was decided on, which was out, or a redrive named
another. What came of a failure is no draw."""
RULES = (BEST_VALUE, CHEAPEST_ABOVE_FLOOR, BEST_BELOW_FLOOR, ONLY_ONE_CAN, NOVEL, NOBODY_CAN)

BELOW_FLOOR_USD = 1000.0
"""Per unit of grade that an answer is expected to lack: more than any detour costs."""
NOBODY = -1
"""In place of a model's number."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
T = TypeVar("T", Model, Lane)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Which models can take which queries, and what keeps out the others. Masks are (n, m)."""

    models: tuple[Model, ...]
    lanes: tuple[Lane, ...]
    """That the run may buy."""
    fits: Bools
    """Prompt and wanted output are expected to fit the model's window."""
    able: Bools
    """The model can do all that the request asks."""
    allowed: Bools
    """The query does not rule the model out."""
    buyable: Bools
    """Shape (n, m, L), in the order of `lanes`: the model is sold so, and the query may be."""
    good: Bools
    """The model is expected to answer as well as the query asks at least."""

    @classmethod
    def find(
        cls,
        models: Sequence[Model],
        *,
        lanes: Sequence[Lane] = ("live",),
        input_tokens: Floats,
        output_tokens: Floats,
        max_output_tokens: Sequence[int | None],
        abilities: Sequence[Collection[str]],
        allowed_models: Sequence[Collection[str] | None],
        allowed_lanes: Sequence[Collection[str] | None],
        expected_grade: Floats,
        min_grade: Sequence[float | None] | Floats,
    ) -> Candidates:
        """Compare n queries with m models.

        Args:
            models: the pool.
            lanes: that this run may buy.
            input_tokens: expected, shape (n, m).
            output_tokens: that most answers stay below, shape (n, m); counts where
                `max_output_tokens` is `None`.
            max_output_tokens: what the query wants room for; no model gives more than its own
                limit.
            abilities: what each query asks of a model.
            allowed_models: catalog ids; `None` allows the whole pool.
            allowed_lanes: `None` allows all.
            expected_grade: in [0, 1], shape (n, m); NaN, of which nothing is known, is below any
                least grade.
            min_grade: the least expected grade that each query asks for; `None` or NaN for none.
        """
        windows = np.array([model.context_window for model in models], np.float64)
        most = np.array([model.max_output_tokens for model in models], np.float64)
        wanted = np.array([np.nan if w is None else w for w in max_output_tokens], np.float64)
        wanted = wanted.reshape(-1, 1)
        room = np.minimum(np.where(np.isnan(wanted), output_tokens, wanted), most)
        sold = np.array([[lane in model.lanes for lane in lanes] for model in models], np.bool_)
        return cls(
            models=tuple(models),
            lanes=tuple(lanes),
            fits=np.asarray(input_tokens + room <= windows),
            able=_mask(abilities, models, _able),
            allowed=_mask(allowed_models, models, _allowed),
            buyable=_mask(allowed_lanes, lanes, _lane_allowed)[:, None, :] & sold,
            good=_reaches(expected_grade, min_grade),
        )

    @property
    def can(self) -> Bools:
        """Whether a model can take a query, (n, m)."""
        return self.fits & self.able & self.allowed & self.good & self.buyable.any(axis=2)


def _able(asked: tuple[str, ...] | None, model: Model) -> bool:
    return model.abilities.issuperset(asked or ())


def _allowed(asked: tuple[str, ...] | None, model: Model) -> bool:
    return asked is None or model.id in asked


def _lane_allowed(asked: tuple[str, ...] | None, lane: Lane) -> bool:
    return asked is None or lane in asked


def _mask(
    asked: Sequence[Collection[str] | None],
    things: Sequence[T],
    test: Callable[[tuple[str, ...] | None, T], bool],
) -> Bools:
    """(n, things): tested once per distinct wish, of which a backlog has few."""
    numbers: dict[tuple[str, ...] | None, int] = {}
    keys = (None if one is None else tuple(one) for one in asked)
    rows = [numbers.setdefault(key, len(numbers)) for key in keys]
    distinct = np.array([[test(key, thing) for thing in things] for key in numbers], np.bool_)
    return distinct.reshape(len(numbers), len(things))[np.array(rows, np.intp)]


def _reaches(expected_grade: Floats, min_grade: Sequence[float | None] | Floats) -> Bools:
    """(n, m). Grades come in single precision, in which 0.7 is a little less than 0.7."""
    least = np.array(min_grade, np.float32).reshape(-1, 1)
    if np.isnan(least).all():
        return np.ones(np.shape(expected_grade), np.bool_)
    return np.isnan(least) | (np.asarray(expected_grade, np.float32) >= least)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for n queries. Models are numbers in pool order."""

    chosen: Ints
    """Shape (n,); `NOBODY` where no model can."""
    fallbacks: Ints
    """Shape (n, m - 1): next best first by the same criterion, then `NOBODY`."""
    rule: NDArray[np.str_]
    """Shape (n,), each of `RULES`."""

    def chosen_ids(self, pool: Sequence[str]) -> list[str | None]:
        """Catalog ids; `None` where no model can."""
        return [None if number == NOBODY else pool[number] for number in self.chosen.tolist()]

    def fallback_ids(self, pool: Sequence[str]) -> list[list[str]]:
        """Catalog ids, next best first."""
        rows = self.fallbacks.tolist()
        return [[pool[number] for number in row if number != NOBODY] for row in rows]


def decide(
    candidates: Candidates,
    expected_grade: Floats,
    expected_cost_usd: Floats,
    novelty: Floats,
    policy: PolicyConfig,
    default_model: str,
) -> Decisions:
    """Choose a model for every query of a batch.

    Args:
        candidates: which models can.
        expected_grade: in [0, 1], shape (n, m).
        expected_cost_usd: of the lane that is bought, shape (n, m).
        novelty: in [0, 1], shape (n,).
        policy: the criterion, and how novel a query may be.
        default_model: catalog id that too novel queries go to, where it can take them.

    Ties go to the cheaper model, then to the one with the smaller id.

    Raises:
        ConfigError: the default model is not in the pool.
        ValueError: a model that can take a query has no grade or cost for it.

    Source of the first criterion: RouterBench, arXiv:2403.12031.
    """
    can = candidates.can
    grade = np.asarray(expected_grade, np.float64)
    cost = np.asarray(expected_cost_usd, np.float64)
    if not np.isfinite(np.where(can, grade + cost, 0)).all():
        raise ValueError("a model that can take a query has no expected grade or cost for it")
    default = _number(candidates.models, default_model)
    several = can.sum(axis=1) > 1
    novel = (np.asarray(novelty) > policy.max_novelty) & can[:, default] & several
    first = novel[:, None] & (np.arange(can.shape[1]) == default)
    keys, rule = _criterion(grade, cost, can, policy)
    order = np.lexsort((*_by_id(candidates.models, can.shape), *keys, ~first, ~can), axis=1)
    ranked = np.where(np.take_along_axis(can, order, axis=1), order, NOBODY)
    rule = np.select([~can.any(axis=1), ~several, novel], [NOBODY_CAN, ONLY_ONE_CAN, NOVEL], rule)
    return Decisions(chosen=ranked[:, 0], fallbacks=ranked[:, 1:], rule=rule)


def a_grade_usd(policy: PolicyConfig) -> float:
    """What a right instead of a wrong answer is worth."""
    if policy.willingness_to_pay is not None:
        return float(policy.willingness_to_pay)
    return BELOW_FLOOR_USD


def worth_usd(expected_grade: float, expected_cost_usd: float, policy: PolicyConfig) -> float:
    """What an answer is expected to be worth by the policy's own criterion, less what it costs;
    only differences between models mean anything.
    """
    if policy.willingness_to_pay is not None:
        return float(policy.willingness_to_pay) * expected_grade - expected_cost_usd
    missing = max(0.0, (policy.quality_floor or 0.0) - expected_grade)
    return -expected_cost_usd - BELOW_FLOOR_USD * missing


def _criterion(
    grade: Floats, cost: Floats, can: Bools, policy: PolicyConfig
) -> tuple[list[NDArray[np.generic]], NDArray[np.str_]]:
    """What to sort models by, least first, the strongest key last; and the rule that it is."""
    if policy.willingness_to_pay is not None:
        value = float(policy.willingness_to_pay) * grade - cost
        return [cost, -value], np.full(len(grade), BEST_VALUE)
    floor = np.full(len(grade), policy.quality_floor or 0)
    reaches = _reaches(grade, floor) & can
    wins = np.where(reaches, cost, -grade)
    ties = np.where(reaches, -grade, cost)
    rule = np.where(reaches.any(axis=1), CHEAPEST_ABOVE_FLOOR, BEST_BELOW_FLOOR)
    return [ties, wins, ~reaches], rule


def _by_id(models: Sequence[Model], shape: tuple[int, ...]) -> tuple[Ints]:
    """The place of each model's id in the alphabet, the weakest key."""
    places = np.argsort(np.argsort(np.array([model.id for model in models])))
    return (np.broadcast_to(places, shape),)


def _number(models: Sequence[Model], name: str) -> int:
    ids = [model.id for model in models]
    if name not in ids:
        raise ConfigError(f"default model {name!r} is not in the pool {ids}: name one of the pool")
    return ids.index(name)


def reason_nobody(candidates: Candidates, row: int) -> str:
    """Why no model can take a query: what rules all of them out, or what rules out each."""
    masks = {
        "allowed_models": candidates.allowed[row],
        "allowed_lanes": candidates.buyable[row].any(axis=1),
        "abilities": candidates.able[row],
        "window": candidates.fits[row],
        "min_grade": candidates.good[row],
    }
    for name, mask in masks.items():
        if not mask.any():
            return f"{name}: {_ALL_OUT[name].format(lanes=', '.join(candidates.lanes))}"
    each = (
        f"{model.id} by {' and '.join(name for name, mask in masks.items() if not mask[number])}"
        for number, model in enumerate(candidates.models)
    )
    return f"every model is ruled out: {', '.join(each)}"


_ALL_OUT = {
    "allowed_models": "the query allows no model of the pool",
    "allowed_lanes": "the query allows no lane in which this run can buy a model of the pool; "
    "the run buys {lanes}",
    "abilities": "no model of the pool has all the abilities that the request needs",
    "window": "prompt and wanted output do not fit the window of any model of the pool",
    "min_grade": "the query asks for a greater grade than is expected of any model of the pool",
}
