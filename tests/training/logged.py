"""An outcome table whose truth is known: short questions are easy, each was asked of one model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa

from moa.schema import LOGGED_GRADES, LOGGED_QUERIES
from moa.storage.outcome_table import Night, OutcomeTable

MODELS = ("v/good", "v/cheap")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
EXPLORED = 0.1
"""Probability with which `v/good` is asked a short question, and `v/cheap` a long one."""


def prompt(number: int, night: int, *, long_one_in: int = 2) -> str:
    """Those whose number `long_one_in` does not divide are short."""
    about = f"case {number * 7919 % 10007} of night {night}"
    if number % long_one_in:
        return f"Is {about} even?"
    return f"Prove for all of {about} that " + "it holds " * 30


def nights(
    url: str,
    models: tuple[str, ...] = MODELS,
    *,
    each: int = 300,
    count: int = 2,
    long_one_in: int = 2,
) -> None:
    """Write some nights; what was decided follows from how long a question is, but for a tenth."""
    for night in range(count):
        random = np.random.default_rng(night)
        queries, grades = [], []
        for number in range(each):
            short = bool(number % long_one_in)
            explored = bool(random.random() < EXPLORED)
            asked = models[-1] if short != explored else models[0]
            likely = (0.95 if short else 0.6) if asked == "v/good" else (0.9 if short else 0.1)
            text = prompt(number, night, long_one_in=long_one_in)
            ids = {"query_id": f"n{night}/q{number}", "run_id": f"n{night}"}
            queries.append({**ids, "prompt": text, "source": "s", "tags": ["s"]})
            grades.append(
                {
                    **ids, "model": asked, "grade": float(random.random() < likely),
                    "input_tokens": 20, "output_tokens": 10 if short else 200, "grader": "exact/1",
                    "propensity": EXPLORED if explored else 1 - EXPLORED, "rule": "best_value",
                    "router_version": "r", "cost_usd": Decimal(0),
                    "graded_at": NOON + timedelta(days=night),
                }
            )  # fmt: skip
        kept = [name for name in LOGGED_QUERIES.names if name not in ("split", "duplicate_group")]
        schema = pa.schema([LOGGED_QUERIES.field(name) for name in kept])
        OutcomeTable(url).write(
            Night(f"n{night}", datetime(2026, 11, 24, tzinfo=UTC) + timedelta(days=night)),
            pa.Table.from_pylist(queries, schema=schema),
            pa.Table.from_pylist(grades, schema=LOGGED_GRADES),
            held_out_share=0.2,
        )
