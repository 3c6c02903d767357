"""Small sets of judged queries, made by hand or by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moa.config import PolicyConfig
from moa.evaluation.frontier import sweep
from moa.evaluation.judged import Floats, Judged
from moa.evaluation.metrics import Metrics, metrics

POOL = ("v/cheap", "v/dear")
POLICY = PolicyConfig.model_validate({"willingness_to_pay": "0.05"})
QUALITY = PolicyConfig.model_validate({"willingness_to_pay": "1000000"})


def judged(
    grade: Sequence[Sequence[float]],
    cost_usd: Sequence[Sequence[float]] | Sequence[float],
    expected_grade: Sequence[Sequence[float]] | None = None,
    *,
    pool: Sequence[str] = POOL,
    best_constant: int = -1,
    novelty: Sequence[float] | None = None,
    sources: Sequence[str] | None = None,
) -> Judged:
    """Costs may be one per model; the router expects what is true unless told otherwise."""
    grades = np.array(grade, np.float64)
    costs = np.broadcast_to(np.array(cost_usd, np.float64), grades.shape).copy()
    named = tuple(sources or ["s"] * len(grades))
    return Judged(
        pool=tuple(pool),
        sources=named,
        domains=named,
        grade=grades,
        cost_usd=costs,
        expected_grade=grades if expected_grade is None else np.array(expected_grade, np.float64),
        expected_cost_usd=costs,
        novelty=np.zeros(len(grades)) if novelty is None else np.array(novelty, np.float64),
        best_constant=best_constant % len(pool),
    )


def by_chance(seed: int, *, queries: int = 200, models: int = 3, insight: float = 0.5) -> Judged:
    """Dearer models are right more often; the router knows some of each query's odds."""
    random = np.random.default_rng(seed)
    base = np.linspace(0.5, 0.8, models)
    odds = np.clip(base + random.normal(0, 0.25, (queries, models)), 0.02, 0.98)
    grade = (random.random((queries, models)) < odds).astype(float)
    known: Floats = np.clip(insight * odds + (1 - insight) * base, 0, 1)
    cost = np.geomspace(1e-4, 5e-3, models) * random.uniform(0.5, 1.5, (queries, 1))
    return judged(
        grade.tolist(), cost.tolist(), known.tolist(),
        pool=[f"v/m{n}" for n in range(models)],
        novelty=random.random(queries).tolist(),
        sources=[("s", "t")[n % 2] for n in range(queries)],
    )  # fmt: skip


def measure(data: Judged, policy: PolicyConfig = POLICY, *, replicates: int = 100) -> Metrics:
    """All figures, with few draws."""
    return metrics(data, sweep(data, policy), policy, regret_at=(0.05,), replicates=replicates)
