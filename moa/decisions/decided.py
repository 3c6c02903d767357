"""How many queries of a part went to whom, and by which rule: for whoever watches a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moa.decisions.deciding import DEFECTIVE
from moa.dispatch.outcome import DeadLetter
from moa.planning.policy import NOBODY_CAN
from moa.storage.run_folder import BATCH, NOBODY, PartName, PieceName


class Decided(NamedTuple):
    """Queries of a piece that were decided on alike."""

    rule: str
    model: str | None
    """Catalog id; `None`: nobody is asked."""
    reason: str | None
    """Of their dead letters, where nobody is asked."""
    rows: int


def decided_in(
    part: PartName, decisions: pa.Table, buried: Sequence[DeadLetter]
) -> Mapping[PieceName, tuple[Decided, ...]]:
    """By piece.

    Args:
        part: of the run.
        decisions: its `ROUTING_DECISIONS`.
        buried: letters of its queries that nobody is asked.
    """
    found: dict[PieceName, list[Decided]] = defaultdict(list)
    asked = decisions.filter(decisions.column("model").is_valid())
    keys = asked.select(["provider", "model", "rule"]).append_column(
        "in_batches", pc.equal(asked.column("lane"), BATCH)
    )
    counts = keys.group_by(keys.column_names, use_threads=False).aggregate([([], "count_all")])
    for one in counts.to_pylist():
        piece = PieceName(part, one["provider"], one["in_batches"])
        found[piece].append(Decided(one["rule"], one["model"], None, one["count_all"]))
    for reason, rows in Counter(letter.reason for letter in buried).items():
        rule = NOBODY_CAN if reason == NOBODY_CAN else DEFECTIVE
        found[PieceName(part, NOBODY)].append(Decided(rule, None, reason, rows))
    return {piece: tuple(groups) for piece, groups in found.items()}
