"""A run folder → its report, and the report's files in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
from moa.reports.detours import EXPECTED
from moa.reports.forms import summary_lines, to_json, to_table
from moa.reports.inputs import (
    ForecastFacts,
    PolicyFacts,
    PriceFacts,
    Replay,
    ReportInputs,
    RouterFacts,
    RunFacts,
    Shadowed,
    ShadowFacts,
    Tables,
)
from moa.reports.page import render_html
from moa.schema import GRADED_OUTCOMES, agree
from moa.storage.merged_run import MergedRun
from moa.storage.object_store import filesystem_of
from moa.storage.outcome_table import one_grade_each
from moa.storage.run_folder import RunFolder
from moa.storage.shadow_folder import ShadowFolder
from moa.toml_file import override


class Written(NamedTuple):
    """A report that is in the run folder."""

    report: CostReport
    page: str
    """Where the HTML page is."""

    @property
    def summary(self) -> list[str]:
        """A few lines for a terminal."""
        return summary_lines(self.report)


def write_report(
    url: str, config: RouteBatchConfig | None = None, overrides: Sequence[str] = ()
) -> Written:
    """Make the report of a run in its folder, again if need be.

    Args:
        url: the run's folder.
        config: whose `report` and `router.usd_per_hour` count; all else is the run's own, as it
            was first started.
        overrides: `report.KEY=VALUE` or `router.usd_per_hour=VALUE`, before the config's.

    Raises:
        RunError: no run has begun in the folder, or it is that of a redrive.
        ConfigError: graded outcomes that are named are not there, or another key is overridden.
    """
    run = RunFolder(url)
    first = run.first_start()
    if first is None:
        raise RunError(f"{url}: no run has begun here (there is no config.json)")
    if "redrive" in first:
        raise RunError(f"{url} is a redrive of {first['redrive']['of']}: give that run's folder")
    own = RouteBatchConfig.model_validate(first["config"])
    config = _overridden(_shown_by(own, config or own), overrides)
    report = build(_inputs(run, first, config))
    title = config.report.title or f"Run {config.run.id}"
    run.write_report("report.json", to_json(report))
    run.write_report("report.parquet", _parquet(to_table(report)))
    page = run.write_report("report.html", render_html(report, title=title).encode())
    return Written(report, page)


def _shown_by(own: RouteBatchConfig, other: RouteBatchConfig) -> RouteBatchConfig:
    """A run's config with what another one says of the report."""
    usd_per_hour = other.router.usd_per_hour
    router = own.router.model_copy(update={"usd_per_hour": usd_per_hour})
    return own.model_copy(update={"report": other.report, "router": router})


def _overridden(config: RouteBatchConfig, overrides: Sequence[str]) -> RouteBatchConfig:
    for text in overrides:
        key = text.partition("=")[0].strip()
        if not key.startswith("report.") and key != "router.usd_per_hour":
            raise ConfigError(
                f"--set {key}: a report can change report.… and router.usd_per_hour; the rest is "
                "what the run was made with"
            )
    document = config.model_dump(mode="json")
    return override(RouteBatchConfig, document, overrides, where="the run's config")


def _inputs(run: RunFolder, first: dict[str, Any], config: RouteBatchConfig) -> ReportInputs:
    prices = _prices(first, config)
    merged = MergedRun(run)
    return ReportInputs(
        run_id=config.run.id,
        pool=tuple(config.pool),
        backlog=run.scanned_queries(),
        replay=_replay(config),
        decisions=merged.decisions,
        outcomes=merged.outcomes,
        expected=lambda outcomes: merged.decisions_on(outcomes, EXPECTED),
        dead_letters=merged.dead_letters,
        graded=_graded(config.report.graded_outcomes, config.run.id, config.pool, merged.decided),
        cost_usd=lambda model, lane, tokens_in, tokens_out: prices.cost_usd(
            model,
            lane if prices.has(model, lane) else "live",
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        ),
        prices=PriceFacts(prices.version, prices.as_of.isoformat(), prices.sources),
        policy=PolicyFacts(
            config.policy.willingness_to_pay,
            config.policy.quality_floor,
            config.policy.max_novelty,
        ),
        router=_router_facts(run, first, config),
        run=_run_facts(merged, first),
        domains=_domains(run),
        taught=first["router"].get("domain_queries", {}),  # early runs have not kept it
        shadow=_shadow(run),
        forecast=ForecastFacts(_expected_usd(merged.decided, config.pool)),
        plans=tuple(run.plans()),
    )


def _prices(first: dict[str, Any], config: RouteBatchConfig) -> PriceTable:
    """The prices that the run was made with.

    Raises:
        RunError: the run has not kept them, and they cannot be found again.
    """
    if "prices" in first:
        return PriceTable.from_document(first["prices"])
    models = load_catalog(config.catalog).models
    pool = [models[name] for name in config.pool]
    found = PriceTable.build(pool, as_of=date.fromisoformat(first["price_date"]))
    if found.version != first["identity"]["prices"]:
        raise RunError(
            f"{config.run.id}: the run did not keep its prices, and those of {found.as_of} are "
            "others by today's catalog and price list: put back what it was made with"
        )
    return found


