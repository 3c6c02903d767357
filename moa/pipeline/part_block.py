"""A scored part as the planner sees it, read from the run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moa.catalog import Lane
from moa.decisions.deciding import Deciding, Expected, matrix
from moa.decisions.planned import options
from moa.planning.capacities import Learnt
from moa.planning.capacity import Backlog
from moa.planning.policy import NOBODY
from moa.storage.run_folder import BATCH, PartName, RunFolder

_COLUMNS = [
    "defect", "expected_grade", "expected_input_tokens", "expected_output_tokens",
    "most_output_tokens", "novelty", "max_output_tokens", "abilities", "allowed_models",
    "allowed_lanes", "min_grade",
]  # fmt: skip


class Block(NamedTuple):
    """A part, or what the planner needs of it."""

    queries: pa.Table
    expected: Expected
    free: NDArray[np.intp]
    """Rows of `expected` that are to be decided on; the others are out with a vendor already."""
    backlog: Backlog
    """Of the free ones."""
    most_output_tokens: NDArray[np.float32]
    """Of the free ones, that nine in ten answers stay below; shape (n, m)."""
    before: pa.Table | None
    """The part's decisions as they are; `None` where there are none."""
    explored: NDArray[np.intp]
    """Free ones whose model is drawn."""
    unbound: Backlog
    """Of the explored ones, as if they were not."""


def read_block(
    part: PartName,
    run: RunFolder,
    deciding: Deciding,
    lanes: Sequence[Lane],
    learnt: Mapping[str, Learnt],
    *,
    decided: bool,
    whole: bool = False,
) -> Block:
    """Read a part.

    Args:
        part: scored.
        run: its folder.
        deciding: the run's.
        lanes: that may be bought now.
        learnt: by how much expectations are off.
        decided: whether it has decisions: its batches are out then, and it has them only once.
        whole: with all columns of its queries.
    """
    columns = _COLUMNS if deciding.exploration is None else [*_COLUMNS, "query_id"]
    queries = run.read_queries(part, columns=None if whole else columns)
    expected = deciding.expect(queries, lanes)
    drawn = deciding.drawn(expected)
    backlog = options(expected, deciding, learnt, drawn)
    unbound = backlog if (drawn == NOBODY).all() else options(expected, deciding, learnt)
    most = matrix(expected.queries.column("most_output_tokens"), len(deciding.models))
    free = np.arange(expected.queries.num_rows)
    before = None
    if decided:
        before = run.read_decisions(part)
        free = np.flatnonzero(~is_out(before)[expected.good])
        if BATCH in lanes:
            for one in (backlog, unbound):
                one.cost_usd[:, :, list(lanes).index(BATCH)] = np.inf
    found = free[drawn[free] != NOBODY]
    return Block(
        queries, expected, free, backlog.take(free), most[free], before, found, unbound.take(found)
    )


def is_out(decisions: pa.Table) -> NDArray[np.bool_]:
    """Which rows of a decided part cannot be decided on again: they are in batches, or nobody's."""
    in_batches = pc.equal(decisions.column("lane"), BATCH)
    out = pc.or_kleene(pc.is_null(decisions.column("model")), in_batches)
    return np.asarray(pc.fill_null(out, True).to_numpy())


class Given(NamedTuple):
    """Queries of a decided part, by catalog id."""

    all: Mapping[str, int]
    for_good: Mapping[str, int]
    """In batches: they are not decided on again."""


def given_in(decisions: pa.Table) -> Given:
    """What a part's decisions give to each model."""
    models = decisions.column("model")
    out = models.filter(pa.array(is_out(decisions)))
    return Given(*(Counter(names.drop_null().to_pylist()) for names in (models, out)))


def together(backlogs: Sequence[Backlog]) -> Backlog:
    """Several as one, in their order."""
    tokens_in = [one.input_tokens for one in backlogs if one.input_tokens is not None]
    tokens_out = [one.output_tokens for one in backlogs if one.output_tokens is not None]
    return Backlog(
        np.concatenate([one.grade for one in backlogs]),
        np.concatenate([one.cost_usd for one in backlogs]),
        np.concatenate(tokens_in),
        np.concatenate(tokens_out),
    )
