"""What answers have used, beside what the router expected of them: by model, of a piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moa.storage.run_folder import PieceName, RunFolder


class Used(NamedTuple):
    """Sums over answers of the model that was decided on."""

    calls: float = 0.0
    expected_input_tokens: float = 0.0
    input_tokens: float = 0.0
    expected_output_tokens: float = 0.0
    output_tokens: float = 0.0

    def plus(self, other: Used) -> Used:
        """Of both."""
        return Used(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))


def used_by(piece: PieceName, run: RunFolder) -> dict[str, Used]:
    """Catalog id → what its answers in a finished piece have used."""
    names = ["row", "status", "model", "first_model", "same_as", "input_tokens", "output_tokens"]
    outcomes = run.read_outcomes(piece, columns=names)
    own = pc.and_(
        pc.is_null(outcomes.column("same_as")),
        pc.fill_null(pc.equal(outcomes.column("model"), outcomes.column("first_model")), False),
    )
    answers = outcomes.filter(own)
    expected = _expected(piece, run)
    joined = answers.join(expected, keys="row", join_type="inner")
    return dict(_sums(joined))


def _expected(piece: PieceName, run: RunFolder) -> pa.Table:
    """What was expected of the chosen models, as it is billed: by row."""
    decisions = run.read_decisions(
        piece.part, columns=["row", "expected_input_tokens", "expected_output_tokens"]
    )
    most = run.read_queries(piece.part, columns=["max_output_tokens"]).column("max_output_tokens")
    output = np.fmin(
        decisions.column("expected_output_tokens").to_numpy(),
        most.cast(pa.float64()).to_numpy(),
    )
    return pa.table(
        {
            "row": decisions.column("row"),
            "expected_input_tokens": decisions.column("expected_input_tokens"),
            "expected_output_tokens": pa.array(output, pa.float64()),
        }
    )


def _sums(answers: pa.Table) -> Iterator[tuple[str, Used]]:
    names = [name for name in Used._fields if name != "calls"]
    sums = answers.group_by("model").aggregate([([], "count_all"), *((n, "sum") for n in names)])
    for one in sums.to_pylist():
        values = {name: float(one[f"{name}_sum"]) for name in names}
        yield one["model"], Used(calls=one["count_all"], **values)