def _replay(config: RouteBatchConfig) -> Replay | None:
    if config.replay is None:
        return None
    return "made_up" if config.replay.synthetic else "recorded"


def _router_facts(run: RunFolder, first: dict[str, Any], config: RouteBatchConfig) -> RouterFacts:
    seconds = (run.read_decisions(part, columns=["router_s"]) for part in run.decided_parts())
    worked_s = sum(pc.sum(table.column("router_s")).as_py() or 0.0 for table in seconds)
    # Early runs have not noted for how long their machines were held: at least while at work.
    held_s = sum(start.get("router_s", 0.0) for start in run.starts())
    return RouterFacts(
        version=first["router"]["version"],
        held_s=max(held_s, worked_s),
        worked_s=worked_s,
        usd_per_hour=config.router.usd_per_hour,
        best_constant=first["router"]["best_constant"],
        best_constant_why=first["router"]["best_constant_why"],
    )


def _domains(run: RunFolder) -> dict[str, int]:
    """Queries by their likeliest domain, of all parts that say so."""
    found: Counter[str] = Counter()
    for part in run.scored_parts():
        try:
            column = run.read_queries(part, columns=["domain"]).column("domain")
        except (KeyError, pa.ArrowInvalid):  # scored before domains were kept
            continue
        for one in pc.value_counts(column.drop_null()).to_pylist():
            found[one["values"]] += one["counts"]
    return dict(found)


def _shadow(run: RunFolder) -> ShadowFacts | None:
    folder = ShadowFolder(run.url)
    facts = folder.facts()
    if facts is None:
        return None

    def parts() -> Iterator[Shadowed]:
        for part in folder.parts():
            decisions = run.read_decisions(part, columns=["expected_grade", "expected_cost_usd"])
            yield Shadowed(decisions, folder.read(part))

    names = ("artifact", "version", "seconds", "failure")
    return ShadowFacts(**{name: facts[name] for name in names}, parts=parts)


def _run_facts(run: MergedRun, first: dict[str, Any]) -> RunFacts:
    starts = run.starts()
    over = [_is_over(one) for one in run.redrives]
    spans = sorted(
        (datetime.fromisoformat(one["from"]), datetime.fromisoformat(one["to"])) for one in starts
    )
    return RunFacts(
        started_at=datetime.fromisoformat(first["started_at"]),
        finished_at=datetime.fromisoformat(starts[-1]["to"] if starts else first["started_at"]),
        # Without the pauses between the starts of a run and its redrives.
        wall_s=sum((end - begin for begin, end in spans), timedelta()).total_seconds(),
        config_hash=first["identity"]["config"],
        git_commit=first["git_commit"],
        versions=tuple(first["versions"].items()),
        redrives=sum(over),
        redrive_open=not all(over),
        starts=tuple(spans),
    )


def _is_over(redrive: RunFolder) -> bool:
    """Whether all that it was to send has come to its end. Its manifest comes after the report."""
    if redrive.manifest() is not None:
        return True
    return redrive.selection() is not None and not redrive.open_pieces()


def _expected_usd(decisions: Tables, pool: Sequence[str]) -> Decimal:
    """What the decisions expected to pay."""
    expected_usd = 0.0
    for table in decisions():
        decided = table.filter(pc.is_valid(table.column("model")))
        costs = decided.column("expected_cost_usd").combine_chunks().flatten().to_numpy()
        chosen = pc.index_in(decided.column("model"), pa.array(pool)).to_numpy()
        rows = np.arange(decided.num_rows)
        expected_usd += float(costs.reshape(-1, len(pool))[rows, chosen].sum())
    return Decimal(f"{expected_usd:.6f}")


def _graded(
    path: str | None, run_id: str, pool: Sequence[str], decisions: Tables
) -> pa.Table | None:
    """The known grades of the pool's models on this run's queries. In an outcome table, whose ids
    are `RUN/ID`, they are those of this run's own answers.
    """
    if path is None:
        return None
    filesystem, name = filesystem_of(path)
    try:
        graded = pq.read_table(name, filesystem=filesystem, filters=[("model", "in", list(pool))])
    except FileNotFoundError:
        raise ConfigError(
            f"report.graded_outcomes: {path} is not there; correct it, or leave it out"
        ) from None
    graded = agree(one_grade_each(graded), GRADED_OUTCOMES, where=path)
    plain = pc.replace_substring_regex(
        graded.column("query_id"), pattern=f"^{re.escape(run_id)}/", replacement=""
    )
    graded = graded.set_column(0, GRADED_OUTCOMES.field("query_id"), plain)
    mine = np.zeros(graded.num_rows, bool)
    for table in decisions():
        mine |= pc.is_in(graded.column("query_id"), value_set=table.column("query_id")).to_numpy()
    return graded.filter(pa.array(mine))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
