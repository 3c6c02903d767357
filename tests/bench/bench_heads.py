"""Heads compared: ours against what else could be made of the same features and grades.

    python -m tests.bench.bench_heads                        # all; 15 minutes on one core
    python -m tests.bench.bench_heads --only knn networks    # some, beside ours

Every figure is of the recordings' `train` split, each query answered by a head that was fitted on
other folds; nothing is fitted or chosen on `demo`. Costs are expected as ours expect them whatever
the head, and nobody abstains, so that heads differ in grades alone. Differences are to ours, on the
same queries, with paired bootstrap intervals (95 %). Times are CPU seconds on one core.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from moa.catalog import load_catalog
from moa.config import PolicyConfig
from moa.evaluation import hull
from moa.evaluation.bootstrap import drawn_means, interval, ratio
from moa.evaluation.calibration import calibration
from moa.evaluation.frontier import sweep
from moa.evaluation.judged import Judged
from moa.evaluation.metrics import SLACK, metrics
from moa.evaluation.robustness import robustness
from moa.intervals import Interval
from moa.prices import PriceTable
from moa.router import features as feature_weights
from moa.router.predictor import Prediction, Predictor
from moa.router.router import Scores, scores_of
from moa.toml_file import read_toml
from moa.training.backbone import open_for_training
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import Reading, fit
from moa.training.judge import answered_by_all, judge
from moa.training.train import TrainRouterConfig, fit_prompt_tokens
from tests.bench import heads, rebuilt
from tests.bench.heads import Head, Lesson, Quiz, timed
from tests.bench.rebuilt import Recipe, setting
from tests.bench.results import record

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Read = Callable[[Sequence[str]], Reading]

FOLDS = 5
POLICY = PolicyConfig(willingness_to_pay=Decimal("0.05"))
KNOWLEDGE = "mmlu-pro"
"""Four in five queries, and half of the models only: figures are told without it, and with it."""
OURS = "ours"
P3 = ("openai/gpt-4o", "anthropic/claude-3.5-sonnet", "google/gemini-1.5-pro")
BEST = {"P6": "anthropic/claude-3.5-sonnet", "P3": "openai/gpt-4o"}
GUARDS = (0.5, 1.0)
HEADS: Mapping[str, Head] = {
    "source": heads.source_mean,
    "logistic": heads.logistic,
    "knn": heads.neighbours,
    "boosting": heads.boosting,
    "networks": heads.networks,
    "low_rank": heads.low_rank,
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


@dataclass(frozen=True, slots=True)
class Recordings:
    """What everybody learns from, and how the answers are judged."""

    data: Dataset
    read: Read
    reading: Reading
    prices: PriceTable
    tokens_per_feature: Floats

    @classmethod
    def load(cls) -> Recordings:
        """The `train` split, as the embedded router is trained on it."""
        job = read_toml(TrainRouterConfig, "jobs/configs/train_router.toml")
        data = read_dataset(Path(job.recordings), job.models, split="train")
        read = open_for_training(job.backbone, artifact=Path(job.artifact)).read
        catalog = load_catalog(job.catalog)
        prices = PriceTable.build([catalog.models[name] for name in job.models])
        return cls(data, read, read(data.texts), prices, fit_prompt_tokens(data))

    @property
    def pools(self) -> dict[str, tuple[str, ...]]:
        """All six, and the strong ones."""
        return {"P6": self.data.models, "P3": P3}

    def judged(self, pool: str, predicted: Prediction) -> Judged:
        """The queries that a pool has answered."""
        scores = scores_of(predicted, self.data.texts, self.tokens_per_feature)
        return judge(self.data, scores, self.pools[pool], self.prices, best_constant=BEST[pool])


class Trained(NamedTuple):
    """A router of ours, fitted as the job does, on each fold's rest."""

    held_out: Prediction
    predictors: list[Predictor]
    fit_s: float
    predict_s: float


class Candidate(NamedTuple):
    """A head's answers to all training queries, each held out."""

    grade: Floats
    fit_s: float
    """Mean of a fold."""
    predict_s: float
    """Of all queries."""
    error: Floats | None = None


