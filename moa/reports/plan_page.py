"""A plan for people: lines for a terminal, and one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial

from matplotlib.figure import Figure

from moa.planning.ending import Interval
from moa.planning.forecast import Forecast, OptionForecast
from moa.reports.drawing import (
    INK,
    MOST_TICKS,
    NARROW,
    OURS,
    WIDE,
    axes_of,
    both,
    colour,
    money_axis,
)
from moa.reports.labels import Label, place
from moa.reports.page import environment
from moa.reports.plan_words import (
    Plan,
    aim,
    amount,
    best_by,
    binding,
    ends,
    ends_at,
    steps_of,
    used_of,
    what_more_buys,
)
from moa.reports.wording import amounts, cents, duration, moment, money, queries

WITHIN = "what nine of ten backlogs stay within, of kinds of queries that the router was taught."


def plan_text(document: Plan) -> list[str]:
    """What a terminal is told of a plan."""
    told = Forecast.from_document(document["forecast"])
    left = "" if document["usd"] is None else f"; {money(document['usd'])} are left for it"
    return [
        f"plan for {queries(document['queries'])}, made {_made(document)}",
        f"  {aim(document)}",
        f"  cost   {_interval(told.cost_usd, money)}{left}",
        f"         the router's machine has cost {cents(told.router_usd)} besides",
        f"  grade  {_interval(told.grade, '{:.3f}'.format)}",
        f"  end    {ends(document)}{_deadline(document)}",
        f"  In brackets: {WITHIN}",
        *_rows(told),
        *_bounds(document),
        best_by(document),
        *_budgets(document),
    ]


def plan_page(document: Plan) -> str:
    """The page."""
    told = Forecast.from_document(document["forecast"])
    made = environment("moa.reports")
    made.filters.update(interval=_interval, amount=amount, used_of=used_of)
    page = made.get_template("plan.html.j2").render(
        plan=document,
        told=told,
        usd=amounts(_usd([*(row.cost_usd for row in told.rows), told.cost_usd.expected])),
        budgets=amounts(_usd([point["usd"] for point in document["frontier"]])),
        steps=[steps_of(point["right_answers_per_usd"]) for point in document["frontier"]],
        created_at=datetime.fromisoformat(document["created_at"]),
        ends_at=ends_at(document),
        deadline=_deadline(document),
        aim=aim(document),
        best_by=best_by(document),
        within=WITHIN,
        binding=binding(document),
        buys=what_more_buys(document),
        figure_of_frontier=both(partial(_figure, document)),
        tint=lambda model: colour(document["models"], model),
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def _interval(one: Interval, form: Callable[[float], str]) -> str:
    """`$2.34 ($2.10 to $2.60)`."""
    return f"{form(one.expected)} ({form(one.low)} to {form(one.high)})"


def _usd(column: Iterable[float]) -> list[Decimal]:
    return [Decimal(str(usd)) for usd in column]


def _made(document: Plan) -> str:
    again = ", in the middle of the run" if document["again"] else ""
    return moment(datetime.fromisoformat(document["created_at"])) + again


def _deadline(document: Plan) -> str:
    """What the end is measured against."""
    if document["finish_by"] is None:
        return "; no deadline"
    return f"; to finish by {moment(datetime.fromisoformat(document['finish_by']))}"


def _rows(told: Forecast) -> list[str]:
    usd = amounts(_usd([row.cost_usd for row in told.rows]))
    head = (
        f"  {'model':30} {'lane':6} {'queries':>12} {'input tokens':>15} {'output tokens':>15}"
        f" {'USD':>14}  live calls take"
    )
    return [
        head,
        *(
            f"  {_row(row)} {cost:>14}  {_live(row)}"
            for row, cost in zip(told.rows, usd, strict=True)
        ),
    ]


def _row(row: OptionForecast) -> str:
    return (
        f"{row.model:30} {row.lane:6} {row.calls:>12,} {row.input_tokens:>15,} "
        f"{row.output_tokens:>15,}"
    )


def _live(row: OptionForecast) -> str:
    return duration(row.live_s) if row.live_s else ""


def _bounds(document: Plan) -> list[str]:
    """What binds, and what more of it would buy."""
    limits = binding(document)
    if not limits:
        return ["nothing binds: no limit, no budget and no deadline changes what is best"]
    return [
        "what binds:",
        *(
            f"  {one['name']}: {amount(one['measure'], one['used'])} of "
            f"{amount(one['measure'], one['limit'])}"
            for one in limits
        ),
        *(f"  {sentence}" for sentence in what_more_buys(document)),
    ]


def _budgets(document: Plan) -> list[str]:
    points = document["frontier"]
    if len(points) < 2:
        return []
    usd = amounts(_usd([point["usd"] for point in points]))
    return [
        "what other budgets would buy, within the same limits:",
        f"  {'USD':>14} {'mean grade':>10}  one more dollar buys",
        *(
            f"  {cost:>14} {point['grade']:>10.3f}  {steps_of(point['right_answers_per_usd'])}"
            for cost, point in zip(usd, points, strict=True)
        ),
    ]


def _figure(document: Plan, wide: bool) -> Figure | None:
    """Expected grade against budget, with this plan; `None` where there is no choice."""
    points = document["frontier"]
    if len(points) < 2:
        return None
    figure, axes = axes_of(WIDE if wide else NARROW, 4.0 if wide else 3.6)
    told = Forecast.from_document(document["forecast"])
    ours = told.cost_usd.expected
    x, y = [point["usd"] for point in points], [point["grade"] for point in points]
    axes.plot(x, y, "o-", color=OURS, ms=4, lw=1.6)
    axes.plot([ours], [told.grade.expected], "D", ms=10, color=OURS)
    logarithmic = min(*x, ours) > 0
    if logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.12)
    lines = []
    if document["usd"] is not None and document["usd"] <= 1.5 * max(*x, ours):
        axes.axvline(document["usd"], ls="--", color=INK, lw=1)
        lines = [(document["usd"], *axes.get_ylim())]
    if logarithmic:
        money_axis(axes, MOST_TICKS[wide])
    axes.set_xlabel(f"USD for the calls of the whole backlog{', logarithmic' * logarithmic}")
    axes.set_ylabel("expected mean grade")
    label = Label("this plan", ours, told.grade.expected, OURS, bold=True)
    place(figure, axes, [label], size=9, bars=[*lines, *_line(x, y)])
    return figure


def _line(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float, float]]:
    """What of a curve a name should not hide, as bars."""
    return [(at, low, high) for at, low, high in zip(x[1:], y[:-1], y[1:], strict=True)]
