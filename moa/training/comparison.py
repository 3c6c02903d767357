"""What a policy would have scored and cost on recorded outcomes, beside each single model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Model
from moa.config import PolicyConfig
from moa.planning.policy import Candidates, decide
from moa.prices import PriceTable
from moa.training.dataset import Dataset

Floats = NDArray[np.float64]
LIVE = "live"
GRID = ("0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5")
"""Values of `willingness_to_pay` that are looked at, USD per unit of grade."""


class Point(NamedTuple):
    """One way of answering a set of queries."""

    name: str
    queries: int
    grade: float
    """Mean."""
    cost_usd: float
    """Sum."""


def single_models(data: Dataset, prices: PriceTable) -> list[Point]:
    """Each model alone, on the queries where its grade and tokens are known."""
    cost = recorded_cost_usd(data, prices)
    known = ~np.isnan(data.grade + cost)
    return [
        Point(
            model,
            int(known[:, n].sum()),
            float(data.grade[known[:, n], n].mean()) if known[:, n].any() else np.nan,
            float(cost[known[:, n], n].sum()),
        )
        for n, model in enumerate(data.models)
    ]


def routed(
    data: Dataset,
    models: Sequence[Model],
    prices: PriceTable,
    expected_grade: Floats,
    expected_output_tokens: Floats,
) -> list[Point]:
    """The policy at each value of `GRID`, choosing among the models whose grade and tokens on a
    query are known; queries without such a model are left out."""
    known = ~np.isnan(data.grade + recorded_cost_usd(data, prices))
    some = np.asarray(known.any(axis=1))
    data, known = data.only(some), known[some]
    expected_grade, expected_output_tokens = expected_grade[some], expected_output_tokens[some]
    cost = recorded_cost_usd(data, prices)
    input_tokens = np.nan_to_num(data.input_tokens)
    expected_cost = prices.expected_cost_usd(
        data.models, LIVE, input_tokens, expected_output_tokens
    )
    allowed = [[m for m, k in zip(data.models, row, strict=True) if k] for row in known]
    count = len(data.texts)
    candidates = Candidates.find(
        models,
        input_tokens=input_tokens,
        output_tokens=expected_output_tokens,
        max_output_tokens=[None] * count,
        abilities=[()] * count,
        allowed_models=allowed,
    )
    rows = np.arange(count)
    points = []
    for value in GRID:
        policy = PolicyConfig.model_validate({"willingness_to_pay": value})
        chosen = decide(
            candidates, expected_grade, expected_cost, np.zeros(count), policy, data.models[0]
        ).chosen
        points.append(
            Point(
                f"willingness_to_pay {value}",
                count,
                float(data.grade[rows, chosen].mean()),
                float(cost[rows, chosen].sum()),
            )
        )
    return points


def recorded_cost_usd(data: Dataset, prices: PriceTable) -> Floats:
    """What each recorded answer costs at the table's prices, shape (n, m); NaN without tokens."""
    tokens_in, tokens_out = np.nan_to_num(data.input_tokens), np.nan_to_num(data.output_tokens)
    cost = prices.expected_cost_usd(data.models, LIVE, tokens_in, tokens_out)
    return np.where(np.isnan(data.input_tokens + data.output_tokens), np.nan, cost)