def main() -> None:
    """Compare, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--replicates", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("threadpoolctl").threadpool_limits(1)
    given = Recordings.load()
    ours = train(given.data, given.reading)
    found = {OURS: Candidate(ours.held_out.grade, ours.fit_s, ours.predict_s)}
    for name in options.only:
        if name in HEADS:
            found |= cross_validated(given, HEADS[name])
            print(f"{name} done", flush=True)
    if all(name in found for name in MIX):
        mean = np.mean([found[name].grade for name in MIX], axis=0)
        found[f"mean of {', '.join(MIX)}"] = Candidate(mean, 0, 0)
    figures: dict[str, Any] = {"replicates": options.replicates}
    trained = {OURS: ours} | {name: also(name, given) for name in options.only if name in TRAINED}
    for name in trained.keys() - {OURS}:
        one = trained[name]
        found[f"ours, {name}"] = Candidate(one.held_out.grade, one.fit_s, one.predict_s)
    figures["losses"] = losses(given.data, found, options.replicates)
    tell_losses(figures["losses"], found, len(given.data.texts))
    for pool in given.pools:
        figures[pool] = routing(given, pool, ours, found, options.replicates)
        tell_routing(pool, figures[pool])
    if len(trained) > 1:
        figures["flips"] = {name: flips(name, given, one) for name, one in trained.items()}
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


# Answers.


def cross_validated(given: Recordings, head: Head) -> dict[str, Candidate]:
    """Each fold answered by a head fitted on the others."""
    data, fold = given.data, given.data.folds(FOLDS)
    merged: dict[str, Candidate] = {}
    for number in range(FOLDS):
        mine = fold == number
        lesson = Lesson.prepare(data.only(~mine), given.reading.only(~mine), FOLDS)
        sources = data.only(mine).sources
        quiz = Quiz(sources, lesson.features(*given.reading.only(mine)))
        for name, answer in head(lesson, quiz).items():
            before = merged.get(name) or Candidate(
                np.empty(data.grade.shape), 0, 0,
                None if answer.error is None else np.empty(data.grade.shape),
            )  # fmt: skip
            before.grade[mine] = answer.grade
            if before.error is not None and answer.error is not None:
                before.error[mine] = answer.error
            merged[name] = before._replace(
                fit_s=before.fit_s + answer.fit_s / FOLDS,
                predict_s=before.predict_s + answer.predict_s,
            )
    return merged


def train(data: Dataset, reading: Reading, copies: Reading | None = None) -> Trained:
    """As `moa.training.train.held_out`, and keep the predictors.

    Args:
        data: n queries.
        reading: of these.
        copies: of the same queries otherwise worded; learnt from as well.
    """
    fold, shape = data.folds(FOLDS), data.grade.shape
    held_out = nothing_yet(shape)
    predictors, fit_s, predict_s = [], 0.0, 0.0
    for number in range(FOLDS):
        mine = fold == number
        rest, read = data.only(~mine), reading.only(~mine)
        if copies:
            both = zip(read, copies.only(~mine), strict=True)
            rest, read = twice(rest), Reading(*(np.concatenate(one) for one in both))
        fitted, seconds = timed(partial(fit, rest, read, folds=FOLDS))
        predict = Predictor(fitted.tensors)
        found, asking_s = timed(partial(predict, *reading.only(mine), range(shape[1])))
        put(held_out, mine, found)
        predictors.append(predict)
        fit_s, predict_s = fit_s + seconds / FOLDS, predict_s + asking_s
    return Trained(held_out, predictors, fit_s, predict_s)


def nothing_yet(shape: tuple[int, ...]) -> Prediction:
    """To be filled by `put`."""
    grade, tokens, most = np.empty((3, *shape))
    return Prediction(grade, tokens, most, np.empty(shape[0], np.float32))


def put(whole: Prediction, mask: Bools, part: Prediction) -> None:
    """Fill in some queries."""
    whole.grade[mask], whole.novelty[mask] = part.grade, part.novelty
    whole.output_tokens[mask] = part.output_tokens
    whole.most_output_tokens[mask] = part.most_output_tokens


def twice(data: Dataset) -> Dataset:
    """Each query a second time, after all of them."""
    rows = np.arange(len(data.texts))
    return data.only(np.concatenate([rows, rows]))


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


def _trials(lesson: Lesson, quiz: Quiz) -> dict[str, heads.Answer]:
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
        found[name] = heads.Answer(answer.expected, seconds, 0)
    return found


def _plainly(name: str, lesson: Lesson, quiz: Quiz) -> dict[str, heads.Answer]:
    answer, seconds = timed(partial(rebuilt.rebuild, lesson, quiz, Recipe()))
    return {name: heads.Answer(answer.expected, seconds, 0)}


# Figures.


def losses(data: Dataset, found: Mapping[str, Candidate], replicates: int) -> dict[str, Any]:
    """Log loss, Brier score and calibration error, means over models, with mmlu-pro and without."""
    without = np.array([source != KNOWLEDGE for source in data.sources])
    told: dict[str, Any] = {name: {} for name in found}
    for part, mask in (("without", without), ("all", np.ones(len(without), bool))):
        base = _log_losses(data.grade[mask], found[OURS].grade[mask], replicates)
        for name, one in found.items():
            expected, grade = one.grade[mask], data.grade[mask]
            known = ~np.isnan(grade)
            each = [
                calibration(model, expected[known[:, n], n], grade[known[:, n], n], replicates=5)
                for n, model in enumerate(data.models)
            ]
            rows = _log_losses(grade, expected, replicates)
            told[name][part] = {
                "log_loss": round(float(rows[0]), 4),
                "log_loss_difference": plain(interval(rows - base)),
                "brier": round(float(np.mean([c.brier.value for c in each])), 4),
                "ece": round(float(np.mean([c.ece.value for c in each])), 4),
                "ece_most": round(float(max(c.ece.value for c in each)), 4),
            }
    return told


def _log_losses(grade: Floats, expected: Floats, replicates: int) -> Floats:
    """Mean over models, of the sample and of drawn sets."""
    known, safe = ~np.isnan(grade), np.clip(expected, 1e-6, 1 - 1e-6)
    measured = np.nan_to_num(grade)
    loss = -(measured * np.log(safe) + (1 - measured) * np.log(1 - safe)) * known
    rows = drawn_means({"loss": loss, "known": known}, seed=0, replicates=replicates)
    return np.asarray(ratio(rows["loss"], rows["known"]).mean(axis=1))


def routing(
    given: Recordings, pool: str, ours: Trained, found: Mapping[str, Candidate], replicates: int
) -> dict[str, Any]:
    """AIQ, gap captured and saving of each head on the queries that a pool has answered."""
    drawn = {}
    for name, one in found.items():
        judged = given.judged(pool, ours.held_out._replace(grade=one.grade))
        drawn[name] = _drawn(judged, replicates)
        if one.error is not None:
            for z in GUARDS:
                drawn[f"ours, guard of {z:g} errors"] = _drawn(
                    given.judged(pool, ours.held_out._replace(grade=guarded(given, pool, one, z))),
                    replicates,
                )
    _check(given.judged(pool, ours.held_out), drawn[OURS])
    return {
        name: {
            figure: plain(interval(rows[figure])) | {
                "difference": plain(interval(rows[figure] - drawn[OURS][figure]))
            }
            for figure in rows
        }
        for name, rows in drawn.items()
    }  # fmt: skip


def guarded(given: Recordings, pool: str, one: Candidate, z: float) -> Floats:
    """Expected grades less z standard errors, but for the best constant's."""
    assert one.error is not None
    best = given.data.models.index(BEST[pool])
    lower = one.grade - z * one.error
    lower[:, best] = one.grade[:, best]
    return np.clip(lower, 0, 1)


