"""A run folder → its report, and the manifest that ends the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moa.catalog import load_catalog
from moa.config import RouteBatchConfig
from moa.errors import ConfigError, RunError
from moa.prices import PriceTable
from moa.reports.cost_report import CostReport, build
from moa.reports.forms import summary_lines, to_json, to_table
from moa.reports.inputs import (
    ForecastFacts,
    PriceFacts,
    ReportInputs,
    RouterFacts,
    RunFacts,
)
from moa.reports.page import render_html
from moa.schema import GRADED_OUTCOMES, agree
from moa.storage.object_store import filesystem_of
from moa.storage.run_folder import RunFolder


class Written(NamedTuple):
    """A report that is in the run folder."""

    report: CostReport
    page: str
    """Where the HTML page is."""

    @property
    def summary(self) -> list[str]:
        """A few lines for a terminal."""
        return summary_lines(self.report)


def write_report(url: str, config: RouteBatchConfig | None = None) -> Written:
    """Make the report of a run in its folder, again if need be.

    Args:
        url: the run's folder.
        config: whose `report` and `router.usd_per_hour` count; by default the run's own.

    Raises:
        RunError: there is no run in the folder.
        ConfigError: the catalog or the graded outcomes that the run names are not there.
    """
    run = RunFolder(url)
    first = run.first_start()
    if first is None:
        raise RunError(f"{url}: no run has begun here (there is no config.json)")
    config = config or RouteBatchConfig.model_validate(first["config"])
    report = build(_inputs(run, first, config))
    title = config.report.title or f"Run {config.run.id}"
    run.write_report("report.json", to_json(report))
    run.write_report("report.parquet", _parquet(to_table(report)))
    page = run.write_report("report.html", render_html(report, title=title).encode())
    return Written(report, page)


def _inputs(run: RunFolder, first: dict[str, Any], config: RouteBatchConfig) -> ReportInputs:
    catalog = load_catalog(config.catalog)
    models = [catalog.models[name] for name in config.pool]
    prices = PriceTable.build(models, as_of=date.fromisoformat(first["price_date"]))
    decisions = run.tables("decisions")
    worked_s, expected_usd = _expectations(decisions, config.pool)
    starts = run.starts()
    return ReportInputs(
        run_id=config.run.id,
        pool=tuple(config.pool),
        decisions=decisions,
        outcomes=run.tables("outcomes"),
        dead_letters=run.tables("dead_letters"),
        graded=_graded(config.report.graded_outcomes, config.pool, decisions),
        cost_usd=lambda model, tokens_in, tokens_out: prices.cost_usd(
            model, "live", input_tokens=tokens_in, output_tokens=tokens_out
        ),
        prices=PriceFacts(prices.version, prices.as_of.isoformat(), prices.sources),
        router=RouterFacts(
            version=first["router"]["version"],
            worked_s=worked_s,
            usd_per_hour=config.router.usd_per_hour,
            best_constant=first["router"]["best_constant"],
            best_constant_why=first["router"]["best_constant_why"],
        ),
        run=RunFacts(
            started_at=datetime.fromisoformat(first["started_at"]),
            finished_at=datetime.fromisoformat(starts[-1]["to"] if starts else first["started_at"]),
            wall_s=_at_work(starts).total_seconds(),
            config_hash=first["identity"]["config"],
            git_commit=first["git_commit"],
            versions=tuple(first["versions"].items()),
        ),
        forecast=ForecastFacts(cost_usd=expected_usd, duration_s=None),
    )


def _at_work(starts: Sequence[dict[str, str]]) -> timedelta:
    """Without the pauses between a run's starts."""
    spans = (datetime.fromisoformat(s["to"]) - datetime.fromisoformat(s["from"]) for s in starts)
    return sum(spans, timedelta())


def _expectations(
    decisions: Callable[[], Iterator[pa.Table]], pool: Sequence[str]
) -> tuple[float, Decimal]:
    """Seconds that the router worked, and the expected cost of all that was decided."""
    worked_s = expected_usd = 0.0
    for table in decisions():
        worked_s += pc.sum(table.column("router_s")).as_py() or 0.0
        decided = table.filter(pc.is_valid(table.column("model")))
        costs = decided.column("expected_cost_usd").combine_chunks().flatten().to_numpy()
        chosen = pc.index_in(decided.column("model"), pa.array(pool)).to_numpy()
        rows = np.arange(decided.num_rows)
        expected_usd += float(costs.reshape(-1, len(pool))[rows, chosen].sum())
    return worked_s, Decimal(f"{expected_usd:.6f}")


def _graded(
    path: str | None, pool: Sequence[str], decisions: Callable[[], Iterator[pa.Table]]
) -> pa.Table | None:
    """The known grades of the pool's models on this run's queries."""
    if path is None:
        return None
    filesystem, name = filesystem_of(path)
    try:
        graded = pq.read_table(name, filesystem=filesystem, filters=[("model", "in", list(pool))])
    except FileNotFoundError:
        raise ConfigError(
            f"report.graded_outcomes: {path} is not there; correct it, or leave it out"
        ) from None
    graded = agree(graded, GRADED_OUTCOMES, where=path)
    mine = np.zeros(graded.num_rows, bool)
    for table in decisions():
        mine |= pc.is_in(graded.column("query_id"), value_set=table.column("query_id")).to_numpy()
    return graded.filter(pa.array(mine))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
