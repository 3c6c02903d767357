"""Do estimates from logs say what a router would have earned? Recordings know, logs drawn of them
do not.

    python -m tests.bench.bench_off_policy --logs 200

The embedded router at one price of quality has made the log, with a share of exploration; asked is
what it would have earned at another. Told of each share: the estimate's bias in its standard
errors, its spread, how often the 95 % interval held the truth, and how often all of it was above.
"""

from __future__ import annotations

import argparse
from decimal import Decimal
from typing import Any

import numpy as np

from moa.evaluation.judged import Judged, at
from moa.evaluation.off_policy import Draws, difference, value, worths
from moa.intervals import Interval
from tests.bench.results import record
from tests.evaluation.logs import P3, P6, night, recorded, worth
from tests.evaluation.made import POLICY

PRICE = 0.05
NIGHTS = (
    (P3, 0.02, 2000), (P3, 0.05, 2000), (P3, 0.1, 2000),
    (P6, 0.1, 1000), (P6, 0.15, 2000), (P6, 0.3, 2000), (P6, 1.0, 700),
)  # fmt: skip
"""Pool, share that is explored, queries."""


def main() -> None:
    """Draw, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=200)
    logs = parser.parse_args().logs
    told: list[dict[str, Any]] = []
    truths = {pool: recorded(pool) for pool in (P3, P6)}
    print(
        f"{'models':>6} {'explored':>8} {'queries':>7} {'evidence':>8} {'effective':>9} "
        f"{'of':14} {'truth':>8} {'bias/se':>8} {'spread':>8} {'held':>6} {'above':>6}"
    )
    for pool, share, queries in NIGHTS:
        found = coverage(truths[pool], share, queries, logs)
        told.append({"models": len(pool), "share": share, "queries": queries, **found})
        for name, one in found["of"].items():
            print(
                f"{len(pool):6} {share:8g} {queries:7} {found['evidence']:8.0f} "
                f"{found['effective']:9.0f} {name:14} {one['truth']:8.3f} {one['bias']:8.2f} "
                f"{one['spread']:8.3f} {one['held']:6.3f} {one['above']:6.3f}"
            )
    record("off_policy", {"logs": logs, "nights": told})


def coverage(truth: Judged, share: float, queries: int, logs: int) -> dict[str, Any]:
    """One kind of night, drawn many times."""
    decided, candidate = (
        truth.decide(at(POLICY, Decimal(price))).chosen for price in ("0.01", "0.1")
    )
    earned, rows = worth(truth, PRICE), np.arange(truth.queries)
    real = {
        "value": earned[rows, candidate].mean(),
        "less current": (earned[rows, candidate] - earned[rows, decided]).mean(),
        "less constant": (earned[rows, candidate] - earned[:, 0]).mean(),
    }
    found: dict[str, list[Interval | None]] = {name: [] for name in real}
    evidence, effective = [], []
    for seed in range(logs):
        log, drawn = night(truth, decided, share=share, queries=queries, seed=seed)
        scores, draws, mine = worths(log), Draws(PRICE, seed, 400), candidate[drawn]
        alone = value(scores, mine, draws)
        against = difference(scores, mine, decided[drawn], draws)
        found["value"].append(alone.worth_usd)
        found["less current"].append(against.worth_usd)
        found["less constant"].append(difference(scores, mine, 0 * mine, draws).worth_usd)
        evidence.append(min(against.evidence))
        effective.append(alone.effective)
    return {
        "evidence": float(np.mean(evidence)),
        "effective": float(np.mean(effective)),
        "of": {name: figures(real[name], found[name]) for name in real},
    }


def figures(truth: float, found: list[Interval | None]) -> dict[str, float]:
    """Of one estimate."""
    rows = np.array([(one.value, one.low, one.high) for one in found if one is not None])
    spread = float(rows[:, 0].std())
    return {
        "truth": float(truth),
        "bias": float((rows[:, 0].mean() - truth) / (spread / np.sqrt(len(rows)))),
        "spread": spread,
        "held": float(((rows[:, 1] <= truth) & (truth <= rows[:, 2])).mean()),
        "above": float((rows[:, 1] > truth).mean()),
    }


if __name__ == "__main__":
    main()
