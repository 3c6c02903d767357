"""Backlogs and capacities to plan, and what HiGHS makes of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix

from moa.planning.capacity import NO_OPTION, Backlog, Bools, Capacity, Objective
from moa.planning.valuation import Columns, Terms, open_rows


def backlog(
    rows: int, *, models: int = 4, lanes: int = 2, seed: int = 0, barred: float = 0.1
) -> Backlog:
    """Queries of unlike difficulty and length; dearer models are better; lane 1 is half the price.

    Args:
        rows: how many.
        models: from cheap to dear.
        lanes: three at most.
        seed: other queries.
        barred: share of options that may not be taken; of each query one stays.
    """
    random = np.random.default_rng(seed)
    difficulty = random.normal(size=(rows, 1)) + 0.4 * random.normal(size=(rows, models))
    grade = 1 / (1 + np.exp(difficulty - np.linspace(-0.5, 1.5, models)))
    input_tokens = random.lognormal(6, 1, (rows, 1)) * np.ones(models)
    output_tokens = random.lognormal(5.5, 0.8, (rows, 1)) * random.lognormal(0, 0.2, grade.shape)
    price = np.geomspace(1e-6, 3e-5, models) if models > 1 else np.array([1e-6])
    cost = price * (input_tokens + 4 * output_tokens)
    cost_usd = cost[:, :, None] * np.array([1.0, 0.5, 0.8])[:lanes]
    out = random.random(cost_usd.shape) < barred
    out[np.arange(rows), random.integers(0, models, rows), 0] = False
    cost_usd[out] = np.inf
    return Backlog(single(grade), single(cost_usd), single(input_tokens), single(output_tokens))


def single(values: ArrayLike) -> NDArray[np.float32]:
    """In single precision."""
    return np.asarray(values, np.float32)


def every(models: int = 4, lanes: int = 2) -> Bools:
    """All options."""
    return np.ones((models, lanes), np.bool_)


def model(number: int, models: int = 4, lanes: int = 2) -> Bools:
    """One model's options."""
    out = np.zeros((models, lanes), np.bool_)
    out[number] = True
    return out


def lane(number: int, models: int = 4, lanes: int = 2) -> Bools:
    """One lane's options."""
    out = np.zeros((models, lanes), np.bool_)
    out[:, number] = True
    return out


def usual(rows: int) -> list[Capacity]:
    """Capacities of which several bind."""
    return [
        Capacity("budget", "usd", every(), 0.004 * rows),
        Capacity("cheapest queries", "queries", model(0), 0.35 * rows),
        Capacity("best output", "output_tokens", model(3), 80.0 * rows),
        Capacity("batch tokens", "tokens", lane(1), 400.0 * rows),
        Capacity("second share", "queries", model(1), 0.1 * rows, at_least=True),
    ]


class Optimum(NamedTuple):
    """What HiGHS says."""

    worth: float | None
    """`None` where no plan keeps the limits."""


def highs(
    queries: Backlog, capacities: list[Capacity], objective: Objective, *, whole: bool = False
) -> Optimum:
    """The greatest worth, with parts of queries allowed unless `whole`."""
    terms = Terms.of(queries.shape, capacities, objective, open_rows(queries))
    columns = Columns.of(queries, 0, queries.rows, objective.floor, first=0)
    worth = columns.values(terms.worth)
    taken = np.isfinite(queries.cost_usd.reshape(queries.rows, -1).T)
    row = np.nonzero(taken)[1]
    one_each = csr_matrix((np.ones(len(row)), (row, np.arange(len(row)))))
    uses = csr_matrix(
        np.array([columns.values(use)[taken] for use in terms.use]).reshape(terms.count, len(row))
    )
    has_option = np.asarray(taken.any(axis=0))[: one_each.shape[0]].astype(float)
    if whole:
        found = milp(
            -worth[taken],
            integrality=np.ones(len(row)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, has_option, has_option),
                LinearConstraint(uses, -np.inf, terms.limit),
            ],
            options={"mip_rel_gap": 1e-6, "time_limit": 20},
        )
    else:
        found = linprog(
            -worth[taken], uses, terms.limit, one_each, has_option, bounds=(0, 1), method="highs"
        )
    return Optimum(None if found.x is None else -float(found.fun))


def use_of(queries: Backlog, choice: NDArray[np.int16], capacity: Capacity) -> float:
    """What a choice uses, counted query by query."""
    lanes = queries.shape[1]
    total = 0.0
    for number, option in enumerate(choice.tolist()):
        if option == NO_OPTION:
            continue
        which, how = divmod(option, lanes)
        if capacity.options[which, how]:
            total += _measured(queries, number, which, how, capacity)
    return total


def _measured(queries: Backlog, number: int, which: int, how: int, capacity: Capacity) -> float:
    if capacity.measure == "queries":
        return 1.0
    if capacity.measure == "usd":
        return float(queries.cost_usd[number, which, how])
    counts = {
        "input_tokens": [queries.input_tokens],
        "output_tokens": [queries.output_tokens],
        "tokens": [queries.input_tokens, queries.output_tokens],
    }[capacity.measure]
    return sum(float(one[number, which]) for one in counts if one is not None)