def _drawn(judged: Judged, replicates: int) -> dict[str, Floats]:
    """Figures as `moa.evaluation.metrics` defines them, of the sample and of drawn sets."""
    swept = sweep(judged, POLICY)
    columns = {
        "grade": judged.grade,
        "cost": judged.cost_usd,
        "swept_grade": judged.of_chosen(judged.grade, swept.routed).T,
        "swept_cost": judged.of_chosen(judged.cost_usd, swept.routed).T,
        "best": judged.of_chosen(judged.grade, swept.oracle[-1]),
    }
    rows = drawn_means(columns, seed=0, replicates=replicates)
    cost, constant = rows["cost"], rows["grade"][:, judged.best_constant]
    points = rows["swept_cost"], rows["swept_grade"]
    reaches = points[1] >= constant[:, None] - SLACK - 1e-12
    least = np.where(reaches, points[0], np.inf).min(axis=1)
    saved = np.nan_to_num(1 - ratio(least, cost[:, judged.best_constant]), neginf=0)
    return {
        "aiq": hull.area(*points, cost.min(axis=1), cost.max(axis=1)),
        "gap": ratio(points[1][:, -1] - constant, rows["best"] - constant),
        "saving": np.maximum(0, saved),
    }


def _check(judged: Judged, rows: Mapping[str, Floats]) -> None:
    """That these are the very figures of an evaluation."""
    theirs = metrics(judged, sweep(judged, POLICY), POLICY, replicates=5)
    against = theirs.against_best_constant
    wanted = theirs.aiq, against.gap_captured, against.saving_with_slack.value
    mine = [float(rows[name][0]) for name in ("aiq", "gap", "saving")]
    assert np.allclose([one.value for one in wanted], mine), (wanted, mine)


def flips(name: str, given: Recordings, trained: Trained) -> dict[str, Any]:
    """How often another wording goes elsewhere, on the queries that all six have answered."""
    rows = np.flatnonzero(answered_by_all(given.data, given.data.models))
    fold, read = given.data.folds(FOLDS)[rows], reader(name, given)
    policy = PolicyConfig.model_validate({**POLICY.model_dump(), "max_novelty": 0.95})

    def score(texts: Sequence[str], pool: Sequence[str]) -> Scores:
        reading, merged = read(texts), nothing_yet((len(texts), len(pool)))
        for number, predict in enumerate(trained.predictors):
            mine = fold == number
            put(merged, mine, predict(*reading.only(mine), range(len(pool))))
        return scores_of(merged, texts, given.tokens_per_feature)

    judged = given.judged("P6", trained.held_out)
    texts = [given.data.texts[row] for row in rows.tolist()]
    found = robustness(judged, texts, score, given.prices, policy, replicates=500)
    return {one.kind: plain(one.rate) for one in (found.overall, *found.kinds)}


def plain(one: Interval) -> dict[str, float]:
    """For JSON."""
    return {"value": round(one.value, 4), "low": round(one.low, 4), "high": round(one.high, 4)}


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
