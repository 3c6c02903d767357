"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moa.bootstrap import Interval
from moa.reports import charts
from moa.reports.cost_report import CostReport
from moa.reports.wording import cents, count, duration, moment, money, points, share

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


def against(saving: Interval) -> Markup:
    """How this run compares in cost: `35.4 % cheaper`, or `10.2 times as dear`."""
    if saving.value >= 0:
        bounds = f"{share(saving.low)} to {share(saving.high)}"
        return Markup(f"{share(saving)} cheaper<br><small>{bounds}</small>")
    low, high = 1 - saving.high, 1 - saving.low
    return Markup(f"{1 - saving.value:.2f} times as dear<br><small>{low:.2f} to {high:.2f}</small>")
