"""What notices a query from elsewhere: looks compared on sources that were left out of training.

    python -m tests.bench.bench_novelty

Each source of the recordings' `train` split is left out in turn, and so is the last fold of the
others, whose queries are familiar ones that nothing was fitted on. Every look tells the share of
training queries that are less novel. Told of each: which share of the strangers is above 0.95 and
0.98, and how well it tells strangers from familiar ones (AUROC). The familiar are mostly mmlu-pro;
`AUROC, even` weighs them by `balance`, so that those of every source count.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.router.blocks import in_blocks
from moa.router.features import Floats32
from moa.router.novelty import Novelty, _share_below, distances
from moa.training.fit import Reading, balance
from moa.training.novelty import fit_novelty
from tests.bench.heads.cross_validation import FOLDS, Recordings
from tests.bench.heads.lesson import Lesson
from tests.bench.results import record

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Look = Callable[[Reading, Floats32], Floats]
"""A reading and its features → novelty, shape (n,)."""

NEIGHBOURS = 10
ABOVE = (0.95, 0.98)


def main() -> None:
    """Leave out each source, print, record."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    importlib.import_module("threadpoolctl").threadpool_limits(1)
    given = Recordings.load()
    told: dict[str, Any] = {}
    print(
        f"{'left out':24} {'look':14} {'> 0.95':>8} {'> 0.98':>8} {'AUROC':>8} {'even':>8}"
        f" {'familiar':>8} queries/s"
    )
    for source in sorted(set(given.data.sources)):
        told[source] = left_out(given, source)
        for look, found in told[source].items():
            tell(source, look, found)
    looks = list(next(iter(told.values())))
    told["mean"] = {
        look: {
            figure: round(float(np.mean([one[look][figure] for one in told.values()])), 4)
            for figure in told[source][look]
        }
        for look in looks
    }
    for look in looks:
        tell("mean", look, told["mean"][look])
    record("novelty", {"left_out": told})


def tell(source: str, look: str, found: Mapping[str, float]) -> None:
    """A row; `familiar` is the share of familiar queries above 0.95."""
    *shares, rate = found.values()
    print(f"{source:24} {look:14}", *(f"{value:8.3f}" for value in shares), f"{rate:9,.0f}")


def left_out(given: Recordings, source: str) -> dict[str, dict[str, float]]:
    """Figures of each look at one source."""
    data, reading = given.data, given.reading
    strange = np.array([one == source for one in data.sources])
    held_out = ~strange & (data.folds(FOLDS) == FOLDS - 1)
    taught = ~strange & ~held_out
    lesson = Lesson.prepare(data.only(taught), reading.only(taught), FOLDS)
    names = {one: n for n, one in enumerate(sorted(set(data.only(held_out).sources)))}
    weight = balance(np.array([names[one] for one in data.only(held_out).sources]))
    told = {}
    for name, look in looks(lesson).items():
        started = time.process_time()
        there, here = (
            look(part, lesson.features(*part))
            for part in (reading.only(strange), reading.only(held_out))
        )
        seconds = time.process_time() - started
        told[name] = {
            **{f"above_{limit:g}": round(float((there > limit).mean()), 4) for limit in ABOVE},
            "auroc": round(auroc(there, here, np.ones(len(here))), 4),
            "auroc_even": round(auroc(there, here, weight), 4),
            "familiar_above_0.95": round(float((here > ABOVE[0]).mean()), 4),
            "queries_per_s": round((len(there) + len(here)) / max(seconds, 1e-9)),
        }
    return told


def looks(lesson: Lesson) -> dict[str, Look]:
    """Topic and shape alone, both as the router has them, and the distance to neighbours."""
    novelty = fit_novelty(
        lesson.reading.embeddings,
        lesson.x,
        lesson.domains.of_query,
        lesson.weight,
        lesson.fold,
    )
    usual, whose = _nearest_of_other_folds(lesson)

    def both(reading: Reading, features: Floats32) -> Floats:
        return np.asarray(novelty(reading.embeddings, features), np.float64)

    def neighbours(reading: Reading, features: Floats32) -> Floats:
        distance, _ = _nearest(features, lesson.x)
        return np.searchsorted(np.sort(usual), distance) / len(usual)

    def neighbours_by_domain(reading: Reading, features: Floats32) -> Floats:
        distance, place = _nearest(features, lesson.x)
        nearest, out = lesson.domains.of_query[place], np.empty(len(distance))
        for domain in np.unique(nearest):
            mine, theirs = nearest == domain, np.sort(usual[whose == domain])
            out[mine] = np.searchsorted(theirs, distance[mine]) / max(len(theirs), 1)
        return out

    return {
        "topic": partial(_topic, novelty),
        "shape": partial(_shape, novelty),
        "both": both,
        "kNN": neighbours,
        "kNN by domain": neighbours_by_domain,
    }


def _topic(novelty: Novelty, reading: Reading, features: Floats32) -> Floats:
    similarity = in_blocks(reading.embeddings, novelty.centres)
    nearest, closest = similarity.argmax(axis=1), similarity.max(axis=1)
    return np.asarray(1 - _share_below(closest, nearest, novelty.similarity))


def _shape(novelty: Novelty, reading: Reading, features: Floats32) -> Floats:
    distance = distances(in_blocks(features, novelty.directions), novelty.whitening)
    return _share_below(distance.min(axis=1), distance.argmin(axis=1), novelty.distance)


def _nearest_of_other_folds(lesson: Lesson) -> tuple[Floats, Ints]:
    """Distance of each training query, and the domain of its nearest neighbour."""
    distance, domain = np.empty(len(lesson.x)), np.empty(len(lesson.x), np.intp)
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        distance[mine], place = _nearest(lesson.x[mine], lesson.x[~mine])
        domain[mine] = lesson.domains.of_query[~mine][place]
    return distance, domain


def _nearest(x: Floats32, among: Floats32) -> tuple[Floats, Ints]:
    """1 less the mean cosine with the nearest `NEIGHBOURS`, and the place of the nearest; shapes
    (n,)."""
    ones, others = (
        part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-9))
        for part in (x, among)
    )
    distance, place = np.empty(len(x)), np.empty(len(x), np.intp)
    for start in range(0, len(x), 1000):
        similarity = ones[start : start + 1000] @ others.T
        nearest = np.partition(similarity, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        distance[start : start + 1000] = 1 - nearest.mean(axis=1)
        place[start : start + 1000] = similarity.argmax(axis=1)
    return distance, place


def auroc(strange: Floats, familiar: Floats, weight: Floats) -> float:
    """How likely a stranger looks more novel than a familiar query, a tie counting half.

    Args:
        strange: novelties.
        familiar: novelties.
        weight: of the familiar.
    """
    order = np.argsort(familiar, kind="stable")
    below = np.concatenate([[0], np.cumsum(weight[order])])
    left = below[np.searchsorted(familiar[order], strange, "left")]
    right = below[np.searchsorted(familiar[order], strange, "right")]
    return float(((left + right) / 2).mean() / weight.sum())


if __name__ == "__main__":
    main()
