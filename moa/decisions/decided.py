"""How many queries of a part went to whom, and by which rule: for whoever watches a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moa.dispatch.outcome import DeadLetter
from moa.storage.run_folder import BATCH, NOBODY, PartName, PieceName


class Decided(NamedTuple):
    """What queries that were decided on alike have in common."""

    rule: str | None
    model: str | None
    """Catalog id; `None`: nobody is asked."""
    reason: str | None
    """Of their dead letters, where nobody is asked; they have no rule and no model."""


def decided_in(
    part: PartName, decisions: pa.Table, buried: Sequence[DeadLetter]
) -> dict[PieceName, Counter[Decided]]:
    """How many were decided on alike, by piece.

    Args:
        part: of the run.
        decisions: its `ROUTING_DECISIONS`.
        buried: letters of its queries that nobody is asked.
    """
    found: dict[PieceName, Counter[Decided]] = defaultdict(Counter)
    asked = decisions.filter(decisions.column("model").is_valid())
    keys = asked.select(["provider", "model", "rule"]).append_column(
        "in_batches", pc.equal(asked.column("lane"), BATCH)
    )
    counts = keys.group_by(keys.column_names, use_threads=False).aggregate([([], "count_all")])
    for one in counts.to_pylist():
        piece = PieceName(part, one["provider"], one["in_batches"])
        found[piece][Decided(one["rule"], one["model"], None)] = one["count_all"]
    for letter in buried:
        found[PieceName(part, NOBODY)][Decided(None, None, letter.reason)] += 1
    return dict(found)
