"""Logs of a deployed router, drawn from recordings in which each model has answered each query."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from moa.catalog import load_catalog
from moa.evaluation.judged import Judged
from moa.evaluation.off_policy import Floats, Ints, Logged
from moa.prices import PriceTable
from moa.router.router import Router
from moa.training.dataset import EVERY_SPLIT, read_dataset
from moa.training.judge import answered_by_all, judge, read_domains

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "moa/recordings"
P3 = ("openai/gpt-4o", "anthropic/claude-3.5-sonnet", "google/gemini-1.5-pro")
P6 = (*P3, "openai/gpt-4o-mini", "anthropic/claude-3-haiku", "google/gemini-1.5-flash")


def recorded(pool: tuple[str, ...]) -> Judged:
    """What all of a pool have answered, of every split, as the embedded router expects it."""
    catalog = load_catalog(ROOT / "jobs/configs/demo_catalog.toml")
    prices = PriceTable.build([catalog.models[name] for name in pool])
    data = read_dataset(RECORDINGS, pool, split=EVERY_SPLIT)
    data = data.only(answered_by_all(data, pool))
    scores = Router.load("moa/router/embedded").score(data.texts, pool)
    domains = read_domains(RECORDINGS, data)
    return judge(data, scores, pool, prices, best_constant=pool[0], domains=domains)


class Night(NamedTuple):
    """A log, and which of the recorded queries it is of."""

    logged: Logged
    rows: Ints


def night(truth: Judged, decided: Ints, *, share: float, queries: int, seed: int) -> Night:
    """Queries drawn with replacement; each goes where it was decided, or by exploration anywhere.

    Args:
        truth: n recorded queries.
        decided: by the deployed router, shape (n,).
        share: that is explored.
        queries: how many are drawn.
        seed: of the draw.
    """
    random, models = np.random.default_rng(seed), len(truth.pool)
    rows = random.integers(truth.queries, size=queries)
    own = decided[rows]
    asked = np.where(random.random(queries) < share, random.integers(models, size=queries), own)
    drawn = np.where(asked == own, 1 - share + share / models, share / models)
    there = np.arange(models) == asked[:, None]
    return Night(
        Logged(
            truth.pool,
            tuple(truth.domains[row] for row in rows.tolist()),
            tuple(map(str, range(queries))),
            np.where(there, truth.grade[rows], np.nan),
            np.where(there, truth.cost_usd[rows], np.nan),
            np.where(there, drawn[:, None], np.nan),
        ),
        rows,
    )


def worth(truth: Judged, willingness_to_pay: float) -> Floats:
    """What each answer is worth, in USD per 1,000, shape (n, m)."""
    return 1000 * (willingness_to_pay * truth.grade - truth.cost_usd)
