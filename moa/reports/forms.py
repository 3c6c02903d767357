"""A report as JSON, as a table, and as a few lines for a terminal."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal

import orjson
import pyarrow as pa

from moa.bootstrap import Interval
from moa.reports.cost_report import CostReport
from moa.reports.wording import cents, money, points, share
from moa.schema import COST_REPORT


def to_json(report: CostReport) -> bytes:
    """The whole report; money as decimal text."""
    return orjson.dumps(asdict(report), default=_plain, option=orjson.OPT_INDENT_2)


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(type(value).__name__)


def to_table(report: CostReport) -> pa.Table:
    """`COST_REPORT`: the bill by model and lane, for those who add up many runs."""
    rows = [
        {
            "run_id": report.run_id,
            "finished_at": report.run.finished_at,
            "model": one.model,
            "lane": one.lane,
            "queries": one.sums.queries,
            "answered": one.sums.answered,
            "refused": one.sums.refused,
            "shared": one.sums.shared,
            "calls": one.sums.attempts,
            "unknown_calls": one.sums.unknown_calls,
            "input_tokens": one.sums.input_tokens,
            "cached_input_tokens": one.sums.cached_input_tokens,
            "cache_write_tokens": one.sums.cache_write_tokens,
            "output_tokens": one.sums.output_tokens,
            "reasoning_tokens": one.sums.reasoning_tokens,
            "cost_usd": one.sums.cost_usd,
            "price_version": report.prices.version,
            "router_version": report.router.version,
        }
        for one in report.spend
    ]
    return pa.Table.from_pylist(rows, schema=COST_REPORT)


def summary_lines(report: CostReport) -> list[str]:
    """What a terminal is told."""
    lines = [
        f"{report.queries:,} queries: {report.answered:,} answered, {report.refused:,} refused, "
        f"{report.dead_letters:,} dead letters; {report.calls:,} calls in "
        f"{report.run.wall_s:,.1f} s",
        f"spent {money(report.cost_usd)} (forecast {money(report.forecast.cost_usd)}), and "
        f"{cents(report.router_cost_usd)} for the router's machine",
    ]
    lines += [
        f"  {one.model or 'no answer':30} {one.sums.queries:>10,} queries "
        f"{money(one.sums.cost_usd):>14}"
        for one in report.spend
    ]
    best = report.comparison(report.best_constant)
    if best is not None and report.net_saving is not None:
        lines.append(
            f"best single model {best.model}: {money(best.cost_usd)} on the same queries; net "
            f"saving {_share(report.net_saving)}"
        )
        if best.grade and best.our_grade and best.grade_difference:
            lines.append(
                f"grade {best.our_grade.value:.3f} against its {best.grade.value:.3f}: difference "
                f"{_signed(best.grade_difference)}"
            )
    return lines


def _share(one: Interval) -> str:
    return f"{share(one)} (95 % interval {share(one.low)} to {share(one.high)})"


def _signed(one: Interval) -> str:
    return f"{points(one.value)} ({points(one.low)} to {points(one.high)})"
