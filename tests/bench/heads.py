"""Heads that ours are compared with: graded queries → expected grades of queries not seen.

Each learns from what ours learn from, and each chooses its own settings by cross-validation inside
its training queries, by log loss under the weights of `moa.training.fit.balance`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from moa.router.calibration import log_loss
from moa.router.features import Features, Floats32, fit_features
from moa.training.dataset import Dataset
from moa.training.domains import Domains, find_domains
from moa.training.fit import Reading, balance, fit_grade_heads

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
T = TypeVar("T")


class Lesson(NamedTuple):
    """What a head may learn from: n queries, m models."""

    data: Dataset
    reading: Reading
    domains: Domains
    weight: Floats
    """Shape (n,)."""
    fold: Ints
    """Of the cross-validation inside, shape (n,)."""
    features: Features
    x: Floats32
    """Standardised, shape (n, width)."""

    @classmethod
    def prepare(cls, data: Dataset, reading: Reading, folds: int) -> Lesson:
        """As `moa.training.fit.fit` does."""
        even = fit_features(reading.embeddings, reading.surface, np.ones(len(data.texts)))
        domains = find_domains(data, even(*reading))
        weight = balance(domains.of_query)
        features = fit_features(reading.embeddings, reading.surface, weight)
        return cls(data, reading, domains, weight, data.folds(folds), features, features(*reading))


class Quiz(NamedTuple):
    """What it is asked afterwards."""

    sources: tuple[str, ...]
    x: Floats32


class Answer(NamedTuple):
    """A head's."""

    grade: Floats
    """Expected, shape (n, m)."""
    fit_s: float
    """CPU time."""
    predict_s: float
    """CPU time, features given."""
    error: Floats | None = None
    """Standard errors of `grade`, where the head knows them."""


Head = Callable[[Lesson, Quiz], dict[str, Answer]]
"""Name → answer; heads that share their work answer together."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives and the CPU time that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def probability(log_odds: Floats) -> Floats:
    """In [0, 1]."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def loss_of(expected: Floats, lesson: Lesson) -> Floats:
    """Weighted mean log loss of each model; expected has shape (n, m)."""
    known = ~np.isnan(lesson.data.grade)
    weight = lesson.weight[:, None] * known
    losses = log_loss(expected, np.nan_to_num(lesson.data.grade))
    return np.asarray((weight * losses).sum(axis=0) / weight.sum(axis=0))


# Domain means.


def domain_means(lesson: Lesson) -> Floats:
    """Mean grades with one grade's worth of the model's mean, shape (C, m)."""
    grade = lesson.data.grade
    inside = np.eye(len(lesson.domains.names))[lesson.domains.of_query]
    counts, sums = inside.T @ ~np.isnan(grade), inside.T @ np.nan_to_num(grade)
    return np.asarray((sums + _everywhere(lesson)) / (counts + 1))


def _everywhere(lesson: Lesson) -> Floats:
    known = ~np.isnan(lesson.data.grade) * lesson.weight[:, None]
    return np.asarray((known * np.nan_to_num(lesson.data.grade)).sum(axis=0) / known.sum(axis=0))


def source_mean(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """A constant per source and model, told which source each query is from."""
    means, fit_s = timed(lambda: domain_means(lesson))
    place = {name: n for n, name in enumerate(lesson.domains.names)}
    expected, predict_s = timed(lambda: means[[place[source] for source in quiz.sources]])
    return {"source's mean": Answer(expected, fit_s, predict_s)}


# Logistic regression.

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)


