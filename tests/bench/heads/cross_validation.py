"""Each training query answered by heads, or routers of ours, that were fitted on other folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa.catalog import load_catalog
from moa.evaluation.judged import Judged
from moa.prices import PriceTable
from moa.router.predictor import Prediction, Predictor
from moa.router.router import scores_of
from moa.toml_file import read_toml
from moa.training.backbone import open_for_training
from moa.training.dataset import Dataset, read_dataset
from moa.training.fit import Reading, fit
from moa.training.judge import judge
from moa.training.train import TrainRouterConfig, fit_prompt_tokens
from tests.bench.heads.lesson import Head, Lesson, Quiz, timed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Read = Callable[[Sequence[str]], Reading]

FOLDS = 5
P3 = ("openai/gpt-4o", "anthropic/claude-3.5-sonnet", "google/gemini-1.5-pro")
BEST = {"P6": "anthropic/claude-3.5-sonnet", "P3": "openai/gpt-4o"}
"""Constants, on the training queries that a pool has answered."""


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

    def every(self, count: int) -> Recordings:
        """Every so many-th query only."""
        rows = np.arange(0, len(self.data.texts), count)
        return replace(self, data=self.data.only(rows), reading=self.reading.only(rows))

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
