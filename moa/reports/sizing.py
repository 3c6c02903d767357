"""What was reckoned of a job that is sized, as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from moa.planning.bottlenecks import Bound, Help
from moa.planning.ending import Interval
from moa.planning.sizing import Case, Costs, budget_used, costs, end, held, loads, spans
from moa.reports.wording import count, duration, money

MOST_HELPS = 3
"""That the table shows."""
LEAST_PERCENT = 0.01
"""That is told as a number."""
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000


class ModelCost(NamedTuple):
    """What one call costs, of a mean query."""

    model: str
    input_tokens: float
    output_tokens: float
    live_usd: float
    batch_usd: float | None
    """`None`: it is not sold so."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A number of queries, and what was found of it."""

    case: Case
    bounds: Sequence[Bound]
    binds: Sequence[str]
    helps: Sequence[Help]
    saved_in_batches_usd: float
    """What live calls would cost less in batches, of models that are sold so."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """All that is found of a job."""

    source: str
    """How it is known who is given what, as a phrase."""
    prices_of: str
    """Day of the prices."""
    sized: Sequence[Sized]
    pass_tokens: float
    """What the router reads of a mean query."""
    pass_usd: float
    """What its machine costs for that."""
    calls: Sequence[ModelCost]
    """Pool order."""


def document(sizing: Sizing) -> dict[str, Any]:
    """All of it as JSON holds it: USD, seconds, bytes."""
    return {
        "source": sizing.source,
        "prices_of": sizing.prices_of,
        "sizes": [_document(one) for one in sizing.sized],
        "router_pass": {"tokens": sizing.pass_tokens, "usd": sizing.pass_usd},
        "calls": [one._asdict() for one in sizing.calls],
    }


def _document(sized: Sized) -> dict[str, Any]:
    case = sized.case
    one, usd, machines = spans(case), costs(case), case.machines
    return {
        "queries": case.queries,
        "ends_in_s": asdict(end(case)),
        "spans_s": {**one._asdict(), "calls": asdict(one.calls)},
        "cost_usd": {**usd._asdict(), "calls": asdict(usd.calls), "all": usd.all},
        "budget": {"usd": case.usd, "used_usd": budget_used(case)},
        "deadline_s": case.seconds,
        "machines": {
            "router_replicas": machines.router_replicas,
            "dispatch_replicas": machines.dispatch_replicas,
            "task_cpus": machines.task_cpus,
            "cpus": machines.cpus,
        },
        "accounts": [load._asdict() for load in loads(case)],
        "options": list(_options(case)),
        "binds": list(sized.binds),
        "bounds": [bound._asdict() for bound in sized.bounds],
        "helps": [one._asdict() for one in sized.helps],
        "saved_in_batches_usd": sized.saved_in_batches_usd,
        **held(case)._asdict(),
    }


def _options(case: Case) -> Iterator[dict[str, Any]]:
    totals = case.totals
    for number, model in enumerate(case.models):
        for column, lane in enumerate(case.lanes):
            if totals.queries[number, column]:
                yield {
                    "model": model.id,
                    "lane": lane,
                    "queries": float(totals.queries[number, column]),
                    "input_tokens": float(totals.input_tokens[number, column]),
                    "output_tokens": float(totals.output_tokens[number, column]),
                    "cost_usd": float(totals.usd[number, column]),
                }


def tables(sizing: Sizing) -> list[str]:
    """Two tables, in Markdown: a column for each number of queries, and what one query costs."""
    return [*_sizes(sizing), "", *_one_query(sizing)]


def _sizes(sizing: Sizing) -> list[str]:
    heads = ["", *(f"{count(one.case.queries)} queries" for one in sizing.sized)]
    rows = [[name, *(tell(one) for one in sizing.sized)] for name, tell in _ROWS]
    told = (row for row in rows if any(row[1:]))
    return _markdown([heads, *told])


def _one_query(sizing: Sizing) -> list[str]:
    heads = ["one query", "tokens in, out", "live", "in a batch", "router's part of a live call"]
    router = ["the router reads it", f"{sizing.pass_tokens:,.0f}", money(sizing.pass_usd), "", ""]
    rows = [
        [
            one.model,
            f"{one.input_tokens:,.0f}, {one.output_tokens:,.0f}",
            money(one.live_usd),
            "" if one.batch_usd is None else money(one.batch_usd),
            _part(sizing.pass_usd, one.live_usd),
        ]
        for one in sizing.calls
    ]
    return _markdown([heads, router, *rows])


def _part(usd: float, of_usd: float) -> str:
    if not of_usd:
        return "it is free"
    percent = usd / of_usd * 100
    return f"{percent:.2g} %" if percent >= LEAST_PERCENT or not usd else f"< {LEAST_PERCENT:g} %"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, so that it can be read as it is."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _ends(sized: Sized) -> str:
    return _between(end(sized.case), duration)


def _between(one: Interval, tell: Callable[[float], str]) -> str:
    return f"{tell(one.expected)} ({tell(one.low)} to {tell(one.high)})"


def _deadline(sized: Sized) -> str:
    seconds = sized.case.seconds
    return "" if seconds is None else duration(seconds)


def _span(name: str, sized: Sized) -> str:
    seconds = getattr(spans(sized.case), name)
    return duration(seconds) if seconds else "0 s"


def _binds(sized: Sized) -> str:
    return ", ".join(sized.binds) or "nothing"


def _helps(sized: Sized) -> str:
    some = sized.helps[:MOST_HELPS]
    return "; ".join(f"{one.name}: {duration(one.saves_s)} sooner" for one in some) or "nothing"


def _usd(tell: Callable[[Costs], float], sized: Sized) -> str:
    return money(tell(costs(sized.case)))


def _budget(sized: Sized) -> str:
    usd, used = sized.case.usd, budget_used(sized.case)
    if usd is None:
        return ""
    short = used - usd
    return money(usd) + (f": {money(short)} short" if short > 0 else ", enough")


def _saved(sized: Sized) -> str:
    return money(sized.saved_in_batches_usd) if sized.saved_in_batches_usd > 0 else ""


def _accounts(name: str, sized: Sized) -> str:
    return ", ".join(f"{load.account} {getattr(load, name):,.0f}" for load in loads(sized.case))


def _bytes(size: float) -> str:
    power = 0
    while size >= _STEP and power < len(_UNITS) - 1:
        size, power = size / _STEP, power + 1
    return f"{size:.3g} {_UNITS[power]}"


_ROWS: tuple[tuple[str, Callable[[Sized], str]], ...] = (
    ("ends after", _ends),
    ("deadline", _deadline),
    ("of that: start", partial(_span, "start")),
    ("scan, score, decide", partial(_span, "score")),
    ("plan", partial(_span, "plan")),
    ("calls", lambda one: duration(spans(one.case).calls.expected)),
    ("report", partial(_span, "report")),
    ("what binds", _binds),
    ("with twice as much", _helps),
    ("router replicas", lambda one: count(one.case.machines.router_replicas)),
    ("dispatch replicas", lambda one: count(one.case.machines.dispatch_replicas)),
    ("CPUs beside the router", lambda one: f"{one.case.machines.cpus:,.0f}"),
    ("calls a minute", partial(_accounts, "calls_per_minute")),
    ("calls at once, by Little's law", partial(_accounts, "calls_at_once")),
    ("calls cost", lambda one: _between(costs(one.case).calls, money)),
    ("router's machines", partial(_usd, lambda usd: usd.router)),
    ("CPUs", partial(_usd, lambda usd: usd.cpus)),
    ("all of it", partial(_usd, lambda usd: usd.all)),
    ("a query", lambda one: money(costs(one.case).all / one.case.queries)),
    ("budget", _budget),
    ("live calls in batches would save", _saved),
    ("files of the run", lambda one: count(held(one.case).files)),
    ("driver holds", lambda one: _bytes(held(one.case).driver_bytes)),
)