def logistic(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Per model on all features; every fold, penalty and model at once."""
    table, fit_s = timed(lambda: _logistic_table(lesson))
    expected, predict_s = timed(lambda: probability(quiz.x @ table[:-1] + table[-1]))
    return {"logistic regression": Answer(expected, fit_s, predict_s)}


def _logistic_table(lesson: Lesson) -> Floats:
    known, target = ~np.isnan(lesson.data.grade), np.nan_to_num(lesson.data.grade)
    models = known.shape[1]
    rest = [lesson.fold != fold for fold in np.unique(lesson.fold)]
    columns = [known * (lesson.weight * mask)[:, None] for mask in rest]
    weight = np.tile(np.concatenate(columns, axis=1), len(PENALTIES))
    penalty = np.repeat(PENALTIES, len(rest) * models)
    goals = np.tile(target, len(rest) * len(PENALTIES))
    tables = fit_logistic(lesson.x, goals, weight, penalty, steps=100)
    tables = tables.reshape(len(tables), len(PENALTIES), len(rest), models)
    loss = np.empty((len(PENALTIES), models))
    for n in range(len(PENALTIES)):
        expected = np.empty(known.shape)
        for k, mask in enumerate(rest):
            log_odds = lesson.x[~mask] @ tables[:-1, n, k] + tables[-1, n, k]
            expected[~mask] = probability(log_odds)
        loss[n] = loss_of(expected, lesson)
    best = np.array(PENALTIES)[loss.argmin(axis=0)]
    return fit_logistic(lesson.x, target, known * lesson.weight[:, None], best, steps=200)


def fit_logistic(
    x: Floats32, target: Floats, weight: Floats, penalty: Floats, *, steps: int
) -> Floats:
    """Many regressions on the same features by L-BFGS.

    Args:
        x: shape (n, width).
        target: shape (n, k).
        weight: shape (n, k).
        penalty: of the squares, intercept excepted, shape (k,).
        steps: at most.

    Returns:
        Shape (width + 1, k), the intercepts last.
    """
    rows, goal, mass, pull = (
        torch.from_numpy(np.ascontiguousarray(one, np.float32))
        for one in (x, target, weight, penalty)
    )
    table = torch.zeros(x.shape[1] + 1, target.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([table], max_iter=steps, history_size=10, tolerance_change=1e-7)

    def loss() -> Any:  # noqa: ANN401 - torch has no types here
        search.zero_grad()
        log_odds = rows @ table[:-1] + table[-1]
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(
            log_odds, goal, weight=mass, reduction="sum"
        )
        total = misfit + (pull * table[:-1] ** 2).sum() / 2
        total.backward()
        return total

    search.step(loss)
    return np.asarray(table.detach().numpy(), np.float64)


# Nearest neighbours.

NEIGHBOURS = (10, 20, 40, 80, 160)
PRIOR = 2.0
"""Grades' worth of the neighbours' domains in a mean over neighbours."""
SIGNIFICANT = 1.96


def neighbours(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Means over the nearest by cosine, and the same with a guard: the mean of the neighbours'
    domains, unless theirs differs significantly."""
    learned, fit_s = timed(lambda: _choose_neighbours(lesson))
    (guess, predict_s) = timed(lambda: _neighbour_guesses(lesson, quiz.x, np.zeros(0, bool)))
    return {
        name: Answer(guess[kind, n], fit_s, predict_s)
        for kind, (name, n) in enumerate(zip(("kNN", "kNN with a guard"), learned, strict=True))
    }


def _choose_neighbours(lesson: Lesson) -> tuple[int, int]:
    """Places in `NEIGHBOURS`, without and with the guard."""
    guesses = np.empty((2, len(NEIGHBOURS), *lesson.data.grade.shape))
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        guesses[:, :, mine] = _neighbour_guesses(lesson, lesson.x[mine], mine)
    plain, guarded = (
        int(np.argmin([loss_of(one, lesson).mean() for one in kind])) for kind in guesses
    )
    return plain, guarded


def _neighbour_guesses(lesson: Lesson, x: Floats32, without: Bools) -> Floats:
    """Shape (2, numbers of neighbours, n, m), the second with the guard."""
    rows = np.flatnonzero(~without) if len(without) else np.arange(len(lesson.x))
    known, grade = ~np.isnan(lesson.data.grade[rows]), np.nan_to_num(lesson.data.grade[rows])
    usual = domain_means(lesson)[lesson.domains.of_query[rows]]
    stacked = np.stack([known, grade, usual * known, usual * (1 - usual) * known], axis=2)
    there = _unit(lesson.x[rows]).T
    guesses = np.empty((2, len(NEIGHBOURS), len(x), grade.shape[1]))
    for start in range(0, len(x), 1000):
        near = _nearest(_unit(x[start : start + 1000]) @ there, max(NEIGHBOURS))
        sums = np.cumsum(stacked[near], axis=1)[:, np.array(NEIGHBOURS) - 1]
        count, total, expected, variance = np.moveaxis(sums, -1, 0)
        some = count > 0
        count = np.maximum(count, 1)
        baseline = np.where(some, expected / count, _everywhere(lesson))
        mean = np.where(some, (total + PRIOR * baseline) / (count + PRIOR), baseline)
        sure = np.abs(total - expected) > SIGNIFICANT * np.sqrt(variance)
        both = np.stack([mean, np.where(sure, mean, baseline)])
        guesses[:, :, start : start + 1000] = np.moveaxis(both, 2, 1)
    return guesses


def _unit(x: Floats32) -> Floats32:
    length = np.linalg.norm(x, axis=1, keepdims=True).astype(np.float32)
    return np.asarray(x / np.maximum(length, np.float32(1e-9)), np.float32)


def _nearest(similarity: Floats32, count: int) -> Ints:
    """Places of the most similar, nearest first, shape (n, count)."""
    some = np.argpartition(-similarity, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


# Gradient boosting.

LEAVES = (4, 12)
TREES = 150
LEADING = 48
"""Directions of the n-grams, beside all of the surface."""


def boosting(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Histogram gradient boosting per model, on surface and leading directions; leaves and number
    of trees by the loss on one fold."""

    def learn() -> tuple[Floats32, list[Any]]:
        directions = _leading(lesson)
        coordinates = lesson.x @ directions
        return directions, [_boosted(lesson, coordinates, one) for one in lesson.data.grade.T]

    (directions, trees), fit_s = timed(learn)
    expected, predict_s = timed(
        lambda: np.column_stack([one.predict_proba(quiz.x @ directions)[:, 1] for one in trees])
    )
    return {"gradient boosting": Answer(expected, fit_s, predict_s)}


def _leading(lesson: Lesson) -> Floats32:
    embedded, width = lesson.reading.embeddings.shape[1], lesson.x.shape[1]
    x = lesson.x[:, :embedded]
    covariance = (x * lesson.weight[:, None].astype(np.float32)).T @ x
    vectors = np.linalg.eigh(covariance.astype(np.float64))[1][:, -LEADING:]
    directions = np.zeros((width, LEADING + width - embedded), np.float32)
    directions[:embedded, :LEADING] = vectors
    directions[embedded:, LEADING:] = np.eye(width - embedded)
    return directions


def _boosted(lesson: Lesson, coordinates: Floats32, grade: Floats) -> Any:  # noqa: ANN401
    known = np.flatnonzero(~np.isnan(grade))
    held_out = lesson.fold[known] == lesson.fold.max()
    x, y, weight = coordinates[known], grade[known], lesson.weight[known]
    rest, check = _split(x, y, weight, ~held_out), _split(x, y, weight, held_out)

    def trees(leaves: int, count: int, *, stop: bool) -> Any:  # noqa: ANN401
        return HistGradientBoostingClassifier(
            learning_rate=0.1, max_iter=count, max_leaf_nodes=leaves, l2_regularization=1.0,
            early_stopping=stop, n_iter_no_change=6, tol=1e-5, random_state=0,
        )  # fmt: skip

    found = []
    for leaves in LEAVES:
        model = trees(leaves, TREES, stop=True)
        model.fit(
            *rest[:2], sample_weight=rest[2],
            X_val=check[0], y_val=check[1], sample_weight_val=check[2],
        )  # fmt: skip
        scores = model.validation_score_
        found.append((-float(scores.max()), leaves, max(1, int(scores.argmax()))))
    _, leaves, count = min(found)
    everything = _split(x, y, weight, np.ones(len(y), bool))
    return trees(leaves, count, stop=False).fit(*everything[:2], sample_weight=everything[2])


def _split(
    x: Floats32, grade: Floats, weight: Floats, mask: Bools
) -> tuple[Floats32, Floats, Floats]:
    """Labels 0 and 1 of what may be a fraction: such a query counts in part for each."""
    up, down = np.flatnonzero(mask & (grade > 0)), np.flatnonzero(mask & (grade < 1))
    return (
        np.concatenate([x[up], x[down]]),
        np.concatenate([np.ones(len(up)), np.zeros(len(down))]),
        np.concatenate([weight[up] * grade[up], weight[down] * (1 - grade[down])]),
    )


# Networks.

SEEDS = 4
HIDDEN = 96
DECAYS = (0.01, 0.3)
EPOCHS, PATIENCE = 40, 4
INPUT_SCALE = 20.0
"""Features are small, so that one strength of regularisation serves all widths."""


def networks(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """The mean of `SEEDS` networks with one hidden layer and an output per model; a missing grade
    takes no part. Each stops by the loss on another fold."""

    def learn() -> list[Any]:
        each = [[_network(lesson, decay, seed) for seed in range(SEEDS)] for decay in DECAYS]
        return [net for net, _ in min(each, key=lambda nets: sum(loss for _, loss in nets))]

    nets, fit_s = timed(learn)
    rows = torch.from_numpy(quiz.x) * INPUT_SCALE

    def predict() -> Floats:
        with torch.no_grad():
            each = np.stack([torch.sigmoid(net(rows)).double().numpy() for net in nets])
        return np.asarray(each.mean(axis=0))

    expected, predict_s = timed(predict)
    return {"MLP ensemble": Answer(expected, fit_s, predict_s)}


def _network(lesson: Lesson, decay: float, seed: int) -> tuple[Any, float]:
    """A network in its best epoch, and its loss then on the fold that it did not see."""
    torch.manual_seed(seed)
    folds = np.unique(lesson.fold)
    held_out = torch.from_numpy(lesson.fold == folds[seed % len(folds)])
    x = torch.from_numpy(lesson.x) * INPUT_SCALE
    known = torch.from_numpy(~np.isnan(lesson.data.grade)).float()
    grade = torch.from_numpy(np.nan_to_num(lesson.data.grade)).float()
    mass = known * torch.from_numpy(lesson.weight).float()[:, None]
    models = grade.shape[1]
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.2), torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(),
        torch.nn.Dropout(0.5), torch.nn.Linear(HIDDEN, models),
    )  # fmt: skip
    search = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=decay)

    def misfit(rows: Any) -> Any:  # noqa: ANN401
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            net(x[rows]), grade[rows], reduction="none"
        )
        return (mass[rows] * losses).sum() / mass[rows].sum().clamp(min=1e-6)

    rest, check = torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
    best, kept, since = float("inf"), net.state_dict(), 0
    for _ in range(EPOCHS):
        net.train()
        for rows in rest[torch.randperm(len(rest))].split(128):
            search.zero_grad()
            misfit(rows).backward()
            search.step()
        net.eval()
        with torch.no_grad():
            loss = float(misfit(check))
        if loss < best:
            best, since = loss, 0
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        else:
            since += 1
            if since == PATIENCE:
                break
    net.load_state_dict(kept)
    return net.eval(), best


# Low rank.

RANKS = (1, 2, 4, 8, 12)
RIDGES = (0.25, 1.0, 4.0, 16.0, 64.0)


def low_rank(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """Grades of all models ≈ query factors times model factors; query factors regressed on
    features, model factors then fitted anew to what the regression foresaw on other folds."""
    learned, fit_s = timed(lambda: min(_ranked(lesson), key=lambda one: one.loss))

    def predict() -> Floats:
        factors = quiz.x @ learned.slopes[:-1] + learned.slopes[-1]
        return probability(factors @ learned.heads[:-1] + learned.heads[-1])

    expected, predict_s = timed(predict)
    return {"low rank": Answer(expected, fit_s, predict_s)}


class _Ranked(NamedTuple):
    loss: float
    slopes: Floats
    heads: Floats


def _ranked(lesson: Lesson) -> Iterator[_Ranked]:
    """One of each rank."""
    everybody = np.concatenate([lesson.data.grade, lesson.data.other_grade], axis=1)
    nothing = np.zeros(everybody.shape)
    factors = [factorise(everybody, nothing, lesson.weight, rank) for rank in RANKS]
    foreseen, slopes = _regressed(lesson, np.concatenate(factors, axis=1))
    ends = np.cumsum(RANKS)
    for start, end in zip(ends - RANKS, ends, strict=True):
        mine = foreseen[:, start:end]
        heads = fit_grade_heads(mine, lesson.data.grade)
        expected = probability(mine @ heads[:-1] + heads[-1])
        loss = float(loss_of(expected, lesson).mean())
        yield _Ranked(loss, slopes[:, start:end], heads)


def factorise(grade: Floats, offset: Floats, weight: Floats, rank: int) -> Floats:
    """Query factors of a logistic factorisation, with a variance of 1 each beforehand.

    Args:
        grade: NaN where missing, shape (n, k).
        offset: log odds that are known already, same shape.
        weight: of each query, shape (n,).
        rank: how many factors.

    Returns:
        Shape (n, rank).
    """
    random = torch.Generator().manual_seed(0)
    known = torch.from_numpy(~np.isnan(grade)).float()
    goal, base = torch.from_numpy(np.nan_to_num(grade)).float(), torch.from_numpy(offset).float()
    mass = torch.from_numpy(weight).float()[:, None]
    queries = (0.1 * torch.randn(len(grade), rank, generator=random)).requires_grad_()
    models = (1 + 0.3 * torch.randn(rank, grade.shape[1], generator=random)).requires_grad_()
    level = torch.zeros(grade.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([queries, models, level], max_iter=60, history_size=10)

    def loss() -> Any:  # noqa: ANN401
        search.zero_grad()
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(
            base + queries @ models + level, goal, weight=known * mass, reduction="sum"
        )
        total = misfit + (mass * queries**2).sum() / 2 + (models**2).sum() / 2
        total.backward()
        return total

    search.step(loss)
    return np.asarray(queries.detach().numpy(), np.float64)


def _regressed(lesson: Lesson, factors: Floats) -> tuple[Floats, Floats]:
    """Query factors as foreseen on other folds, and the map from features to them."""
    guesses = np.empty((len(RIDGES), *factors.shape))
    for fold in np.unique(lesson.fold):
        mine = lesson.fold == fold
        for n, table in enumerate(ridge_tables(lesson, factors, ~mine)):
            guesses[n, mine] = lesson.x[mine] @ table[:-1] + table[-1]
    off = np.average((guesses - factors) ** 2, axis=1, weights=lesson.weight)
    best = off.argmin(axis=0)
    tables = np.stack(ridge_tables(lesson, factors, np.ones(len(factors), bool)))
    columns = np.arange(factors.shape[1])
    return guesses[best, :, columns].T, tables[best, :, columns].T


def ridge_tables(lesson: Lesson, target: Floats, mask: Bools) -> list[Floats]:
    """Weighted ridge regressions, one per `RIDGES`; the intercept last."""
    x, weight = lesson.x[mask].astype(np.float64), lesson.weight[mask]
    middle, mean = (np.average(one, axis=0, weights=weight) for one in (x, target[mask]))
    x = x - middle
    weighted = x * weight[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ x)
    side = vectors.T @ (weighted.T @ (target[mask] - mean))
    found = []
    for strength in RIDGES:
        slope = vectors @ (side / (np.maximum(values, 0) + strength)[:, None])
        found.append(np.vstack([slope, mean - middle @ slope]))
    return found
