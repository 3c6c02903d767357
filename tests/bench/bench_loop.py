"""Does weighing by propensity help a router that learns from a deployed router's log?

    python -m tests.bench.bench_loop [--smoke]

Recorded queries on which every model was graded play the traffic, so that the truth is known. A
router that was trained on a tenth of them routes six tenths, with a share explored, and of each of
these queries the chosen model's grade is all that is kept. Routers are trained on that log with
weights up to several bounds (1: each grade counts once), and on all grades of the same queries.
Each is judged on the queries that are left, by log loss and by what its choices are worth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.intervals import Resamples
from moa.planning.exploration import Exploration
from moa.router.predictor import Predictor
from moa.training.backbone import HashingConfig, open_for_training
from moa.training.data_look import effective
from moa.training.dataset import EVERY_SPLIT, Dataset, read_dataset
from moa.training.fit import Reading, fit
from tests.bench.results import record

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
POOL = (
    "openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude-3.5-sonnet", "google/gemini-1.5-pro",
    "google/gemini-1.5-flash",
)  # fmt: skip
USD = np.array([0.0050, 0.0003, 0.0060, 0.0025, 0.00015])
"""About what an answer of each costs; all queries alike, so that grades decide."""
WORTH_USD = 0.05
BOUNDS = (1.0, 3.0, 10.0, 100.0)
FULL = "every grade"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one router on held-out queries, shape (n,) each."""

    log_loss: Floats
    worth: Floats
    """Grade less cost, in grades."""


def main() -> None:
    """Print the figures of each share, and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one draw, small")
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    buckets, draws, shares = (64, 1, [0.3]) if options.smoke else (1024, options.draws, [0.05, 0.2])
    data = read_dataset("moa/recordings", POOL, split=EVERY_SPLIT)
    known = np.isfinite(data.grade + data.output_tokens).all(axis=1)
    data = data.only(np.flatnonzero(known))
    reading = open_for_training(HashingConfig(buckets=buckets), artifact=Path()).read(data.texts)
    told = {str(share): of_share(data, reading, share, draws) for share in shares}
    if options.smoke:
        print("a smoke run: nothing is recorded")
    else:
        record("loop", {"queries": len(data.texts), "draws": draws, "shares": told})


def of_share(data: Dataset, reading: Reading, share: float, draws: int) -> dict[str, Any]:
    """Figures of all routers, and their differences to the one without weights."""
    each: dict[str, list[Judgement]] = {}
    sizes = []
    for seed in range(draws):
        judged, size = one_draw(data, reading, share, seed)
        sizes.append(size)
        for name, one in judged.items():
            each.setdefault(name, []).append(one)
    merged = {
        name: (
            np.concatenate([one.log_loss for one in mine]),
            np.concatenate([one.worth for one in mine]),
        )
        for name, mine in each.items()
    }
    base = merged["up to 1"]
    print(
        f"\nexplored {share:.0%}; weights up to 100 leave {np.mean(sizes):.0%} of the grades' worth"
    )
    print(f"{'trained on':14}{'log loss':>10}{'difference':>28}{'worth':>9}{'difference':>28}")
    told: dict[str, Any] = {}
    for name, (loss, worth) in merged.items():
        by_loss, by_worth = _difference(loss - base[0]), _difference(worth - base[1])
        told[name] = {
            "log_loss": round(float(loss.mean()), 4), "log_loss_difference": by_loss,
            "worth": round(float(worth.mean()), 4), "worth_difference": by_worth,
        }  # fmt: skip
        print(f"{name:14}{loss.mean():10.4f}{by_loss!s:>28}{worth.mean():9.4f}{by_worth!s:>28}")
    return told


def one_draw(
    data: Dataset, reading: Reading, share: float, seed: int
) -> tuple[dict[str, Judgement], float]:
    """Routers of one division of the queries, and how much of the log's grades weights leave."""
    places = np.random.default_rng(seed).random(len(data.texts))
    first, night, rest = places < 0.1, (places >= 0.1) & (places < 0.7), places >= 0.7
    deployed = predict(data.only(first), reading.only(first), reading.only(night))
    traffic = data.only(night)
    chosen, propensity = route(traffic, deployed, share, seed)
    weight = 1 / propensity
    log = only_chosen(traffic, chosen)
    judged = {}
    for bound in BOUNDS:
        weights = np.where(np.isnan(log.grade), np.nan, np.minimum(weight, bound)[:, None])
        mine = log if bound == 1 else replace(log, weight=weights)
        found = predict(mine, reading.only(night), reading.only(rest))
        judged[f"up to {bound:g}"] = judge(found, data.grade[rest])
    judged[FULL] = judge(
        predict(traffic, reading.only(night), reading.only(rest)), data.grade[rest]
    )
    return judged, effective(np.minimum(weight, max(BOUNDS))) / len(weight)


def predict(data: Dataset, reading: Reading, asked: Reading) -> Floats:
    """Expected grades of some queries by a router that is fitted on others."""
    tensors = fit(data, reading, folds=5).tensors
    return np.asarray(Predictor(tensors)(*asked, range(len(POOL))).grade, np.float64)


def best(expected: Floats) -> Ints:
    """Whom the policy asks."""
    return np.asarray((expected - USD / WORTH_USD).argmax(axis=1))


def route(data: Dataset, expected: Floats, share: float, seed: int) -> tuple[Ints, Floats]:
    """Who is asked, and with which probability."""
    exploration = Exploration(share, seed)
    options = np.ones(expected.shape, bool)
    drawn, preferred = exploration.draw(data.query_ids, options), best(expected)
    chosen = np.where(drawn >= 0, drawn, preferred)
    return chosen, exploration.propensity(options, preferred, chosen)


def only_chosen(data: Dataset, chosen: Ints) -> Dataset:
    """What a log keeps: of each query one model's grade and tokens."""
    kept = np.arange(len(POOL)) == chosen[:, None]

    def of(values: Floats) -> Floats:
        return np.where(kept, values, np.nan)

    return replace(
        data,
        grade=of(data.grade),
        input_tokens=of(data.input_tokens),
        output_tokens=of(data.output_tokens),
        other_grade=np.empty((len(chosen), 0)),
    )


def judge(expected: Floats, grade: Floats) -> Judgement:
    """By the true grades of all models."""
    sure = np.clip(expected, 1e-3, 1 - 1e-3)
    loss = -(grade * np.log(sure) + (1 - grade) * np.log(1 - sure)).mean(axis=1)
    asked, rows = best(expected), np.arange(len(grade))
    return Judgement(loss, grade[rows, asked] - USD[asked] / WORTH_USD)


def _difference(values: Floats) -> list[float]:
    """Mean, and its 95 % interval over queries."""
    found = Resamples({"d": values}, seed=0, replicates=1000).interval(lambda means: means["d"])
    return [round(one, 4) for one in (found.value, found.low, found.high)]


if __name__ == "__main__":
    main()
