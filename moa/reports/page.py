"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moa.bootstrap import Interval
from moa.reports import charts
from moa.reports.cost_report import CostReport

MINUS = "\N{MINUS SIGN}"

REMEDIES = {
    "query_id_missing": "give every row of the log an id",
    "prompt_missing": "give prompt or messages",
    "prompt_and_messages": "leave one of the two null",
    "request_malformed": "correct the row as its detail says",
    "query_id_seen_before": "give different requests different ids",
    "nobody_can": "add a model with the window and abilities to the pool, or allow more models",
    "context_exceeded": "add a model with a larger window to the pool",
    "invalid_request": "correct the request as the vendor's words say",
    "account_refused": "check the account's key, permissions and billing, then redrive",
    "rate_limited": "lower the model's limits in the catalog or wait for longer, then redrive",
    "vendor_failed": "redrive later, or allow more attempts",
    "budget_spent": "raise dispatch.budget_usd, then redrive",
}
"""What helps, by reason of a dead letter."""
RULES = {
    "best_value": "greatest willingness_to_pay times expected grade, less expected cost",
    "cheapest_above_floor": "cheapest model whose expected grade reaches the floor",
    "best_below_floor": "no model reaches the floor: greatest expected grade",
    "only_one_can": "only this model can take the query",
    "novel": "too unlike the training data to judge: the default model",
    "nobody_can": "no model can take the query",
    "defective": "the row is no request",
}
"""In words, by rule."""


def render_html(report: CostReport, *, title: str) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("moa.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        money=money,
        cents=cents,
        against=against,
        count=count,
        share=share,
        points=points,
        moment=moment,
        duration=duration,
    )
    figures = {
        "cost_and_grade": charts.cost_and_grade(report),
        "spend": charts.spend_by_model(report),
        "throughput": charts.throughput(report),
        "calibration": charts.calibration(report),
        "novelty": charts.novelty(report),
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        title=title,
        best=report.comparison(report.best_constant),
        hindsight=report.comparison(report.best_in_hindsight),
        figures=figures,
        tint=lambda model: charts.colour(report.pool, model),
        rules=RULES,
        remedies=REMEDIES,
    )


def money(usd: Decimal | float) -> str:
    """`$1,234.56`; below ten dollars four decimals, below a cent four digits that matter."""
    amount = Decimal(str(usd))
    sign, size = (MINUS if amount < 0 else ""), abs(amount)
    if size == 0:
        return "$0"
    if size < Decimal("0.01"):
        return f"{sign}${size:.{3 - size.adjusted()}f}"
    return f"{sign}${size:,.2f}" if size >= 10 else f"{sign}${size:,.4f}"


def cents(usd: Decimal) -> str:
    """As `money`, for what may be next to nothing: `below $0.01`."""
    return "below $0.01" if 0 < usd < Decimal("0.01") else money(usd)


def against(saving: Interval) -> Markup:
    """How this run compares in cost: `35.4 % cheaper`, or `10.2 times as dear`."""
    if saving.value >= 0:
        bounds = f"{share(saving.low)} to {share(saving.high)}"
        return Markup(f"{share(saving)} cheaper<br><small>{bounds}</small>")
    low, high = 1 - saving.high, 1 - saving.low
    return Markup(f"{1 - saving.value:.2f} times as dear<br><small>{low:.2f} to {high:.2f}</small>")


def count(number: int) -> str:
    """`1,234`."""
    return f"{number:,}"


def share(value: float | Interval) -> str:
    """`12.3 %`."""
    number = value.value if isinstance(value, Interval) else value
    return f"{number * 100:.1f} %".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of grades: `+0.012`."""
    return f"{value:+.3f}".replace("-", MINUS)


def moment(at: datetime) -> str:
    """`2026-11-24 03:00 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
