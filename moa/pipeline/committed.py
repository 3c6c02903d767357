"""What pieces that are out are expected to use."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moa.pipeline.job import Job
from moa.planning.capacities import Committed
from moa.storage.run_folder import BATCH, PartName, PieceName, RunFolder


class Amounts(NamedTuple):
    """Of one piece."""

    by_model: Mapping[str, Committed]
    usd: Decimal


def amounts_of(piece: PieceName, run: RunFolder, job: Job) -> Amounts:
    """By a piece's decisions as they stand in the run folder."""
    names = ["provider", "lane", "model", "expected_input_tokens", "expected_output_tokens"]
    decisions = _as_billed(piece.part, run, run.read_decisions(piece.part, columns=names))
    in_batches = pc.equal(decisions.column("lane"), BATCH)
    mine = pc.and_(
        pc.equal(decisions.column("provider"), piece.provider),
        in_batches if piece.in_batches else pc.invert(in_batches),
    )
    table = decisions.filter(mine)
    by_model: dict[str, Committed] = {}
    usd = 0.0
    for key in table.group_by(["model", "lane"]).aggregate([]).to_pylist():
        same = pc.and_(
            pc.equal(table.column("model"), key["model"]),
            pc.equal(table.column("lane"), key["lane"]),
        )
        rows = table.filter(same)
        tokens_in = rows.column("expected_input_tokens").to_numpy().astype(np.float64)
        tokens_out = rows.column("expected_output_tokens").to_numpy().astype(np.float64)
        usd += job.prices.expected_cost_usd(
            [key["model"]], key["lane"], tokens_in[:, None], tokens_out[:, None]
        ).sum()
        before = by_model.get(key["model"], Committed())
        by_model[key["model"]] = Committed(
            before.calls + len(tokens_in),
            before.input_tokens + tokens_in.sum(),
            before.output_tokens + tokens_out.sum(),
        )
    return Amounts(by_model, Decimal(str(usd)))


def _as_billed(part: PartName, run: RunFolder, decisions: pa.Table) -> pa.Table:
    """With no more output than a query allows."""
    name = "expected_output_tokens"
    most = run.read_queries(part, columns=["max_output_tokens"]).column("max_output_tokens")
    tokens = pc.min_element_wise(decisions.column(name), most.cast(pa.float32()))
    return decisions.set_column(decisions.schema.get_field_index(name), name, tokens)
