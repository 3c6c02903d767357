"""What answers have used, beside what the router expected of them: by model, of a piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moa.storage.run_folder import PartName, PieceName, RunFolder


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
    expected = as_billed(
        piece.part, run, ["row", "expected_input_tokens", "expected_output_tokens"]
    )
    joined = answers.join(expected, keys="row", join_type="inner")
    return dict(_sums(joined))


def summed(*parts: Mapping[str, Used]) -> dict[str, Used]:
    """By catalog id, over several pieces."""
    found: dict[str, Used] = {}
    for part in parts:
        for model, used in part.items():
            found[model] = found.get(model, Used()).plus(used)
    return found


def as_billed(part: PartName, run: RunFolder, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part's decisions; no more output is expected than a query allows."""
    name = "expected_output_tokens"
    decisions = run.read_decisions(part, columns=columns)
    most = run.read_queries(part, columns=["max_output_tokens"]).column("max_output_tokens")
    tokens = pc.min_element_wise(decisions.column(name), most.cast(pa.float32()))
    return decisions.set_column(decisions.schema.get_field_index(name), name, tokens)


def _sums(answers: pa.Table) -> Iterator[tuple[str, Used]]:
    names = [name for name in Used._fields if name != "calls"]
    sums = answers.group_by("model").aggregate([([], "count_all"), *((n, "sum") for n in names)])
    for one in sums.to_pylist():
        values = {name: float(one[f"{name}_sum"]) for name in names}
        yield one["model"], Used(calls=one["count_all"], **values)
