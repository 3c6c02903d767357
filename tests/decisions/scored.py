"""Scored queries out of thin air, and what decides on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from moa.catalog import AgreedPrice, Lane, Model, Rates, load_catalog
from moa.config import PolicyConfig
from moa.decisions.deciding import Deciding
from moa.prices import PriceTable
from moa.schema import SCORED_QUERIES

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
POOL = ("openai/gpt-4o", "anthropic/claude-3-haiku", "google/gemini-1.5-flash")
LARGE, HAIKU, FLASH = POOL
LANES: tuple[Lane, ...] = ("live", "flex", "batch")
EXPECTED = (
    "expected_grade", "expected_input_tokens", "expected_output_tokens", "most_output_tokens",
)  # fmt: skip
"""Columns with a value per model, empty where a row has a defect."""
PAYS = PolicyConfig(willingness_to_pay=Decimal("0.05"))
"""The policy of tests that need any."""


def flexible(model: Model) -> Model:
    """The same model, sold in all lanes; flex at 0.7 of gpt-4o's price."""
    rate = Decimal("1.75")
    rates = Rates(input=rate, output=4 * rate, cached_input=rate, cache_write=rate)
    price = AgreedPrice("flex", (rates,), "made up")
    return replace(model, lanes=LANES, prices=(*model.prices, price))


MODELS = (
    flexible(CATALOG.models[LARGE]),
    CATALOG.models[HAIKU],
    replace(CATALOG.models[FLASH], lanes=("live",)),
)
"""One that is sold in all lanes, one live and in batches, one live only."""
PRICES = PriceTable.build(MODELS)


def deciding(policy: PolicyConfig = PAYS, *, default: str = LARGE) -> Deciding:
    return Deciding(MODELS, policy, PRICES, "router-1", default)


def scored(count: int = 1, /, **columns: Sequence[Any]) -> pa.Table:
    """`SCORED_QUERIES` of like queries, but for these columns.

    Args:
        count: how many.
        columns: a value per query; of what is expected, a list per query.
    """
    usual: dict[str, Any] = {
        "partition": 0, "request": "{}", "abilities": [], "max_output_tokens": None,
        "allowed_models": None, "allowed_lanes": None, "min_grade": None, "tags": [],
        "reference": None, "followers": [], "defect": None, "expected_grade": [0.9, 0.5, 0.6],
        "expected_input_tokens": [100.0, 110.0, 120.0],
        "expected_output_tokens": [200.0, 210.0, 220.0],
        "most_output_tokens": [400.0, 410.0, 420.0], "novelty": 0.1,
    }  # fmt: skip
    rows = [
        {
            "query_id": f"q{n}",
            "row": n,
            **usual,
            **{name: values[n] for name, values in columns.items()},
        }
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=SCORED_QUERIES)


def random_scores(count: int, seed: int) -> pa.Table:
    """Queries of unlike difficulty, length and novelty, with wishes here and there; some have a
    defect. Grades are whole thousandths, so that some are equal.
    """
    random = np.random.default_rng(seed)
    models = len(POOL)
    defect = random.random(count) < 0.05
    grades = np.round(random.random((count, models)), 3)
    tokens = np.round(random.lognormal(5, 1, (3, count, models)) + 1)

    def lists(values: np.ndarray) -> list[list[float]]:
        return [[] if bad else row for bad, row in zip(defect, values.tolist(), strict=True)]

    def some(share: float, values: Sequence[Any]) -> list[Any]:
        picks = random.integers(0, len(values), count)
        return [
            values[pick] if wanted else None
            for wanted, pick in zip(random.random(count) < share, picks, strict=True)
        ]

    return scored(
        count,
        defect=["prompt_missing: it is null" if bad else None for bad in defect],
        expected_grade=lists(grades),
        expected_input_tokens=lists(tokens[0]),
        expected_output_tokens=lists(tokens[1]),
        most_output_tokens=lists(tokens[1] + tokens[2]),
        novelty=random.random(count).tolist(),
        max_output_tokens=some(0.2, [1, 50, 10_000]),
        allowed_models=some(0.2, [[LARGE], [HAIKU, FLASH], ["other/model"]]),
        allowed_lanes=some(0.2, [["live"], ["live", "batch"], ["flex", "live"]]),
        min_grade=some(0.2, [0.0, 0.5, 0.95]),
    )
