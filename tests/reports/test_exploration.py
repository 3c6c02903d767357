"""What exploration cost, on recorded queries and answers."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from moa.reports.exploration import explored_sentences
from moa.reports.forms import summary_lines
from moa.storage.run_folder import RunFolder
from tests.reports.recorded_night import RECORDINGS, answer, decided, recorded, report


def test_exploration_costs_what_the_preferred_models_would_have_cost_less(tmp_path: Path) -> None:
    log = pq.read_table(RECORDINGS / "demo_backlog.parquet").slice(300, 400)
    job = decided(tmp_path, log, "explore.share=0.3")
    answer(job)

    made = report(job)

    rows = [
        row
        for part in RunFolder(job.run_folder).tables("decisions")()
        for row in part.filter(pc.equal(part["rule"], "explored")).to_pylist()
    ]

    def usd(row: dict[str, str], model: str) -> Decimal:
        told = recorded()[row["query_id"], row[model]]
        tokens = {name: told[name] for name in ("input_tokens", "output_tokens")}
        return job.prices.cost_usd(row[model], "live", **tokens)

    def grade(row: dict[str, str], model: str) -> float:
        return float(recorded()[row["query_id"], row[model]]["grade"])

    found = made.explored
    assert found is not None
    assert found.queries == found.compared == len(rows) > 80
    assert found.elsewhere == sum(row["model"] != row["preferred_model"] for row in rows)
    assert found.cost_usd == sum(usd(row, "model") for row in rows)
    assert found.preferred_usd == sum(usd(row, "preferred_model") for row in rows)
    lead = [grade(row, "model") - grade(row, "preferred_model") for row in rows]
    assert found.graded_queries == len(rows)
    assert found.grade_difference is not None
    assert found.grade_difference.value == pytest.approx(sum(lead) / len(lead), abs=1e-6)
    assert found.expected_gain < 0  # by its own expectations a router prefers what is best
    (line,) = [one for one in summary_lines(made) if "explored" in one]
    assert f"{len(rows)} queries were explored" in line


def test_a_run_that_explores_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    log = pq.read_table(RECORDINGS / "demo_backlog.parquet").slice(0, 40)
    job = decided(tmp_path, log)
    answer(job)

    made = report(job)

    assert made.explored is None
    assert explored_sentences(made.explored, Decimal(1)) == []
    assert not [one for one in summary_lines(made) if "explor" in one]
