"""Routers that were trained without one source, at work on that source.

Overfitting to the domains of the training data is the known weakness of learned routers; this is
how much of it there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from moa.evaluation.left_out import Stranger
from moa.prices import PriceTable
from moa.router.best_constant import best_constant
from moa.router.predictor import Predictor
from moa.router.router import scores_of
from moa.training.backbone import OpenedBackbone
from moa.training.dataset import Dataset
from moa.training.fit import Reading, fit
from moa.training.judge import answered_by_all, judge
from moa.training.train import fit_prompt_tokens

Bools = NDArray[np.bool_]

log = structlog.get_logger()


def strangers(
    train: Dataset,
    every: Dataset,
    backbone: OpenedBackbone,
    pools: Mapping[str, Sequence[str]],
    prices: PriceTable,
    *,
    folds: int,
) -> dict[str, dict[str, Stranger]]:
    """Pool → source → its queries, scored by a router that was fitted without the source.

    Args:
        train: what the router is fitted on, of all models of the pools.
        every: the queries to look at, of the same models; those of other splits as well, since a
            router without the source has seen none of them.
        backbone: that both are read with.
        pools: names → catalog ids.
        prices: of all these models.
        folds: of the cross-validations inside a fit.

    A pool has the sources of which every of its models has answered a query, and on the rest of
    which each of its models could be fitted.
    """
    reading, other = backbone.read(train.texts), backbone.read(every.texts)
    found: dict[str, dict[str, Stranger]] = {name: {} for name in pools}
    for source in sorted(set(every.sources)):
        mine = np.array([one == source for one in every.sources])
        wanted = {
            name: pool
            for name, pool in pools.items()
            if answered_by_all(every.only(mine), pool).any()
        }
        rest = np.array([one != source for one in train.sources])
        if not wanted or not rest.any():
            continue
        for name, stranger in _of_source(
            train, rest, reading, every.only(mine), other.only(mine), wanted, prices, folds
        ):
            found[name][source] = stranger
        log.info("training.left_out", source=source, queries=int(mine.sum()))
    return found


def _of_source(
    train: Dataset,
    rest: Bools,
    reading: Reading,
    source: Dataset,
    source_reading: Reading,
    pools: Mapping[str, Sequence[str]],
    prices: PriceTable,
    folds: int,
) -> Iterator[tuple[str, Stranger]]:
    """Fitted on all folds of the other sources but the last, which tells what is familiar."""
    held_out = rest & (train.folds(folds) == folds - 1)
    taught = train.only(rest & ~held_out)
    known = _fittable(taught)
    taught, source = taught.of_models(known), source.of_models(known)
    predict = Predictor(fit(taught, reading.only(rest & ~held_out), folds=folds).tensors)
    columns = range(len(known))
    scores = scores_of(predict(*source_reading, columns), source.texts, fit_prompt_tokens(taught))
    familiar = predict(*reading.only(held_out), columns).novelty.astype(np.float64)
    for name, pool in pools.items():
        if not set(pool) <= set(known):
            continue
        numbers = [taught.models.index(model) for model in pool]
        best = best_constant(taught.grade[:, numbers], pool).model
        yield name, Stranger(judge(source, scores, pool, prices, best_constant=best), familiar)


def _fittable(data: Dataset) -> list[str]:
    """The models that have a grade and a count of output tokens somewhere."""
    graded, counted = np.isfinite(data.grade), np.isfinite(data.output_tokens)
    return [
        model
        for column, model in enumerate(data.models)
        if graded[:, column].any() and counted[:, column].any()
    ]
