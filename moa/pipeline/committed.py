"""What pieces that are out are expected to use."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from moa.dispatch.used import as_billed
from moa.pipeline.job import Job
from moa.planning.capacities import Committed
from moa.storage.run_folder import PieceName, RunFolder, rows_of


class Amounts(NamedTuple):
    """Of one piece."""

    by_model: Mapping[str, Committed]
    usd: Decimal


def amounts_of(piece: PieceName, run: RunFolder, job: Job) -> Amounts:
    """By a piece's decisions as they stand in the run folder."""
    names = ["provider", "lane", "model", "expected_input_tokens", "expected_output_tokens"]
    decisions = as_billed(piece.part, run, names)
    table = decisions.filter(rows_of(piece, decisions))
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
