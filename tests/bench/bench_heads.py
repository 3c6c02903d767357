"""Heads compared: ours against what else could be made of the same features and grades.

    python -m tests.bench.bench_heads                        # all; 15 minutes of one core
    python -m tests.bench.bench_heads --only knn networks    # some, beside ours
    python -m tests.bench.bench_heads --every 8              # on an eighth of the queries

Every figure is of the recordings' `train` split, each query answered by a head that was fitted on
other folds; nothing is fitted or chosen on `demo`. Costs are expected as ours expect them whatever
the head, and nobody abstains, so that heads differ in grades alone. Differences are to ours, on the
same queries, with paired bootstrap intervals (95 %). Times are CPU seconds on one core.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from moa.router import features as feature_weights
from tests.bench.heads import rebuilt
from tests.bench.heads.boosting import boosting
from tests.bench.heads.cross_validation import (
    Candidate,
    Read,
    Recordings,
    Trained,
    cross_validated,
    train,
)
from tests.bench.heads.figures import OURS, flips, losses, routing
from tests.bench.heads.lesson import Answer, Head, Lesson, Quiz, source_mean, timed
from tests.bench.heads.logistic import logistic
from tests.bench.heads.low_rank import low_rank
from tests.bench.heads.neighbours import neighbours
from tests.bench.heads.networks import networks
from tests.bench.heads.rebuilt import Recipe, setting
from tests.bench.results import record

HEADS: Mapping[str, Head] = {
    "source": source_mean,
    "logistic": logistic,
    "knn": neighbours,
    "boosting": boosting,
    "networks": networks,
    "low_rank": low_rank,
    "variants": rebuilt.variants,
}
MIX = (OURS, "gradient boosting", "MLP ensemble")
TRAINED = ("chatter", "capitals")
GROUPS = (*HEADS, *TRAINED, "trials")

OPENINGS = (
    "Hey,", "Hi! Quick question.", "Good evening,", "Hello there, hope this finds you well.",
    "Sorry to bother you, but I am stuck with this one.", "I need some assistance, please.",
    "Would you mind looking into this?", "Here is something that I have been wondering about.",
)  # fmt: skip
CLOSINGS = (
    "Thanks!", "Cheers.", "I'd be glad of any help.", "Much obliged.", "Have a nice day!",
    "Let me know if anything is unclear.", "Thanks for your time.", "Best wishes",
)  # fmt: skip
"""Other words than those of `moa.evaluation.perturbations`, by which flips are counted."""


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th query only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("threadpoolctl").threadpool_limits(1)
    given = Recordings.load().every(options.every)
    ours = train(given.data, given.reading)
    found = {OURS: Candidate(ours.held_out.grade, ours.fit_s, ours.predict_s)}
    for name in options.only:
        if name in HEADS:
            found |= cross_validated(given, HEADS[name])
            print(f"{name} done", flush=True)
    if all(name in found for name in MIX):
        mean = np.mean([found[name].grade for name in MIX], axis=0)
        found["mean of ours, boosting and MLPs"] = Candidate(mean, 0, 0)
    figures: dict[str, Any] = {"replicates": options.replicates, "every": options.every}
    trained = {OURS: ours} | {name: also(name, given) for name in options.only if name in TRAINED}
    for name, one in trained.items():
        said = name if name == OURS else f"ours, {name}"
        found[said] = Candidate(one.held_out.grade, one.fit_s, one.predict_s)
    figures["losses"] = losses(given.data, found, options.replicates)
    tell_losses(figures["losses"], found, len(given.data.texts))
    for pool in given.pools:
        figures[pool] = routing(given, pool, ours, found, options.replicates)
        tell_routing(pool, figures[pool])
    if len(trained) > 1:
        figures["flips"] = {
            name: flips(reader(name, given), given, one) for name, one in trained.items()
        }
        tell_flips(figures["flips"])
    if "trials" in options.only:
        figures["trials"] = losses(given.data, trials(given), options.replicates)
        print("\nours with one thing done otherwise")
        tell_losses(figures["trials"], None, 0)
    figures["seconds"] = {
        name: {"fit_cpu_s": round(one.fit_s, 2), "predict_cpu_s": round(one.predict_s, 3)}
        for name, one in found.items()
    }
    record("heads", figures)


def also(name: str, given: Recordings) -> Trained:
    """Ours trained on copies with chatter too, or on a reading that counts capitals."""
    if name == "chatter":
        return train(given.data, given.reading, given.read(chatter(given.data.texts)))
    return train(given.data, reader(name, given)(given.data.texts))


def reader(name: str, given: Recordings) -> Read:
    """How a trained router reads texts."""
    return rebuilt.cased_reading if name == "capitals" else given.read


def chatter(texts: Sequence[str]) -> list[str]:
    """Each with a greeting before and thanks after, by its place."""
    random = np.random.default_rng(0)
    before = random.integers(len(OPENINGS), size=len(texts))
    after = random.integers(len(CLOSINGS), size=len(texts))
    return [
        f"{OPENINGS[a]}\n\n{text}\n\n{CLOSINGS[b]}"
        for text, a, b in zip(texts, before, after, strict=True)
    ]


def trials(given: Recordings) -> dict[str, Candidate]:
    """Settings of ours that were chosen, beside others."""
    found: dict[str, Candidate] = cross_validated(given, _trials)
    for weight in (0.25, 1.0):
        with setting(feature_weights, "WEIGHT", weight):
            found |= cross_validated(given, partial(_plainly, f"features' weight {weight:g}"))
    return found


def _trials(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    member = rebuilt.fit_member(lesson, Recipe().looseness)
    recipes = {
        OURS: Recipe(),
        "domain map by ridge regression": Recipe(looseness=0),
        "domain map's looseness 1": Recipe(looseness=1),
        "domain map's looseness 1000": Recipe(looseness=1000),
        **{
            f"experts' strength {one:g} throughout": Recipe(strengths=(one,))
            for one in Recipe().strengths
        },
    }
    found = {}
    for name, recipe in recipes.items():
        same = recipe.looseness == Recipe().looseness
        made = partial(rebuilt.rebuild, lesson, quiz, recipe, member if same else None)
        answer, seconds = timed(made)
        found[name] = Answer(answer.expected, seconds, 0)
    return found


def _plainly(name: str, lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    answer, seconds = timed(partial(rebuilt.rebuild, lesson, quiz, Recipe()))
    return {name: Answer(answer.expected, seconds, 0)}


# Tables.


def tell_losses(
    told: Mapping[str, Any], found: Mapping[str, Candidate] | None, queries: int
) -> None:
    """Without mmlu-pro, then with it."""
    print(
        f"\n{'':34} log loss  less ours (95 %)             Brier    ECE  worst | "
        "with mmlu-pro: less ours              fit s  queries/s"
    )
    for name, parts in told.items():
        some, every = parts["without"], parts["all"]
        line = (
            f"{name:34} {some['log_loss']:8.4f}  {span(some['log_loss_difference']):26} "
            f"{some['brier']:.4f} {some['ece']:.4f} {some['ece_most']:.4f} | "
            f"{every['log_loss']:.4f}  {span(every['log_loss_difference']):26}"
        )
        if found and found[name].predict_s:
            one = found[name]
            line += f" {one.fit_s:8.1f} {queries / one.predict_s:10,.0f}"
        elif found:
            line += f" {found[name].fit_s:8.1f}"
        print(line)


def tell_routing(pool: str, told: Mapping[str, Any]) -> None:
    """Value, and difference to ours with its interval."""
    print(f"\n{pool:34} {'AIQ':33} {'gap captured':33} saving at best constant - 0.01")
    for name, figures in told.items():
        each = [
            f"{figures[one]['value']:6.3f} {span(figures[one]['difference'], 3):26}"
            for one in ("aiq", "gap", "saving")
        ]
        print(f"{name:34}", *each)


def tell_flips(told: Mapping[str, Any]) -> None:
    """Percentages by kind."""
    print(f"\n{'flip rate, %':34}", *(f"{name:>10}" for name in told))
    for kind in next(iter(told.values())):
        print(f"{kind:34}", *(f"{100 * one[kind]['value']:10.1f}" for one in told.values()))


def span(one: Mapping[str, float], digits: int = 4) -> str:
    """`+0.0123 (-0.0045 to +0.0234)`."""
    value, low, high = (f"{one[name]:+.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
