"""The joint plan against deciding each query by a threshold, at equal spend, on recorded grades.

`python -m tests.bench.bench_plan` scores the demo's queries that all six models have answered, and
spends five budgets in each of these ways:

- threshold: the strong model where its expected grade exceeds the weak one's by more than a
  threshold, which is set so that the budget is spent; RouteLLM's way, with the pool's best single
  model and its cheapest;
- allowance: the best expected grade among the models that cost no more than an allowance per
  query, which is set likewise; an online router's way with all six models;
- plan: the joint plan, live;
- plan with batches: the same, where half of the queries may wait for a batch at half the price.

Spend is what was expected when it was decided; what was really spent stands beside it. Grades are
the recorded ones. Intervals are 95 %, by a paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moa.catalog import load_catalog
from moa.config import load_config
from moa.evaluation.judged import Judged
from moa.planning.capacity import Backlog, Capacity, Objective
from moa.planning.planner import plan
from moa.planning.remedies import Infeasible
from moa.prices import PriceTable
from moa.router.router import Router
from moa.training.dataset import read_dataset
from moa.training.judge import judge
from tests.bench.results import record

BUDGETS = (0.05, 0.15, 0.3, 0.5, 0.8)
"""Of the way from the cheapest model's cost to the best single model's."""
MAY_WAIT = 0.5
REPLICATES = 2000

Choice = NDArray[np.intp]
Floats = NDArray[np.float64]


def judged_demo() -> Judged:
    """The demo's queries that all models of its pool have answered, as the router expects them."""
    config = load_config("jobs/configs/demo.toml")
    models = load_catalog(config.catalog).of(config.pool, key="pool", path=config.catalog)
    data = read_dataset(Path("moa/recordings"), config.pool, split="demo")
    router = Router.load(config.router.artifact)
    scores = router.score(list(data.texts), config.pool)
    prices = PriceTable.build(models)
    best = "anthropic/claude-3.5-sonnet"  # on the router's training data
    return judge(data, scores, config.pool, prices, best_constant=best)


def spent(judged: Judged, decide: Callable[[float], Choice], budget_usd: float) -> Choice:
    """The choices by the threshold that spends the most within a budget."""
    costs = judged.expected_cost_usd
    rows = np.arange(len(costs))
    best, best_usd = decide(1.0), -1.0
    for threshold in np.linspace(-1, 1, 4001):
        choice = decide(float(threshold))
        usd = float(costs[rows, choice].sum())
        if best_usd < usd <= budget_usd:
            best, best_usd = choice, usd
    return best


def by_threshold(judged: Judged, budget_usd: float) -> Choice:
    """Two models, as RouteLLM."""
    strong = judged.best_constant
    weak = int(judged.expected_cost_usd.mean(axis=0).argmin())
    gain = judged.expected_grade[:, strong] - judged.expected_grade[:, weak]
    return spent(judged, lambda least: np.where(gain > least, strong, weak), budget_usd)


def by_allowance(judged: Judged, budget_usd: float) -> Choice:
    """All models, each query with the same allowance."""
    cost, grade = judged.expected_cost_usd, judged.expected_grade
    dearest = np.log(cost.max())
    cheapest = np.log(cost.min())

    def decide(position: float) -> Choice:
        most_usd = np.exp(cheapest + (dearest - cheapest) * (position + 1) / 2)
        affordable = np.where(cost <= most_usd, grade, -1.0)
        return np.asarray(
            np.where(cost.min(axis=1) > most_usd, cost.argmin(axis=1), affordable.argmax(axis=1))
        )

    return spent(judged, decide, budget_usd)


def by_plan(
    judged: Judged, budget_usd: float, *, may_wait: bool
) -> tuple[Choice, NDArray[np.bool_]]:
    """The joint plan, and which queries it buys in batches."""
    n, m = judged.expected_cost_usd.shape
    lanes = 2 if may_wait else 1
    cost = np.repeat(judged.expected_cost_usd[:, :, None], lanes, axis=2)
    if may_wait:
        cost[:, :, 1] *= 0.5
        waits = np.random.default_rng(0).random(n) < MAY_WAIT
        cost[~waits, :, 1] = np.inf
    backlog = Backlog(judged.expected_grade.astype(np.float32), cost.astype(np.float32))
    budget = Capacity("budget", "usd", np.ones((m, lanes), np.bool_), budget_usd)
    made = plan(backlog, [budget], Objective(1.0, usd_weight=0.0))
    assert not isinstance(made, Infeasible), made
    return (made.choice // lanes).astype(np.intp), np.asarray(made.choice % lanes == 1)


def main() -> None:
    """Print the table and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-record", action="store_true", help="append nothing to results.jsonl")
    arguments = parser.parse_args()
    judged = judged_demo()
    rows = np.arange(judged.queries)
    sums = judged.expected_cost_usd.sum(axis=0)
    low_usd, high_usd = float(sums.min()), float(sums[judged.best_constant])
    print(f"{judged.queries} queries, six models; mean recorded grade (spent USD)")
    print(f"{'budget':>9} {'threshold':>17} {'allowance':>17} {'plan':>17} {'with batches':>17}"
          "   plan less threshold       plan less allowance")  # fmt: skip
    figures = []
    for share in BUDGETS:
        budget_usd = low_usd + share * (high_usd - low_usd)
        joint, _ = by_plan(judged, budget_usd, may_wait=False)
        waiting, batched = by_plan(judged, budget_usd, may_wait=True)
        choices = {
            "threshold": by_threshold(judged, budget_usd),
            "allowance": by_allowance(judged, budget_usd),
            "plan": joint,
            "with_batches": waiting,
        }
        grades = {name: judged.grade[rows, choice] for name, choice in choices.items()}
        usd = {name: judged.cost_usd[rows, choice] for name, choice in choices.items()}
        usd["with_batches"] = usd["with_batches"] * np.where(batched, 0.5, 1.0)
        gains = {
            name: _interval(grades["plan"] - grades[name]) for name in ("threshold", "allowance")
        }
        cells = " ".join(
            f"{grades[name].mean():>8.4f} (${usd[name].sum():.3f})" for name in choices
        )
        told = "   ".join(
            f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" for mean, low, high in gains.values()
        )
        print(f"${budget_usd:>8.4f} {cells}   {told}")
        figures.append(
            {
                "budget_usd": round(budget_usd, 4),
                **{f"{name}_grade": round(float(grades[name].mean()), 4) for name in choices},
                **{f"{name}_usd": round(float(usd[name].sum()), 4) for name in choices},
                **{
                    f"plan_less_{name}": [round(v, 4) for v in gain] for name, gain in gains.items()
                },
            }
        )
    if not arguments.no_record:
        record("plan", {"queries": judged.queries, "budgets": figures})


def _interval(differences: Floats) -> tuple[float, float, float]:
    """Mean, and where 95 % of resampled means lie."""
    drawn = np.random.default_rng(0).integers(0, len(differences), (REPLICATES, len(differences)))
    means = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
