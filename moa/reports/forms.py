"""A report as JSON, as a table, and as a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal

import orjson
import pyarrow as pa

from moa.reports.cost_report import CostReport, Reason, Spend
from moa.reports.drift_words import drift_sentences
from moa.reports.exploration import explored_sentences
from moa.reports.plan_verdict import plan_sentences
from moa.reports.shadow import shadow_sentences
from moa.reports.verdict import astray, verdict
from moa.reports.wording import amounts, cents, counted, money, queries
from moa.schema import COST_REPORT


def to_json(report: CostReport) -> bytes:
    """The whole report; money as decimal text."""
    return orjson.dumps(asdict(report), default=_plain, option=orjson.OPT_INDENT_2)


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(type(value).__name__)


def to_table(report: CostReport) -> pa.Table:
    """`COST_REPORT`: the bill by model and lane, for those who add up many runs.

    Calls are those for the queries that a model answered: after a fallback, other models' too.
    """
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
            "lost_answers": one.sums.lost_answers,
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
    bill = amounts([one.sums.cost_usd for one in report.spend])
    return [
        *_unfinished(report),
        f"{queries(report.queries)}: {report.answered:,} answered, {report.refused:,} refused, "
        f"{counted(report.dead_letters, 'dead letter')}; {counted(report.calls, 'call')} in "
        f"{report.run.wall_s:,.1f} s",
        f"spent {money(report.cost_usd)}{' at list prices' if report.replayed else ''} (forecast "
        f"{_forecast(report)}), and {cents(report.router_cost_usd)} for the router's machine",
        *(
            f"  {_bought(report, one):30} {queries(one.sums.queries):>18} {usd:>14}"
            for one, usd in zip(report.spend, bill, strict=True)
        ),
        *plan_sentences(report),
        *_paragraph(astray(report)),
        *_paragraph(explored_sentences(report.explored, report.policy.willingness_to_pay)),
        *_paragraph(drift_sentences(report.drift)[:1]),
        *_paragraph(shadow_sentences(report.shadow, report.policy.willingness_to_pay)),
        *(f"dead letters: {one.queries:,} {one.reason}{_example(one)}" for one in report.reasons),
        *verdict(report),
        *(["replayed: no vendor was called, nothing was paid"] if report.replayed else []),
    ]


def _paragraph(sentences: Sequence[str]) -> list[str]:
    return [" ".join(sentences)] if sentences else []


def _bought(report: CostReport, one: Spend) -> str:
    """The model, with the lane where there is more than one."""
    several = len({spend.lane for spend in report.spend if spend.model}) > 1
    return f"{one.model or 'no answer'}{f' {one.lane}' * (several and one.lane is not None)}"


def _example(reason: Reason) -> str:
    """The detail of one dead letter: others of the same reason may have other details."""
    if not reason.detail:
        return ""
    return f"{', for instance' if reason.queries > 1 else ''}: {reason.detail}"


def _forecast(report: CostReport) -> str:
    if report.planned is not None:  # what decisions expect is at the live lane's prices
        return money(report.planned.cost_usd.expected)
    whole = money(report.forecast.cost_usd)
    if not report.dead_letters:
        return whole
    return f"{whole}, of these {money(report.answers_forecast_usd)} for what was answered"


def _unfinished(report: CostReport) -> list[str]:
    lines = []
    if report.ended < report.backlog:
        lines.append(f"UNFINISHED: {report.ended:,} of {report.backlog:,} queries have ended")
    if report.run.redrive_open:
        lines.append("UNFINISHED: a redrive is open; its answers are partly not in the bill")
    return lines
