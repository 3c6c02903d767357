"""Graded outcomes and a router's scores → `Judged`, which an evaluation is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.errors import ConfigError
from moa.evaluation.judged import Judged
from moa.prices import PriceTable
from moa.router.router import Scores
from moa.training.dataset import Dataset, read_queries

LIVE = "live"

Bools = NDArray[np.bool_]


def judge(
    data: Dataset,
    scores: Scores,
    pool: Sequence[str],
    prices: PriceTable,
    *,
    best_constant: str,
    domains: Sequence[str] | None = None,
) -> Judged:
    """The queries that every model of a pool has answered.

    Args:
        data: graded outcomes of at least these models.
        scores: of all its queries and all its models, in its order.
        pool: catalog ids.
        prices: of these models.
        best_constant: of the pool, chosen on training data.
        domains: of each query; by default its source.

    Raises:
        ConfigError: no query was answered by all of them.
    """
    columns = [data.models.index(model) for model in pool]
    rows = np.flatnonzero(answered_by_all(data, pool))
    if not len(rows):
        raise ConfigError(f"no query has a grade and tokens of each of {', '.join(pool)}")

    def cells(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return values[rows][:, columns].astype(np.float64)

    named = data.sources if domains is None else domains
    return Judged(
        pool=tuple(pool),
        sources=tuple(data.sources[row] for row in rows.tolist()),
        domains=tuple(named[row] for row in rows.tolist()),
        grade=cells(data.grade),
        cost_usd=prices.expected_cost_usd(
            pool, LIVE, cells(data.input_tokens), cells(data.output_tokens)
        ),
        expected_grade=cells(scores.expected_grade),
        expected_cost_usd=prices.expected_cost_usd(
            pool, LIVE, cells(scores.expected_input_tokens), cells(scores.expected_output_tokens)
        ),
        novelty=scores.novelty.astype(np.float64)[rows],
        best_constant=list(pool).index(best_constant),
    )


def answered_by_all(data: Dataset, pool: Sequence[str]) -> Bools:
    """Which queries have a grade and both token counts of each model, shape (n,)."""
    columns = [data.models.index(model) for model in pool]
    known = data.grade[:, columns] + data.input_tokens[:, columns] + data.output_tokens[:, columns]
    return np.asarray(np.isfinite(known).all(axis=1))


def read_domains(folder: Path | str, data: Dataset) -> tuple[str, ...]:
    """What each query is about, where the recordings say so, and else its source; shape (n,)."""
    queries = read_queries(folder)
    if "domain" not in queries.column_names:
        return data.sources
    places = pc.index_in(
        pa.array(data.query_ids, queries.column("query_id").type),
        value_set=queries.column("query_id").combine_chunks(),
    )
    named = queries.column("domain").take(places).to_pylist()
    return tuple(name or source for name, source in zip(named, data.sources, strict=True))
