"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from moa.reports import charts
from moa.reports.cost_report import CostReport
from moa.reports.drawing import colour
from moa.reports.drift_words import ACTIONS, drift_sentences
from moa.reports.exploration import explored_sentences
from moa.reports.inputs import PolicyFacts
from moa.reports.plan_verdict import plan_notes
from moa.reports.shadow import shadow_sentences
from moa.reports.verdict import astray, criterion, verdict, which_queries
from moa.reports.wording import (
    MINUS,
    amounts,
    answers,
    cents,
    cheaper,
    cheaper_bounds,
    count,
    duration,
    gain,
    moment,
    money,
    points,
    price,
    queries,
    share,
)

REMEDIES = {
    "query_id_missing": "give every row of the log an id",
    "prompt_missing": "give prompt or messages",
    "prompt_and_messages": "leave one of the two null",
    "request_malformed": "correct the row as its detail says",
    "query_id_seen_before": "give different requests different ids",
    "nobody_can": "redrive to a model of the catalog that can; add it to the pool for the next run",
    "context_exceeded": "redrive to a model with a larger window",
    "invalid_request": "correct the request as the vendor's words say",
    "account_refused": "check the account's key, permissions and billing, then redrive",
    "rate_limited": "lower the model's limits in the catalog or wait for longer, then redrive",
    "vendor_failed": "redrive later, or allow more attempts",
    "budget_spent": "raise dispatch.budget_usd, then redrive",
    "query_budget_spent": "raise dispatch.max_usd_per_query, then redrive",
    "fate_unknown": "redrive, at the price of perhaps paying a call twice",
    "lane_failed": "answer it in another run, with more time, or allow it to be bought live",
}
"""What helps, by reason of a dead letter."""


def render_html(report: CostReport, *, title: str) -> str:
    """The page."""
    page = (
        environment("moa.reports")
        .get_template("report.html.j2")
        .render(
            report=report,
            title=title,
            best=report.best,
            verdict=_unbroken(verdict(report)),
            astray=_unbroken(astray(report)),
            explored=_unbroken(
                explored_sentences(report.explored, report.policy.willingness_to_pay)
            ),
            drift=_unbroken(drift_sentences(report.drift)),
            shadow=_unbroken(shadow_sentences(report.shadow, report.policy.willingness_to_pay)),
            plan=report.planned,
            plan_notes=plan_notes(report),
            criterion=report.planned.aim if report.planned else criterion(report.policy),
            which_queries=which_queries(report),
            figures=charts.figures(report),
            tint=lambda model: colour(report.pool, model),
            actions=ACTIONS,
            rules=rules(report.policy),
            money=money,
            duration=duration,
            three_digits="{:.3f}".format,
            tags=by_prefix(report.tags),
            routes=by_rule(report.routes),
            remedies=REMEDIES,
        )
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def _unbroken(sentences: Sequence[str]) -> list[str]:
    """No line ends between a minus sign and its number."""
    return [one.replace(MINUS, f"{MINUS}\N{WORD JOINER}") for one in sentences]


def environment(package: str) -> Environment:
    """Renders the templates of a package, with the style and the wording of every page."""
    loaders = [PackageLoader(one, ".") for one in dict.fromkeys((package, "moa.reports"))]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        money=money,
        amounts=amounts,
        price=price,
        cents=cents,
        gain=gain,
        answers=answers,
        cheaper=cheaper,
        cheaper_bounds=cheaper_bounds,
        count=count,
        queries=queries,
        share=share,
        points=points,
        moment=moment,
        duration=duration,
    )
    return made


def rules(policy: PolicyFacts) -> dict[str, str]:
    """What each rule means, in words."""
    worth = price(policy.willingness_to_pay or Decimal(0))
    floor = f"{policy.quality_floor or 0:g}"
    return {
        "best_value": f"Best value: {worth} times the expected grade, less the expected cost",
        "cheapest_above_floor": f"The cheapest model expected to reach a grade of {floor}",
        "best_below_floor": f"No model is expected to reach {floor}: the best expected grade",
        "only_one_can": "Only one model can take the query",
        "novel": f"Too unlike the training data to judge (novelty above {policy.max_novelty:g}): "
        "the default model",
        "planned": "Planned: best for all queries together, within budget, limits and deadline",
        "explored": "Explored: drawn at random from the models that can take the query",
        "redrive": "A dead letter, sent again to the model that the redrive named",
        "nobody_can": "No model can take the query",
        "defective": "The row of the backlog is no request",
    }


def by_rule(
    routes: Sequence[tuple[str | None, str, int]],
) -> list[tuple[str, int, list[tuple[str | None, int]]]]:
    """Rule, its queries, and these by model; the rule with most queries first."""
    grouped: dict[str, list[tuple[str | None, int]]] = {}
    for model, rule, number in routes:
        grouped.setdefault(rule, []).append((model, number))
    summed = [(rule, sum(n for _, n in models), models) for rule, models in grouped.items()]
    return sorted(summed, key=lambda one: (-one[1], one[0]))


Models = tuple[tuple[str | None, int], ...]


def by_prefix(tags: Sequence[tuple[str, Models]]) -> list[tuple[str, list[tuple[str, Models]]]]:
    """Tags of the form `kind:value` under their kind, all others under `""`."""
    grouped: dict[str, list[tuple[str, Models]]] = {}
    for tag, models in tags:
        kind, colon, value = tag.partition(":")
        grouped.setdefault(kind if colon else "", []).append((value if colon else tag, models))
    return sorted(grouped.items())
